//! The text of a schedule.

use super::calendar::{Calendar, Dates, TimeOfDay};
use super::every::{DurationError, parse_duration};
use super::field::{DAY_OF_MONTH, DAY_OF_WEEK, Field, FieldError, HOUR, MINUTE, MONTH, SECOND};
use super::set::Set;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use thiserror::Error;

const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Why a text is no schedule, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Nothing but blanks.
    #[error(
        "the schedule is empty: write minute, hour, day of month, month and day of week, such as \"0 * * * *\""
    )]
    Empty,
    /// A character that no schedule has.
    #[error("the schedule contains {0:?}: write it in plain ASCII characters")]
    NotAscii(char),
    /// `TZ=` or `CRON_TZ=` in front.
    #[error("the schedule contains a time zone, {0:?}: take it out and use the timeZone field")]
    TimeZone(String),
    /// Too few or too many fields.
    #[error(
        "the schedule {text:?} has {found} fields: write five (minute, hour, day of month, month, day of week), \
         six with seconds in front, or a macro such as @hourly"
    )]
    FieldCount {
        /// The schedule.
        text: String,
        /// Number of fields.
        found: usize,
    },
    /// A word behind `@` that is no macro.
    #[error(
        "unknown macro {0:?}: write @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly or @every with a \
         duration"
    )]
    Macro(String),
    /// The duration of `@every`.
    #[error("the duration {text:?} of @every {error}")]
    Duration {
        /// The duration as given.
        text: String,
        /// What is wrong with it.
        error: DurationError,
    },
    /// One of the fields.
    #[error("{field} field {text:?}: {part:?} {error}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// The field as given.
        text: String,
        /// The part of it that is wrong.
        part: String,
        /// What is wrong with it.
        error: FieldError,
    },
    /// None of the months has any of the days.
    #[error(
        "day-of-month {day:?} never comes in month {month:?}: choose a day that one of these months has"
    )]
    NeverFires {
        /// The day-of-month field as given.
        day: String,
        /// The month field as given.
        month: String,
    },
    /// The enumerator of dates refuses what was understood. This is a defect, not a mistake of the user.
    #[error(
        "the schedule {text:?} is valid but could not be prepared ({reason}): please report it"
    )]
    Calendar {
        /// The schedule.
        text: String,
        /// What the enumerator said.
        reason: String,
    },
}

/// A parsed schedule expression. Two that mean the same are equal, however they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub(super) kind: Kind,
    /// The one text of this meaning. Brokers store it: releases must not change it.
    canonical: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `@every`, in seconds.
    Every(i64),
    /// Local times.
    Calendar(Calendar),
}

impl Schedule {
    /// The meaning as text, the same for all ways to write it.
    pub(super) fn canonical(&self) -> &str {
        &self.canonical
    }
}

/// Equal meanings have one text.
impl Hash for Schedule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

impl FromStr for Schedule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(character) = text.chars().find(|character| !character.is_ascii()) {
            return Err(ParseError::NotAscii(character));
        }
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if let Some(word) = words.iter().find(|word| word.contains("TZ=")) {
            return Err(ParseError::TimeZone((*word).into()));
        }
        match words[..] {
            [] => Err(ParseError::Empty),
            ["@every", ref duration @ ..] => every(&duration.join(" ")),
            [word] if word.starts_with('@') => {
                match MACROS.iter().find(|(name, _)| *name == word) {
                    Some((_, expression)) => expression.parse(),
                    None => Err(ParseError::Macro(word.into())),
                }
            }
            [minute, hour, day, month, weekday] => {
                cron(text, ["0", minute, hour, day, month, weekday])
            }
            [second, minute, hour, day, month, weekday] => {
                cron(text, [second, minute, hour, day, month, weekday])
            }
            _ => Err(ParseError::FieldCount {
                text: text.into(),
                found: words.len(),
            }),
        }
    }
}

fn every(duration: &str) -> Result<Schedule, ParseError> {
    let seconds = parse_duration(duration).map_err(|error| ParseError::Duration {
        text: duration.into(),
        error,
    })?;
    Ok(Schedule {
        kind: Kind::Every(seconds),
        canonical: format!("@every {seconds}s"),
    })
}

fn cron(text: &str, fields: [&str; 6]) -> Result<Schedule, ParseError> {
    let [
        second_text,
        minute_text,
        hour_text,
        day_text,
        month_text,
        weekday_text,
    ] = fields;
    let (second, _) = parse_field(&SECOND, second_text)?;
    let (minute, _) = parse_field(&MINUTE, minute_text)?;
    let (hour, _) = parse_field(&HOUR, hour_text)?;
    let (day, any_day) = parse_field(&DAY_OF_MONTH, day_text)?;
    let (month, _) = parse_field(&MONTH, month_text)?;
    let (both, weekday_text) = match weekday_text.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, weekday_text),
    };
    let (weekday, any_weekday) = parse_field(&DAY_OF_WEEK, weekday_text)?;

    // With one of the two open to every day, "either" is every day and "both" is the other one.
    let (all_days, all_weekdays) = (DAY_OF_MONTH.all(), DAY_OF_WEEK.all());
    let either = !(both || any_day || any_weekday);
    let every_day = either && (day == all_days || weekday == all_weekdays);
    let (day, weekday, either) = if every_day {
        (all_days, all_weekdays, false)
    } else {
        (day, weekday, either)
    };

    if !either
        && !month
            .iter()
            .any(|month| day.iter().any(|day| day <= days_in(month)))
    {
        return Err(ParseError::NeverFires {
            day: day_text.into(),
            month: month_text.into(),
        });
    }
    let dates = Dates::new(day, month, weekday, either).map_err(|error| ParseError::Calendar {
        text: text.into(),
        reason: error.to_string(),
    })?;
    // cronie's rule: such a schedule means "every so often", any other one means "at these local times".
    let elapsed = minute_text.starts_with(['*', '?']) || hour_text.starts_with(['*', '?']);
    let canonical = format!(
        "{second} {minute} {hour} {day} {month} {weekday} {} {}",
        if either { "either" } else { "both" },
        if elapsed { "elapsed" } else { "local" },
    );
    let calendar = Calendar {
        dates,
        time: TimeOfDay {
            second,
            minute,
            hour,
        },
        elapsed,
    };
    Ok(Schedule {
        kind: Kind::Calendar(calendar),
        canonical,
    })
}

fn parse_field(field: &Field, text: &str) -> Result<(Set, bool), ParseError> {
    field
        .parse(text)
        .map_err(|(part, error)| ParseError::Field {
            field: field.name,
            text: text.into(),
            part: part.into(),
            error,
        })
}

/// The most days that a month has.
fn days_in(month: u32) -> u32 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests;
