//! One field of a cron expression: lists, ranges, steps and names.

use super::set::Set;
use thiserror::Error;

/// What a field may hold.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    low: u32,
    high: u32,
    /// Names in order of their numbers; the first one stands for `low`.
    names: &'static [&'static str],
    /// What to write in this field, for messages.
    usage: &'static str,
}

pub(super) static SECOND: Field = Field {
    name: "second",
    low: 0,
    high: 59,
    names: &[],
    usage: "0-59",
};
pub(super) static MINUTE: Field = Field {
    name: "minute",
    low: 0,
    high: 59,
    names: &[],
    usage: "0-59",
};
pub(super) static HOUR: Field = Field {
    name: "hour",
    low: 0,
    high: 23,
    names: &[],
    usage: "0-23",
};
pub(super) static DAY_OF_MONTH: Field = Field {
    name: "day-of-month",
    low: 1,
    high: 31,
    names: &[],
    usage: "1-31",
};
pub(super) static MONTH: Field = Field {
    name: "month",
    low: 1,
    high: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
    usage: "1-12 or JAN-DEC",
};
pub(super) static DAY_OF_WEEK: Field = Field {
    name: "day-of-week",
    low: 0,
    high: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    usage: "0-6 or SUN-SAT, where Sunday is 0",
};

/// What is wrong with a part of a field, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FieldError {
    /// Two commas side by side, or one at an end.
    #[error("has an empty part; take the superfluous comma away")]
    EmptyPart,
    /// `*-5`.
    #[error("is a range that begins with a star; write * alone, or both ends as numbers")]
    StarRange,
    /// More than one `-`, or more than one `/`.
    #[error(
        "is not understood; a part is a number, a range a-b, or one of these with a step: */n, a/n, a-b/n"
    )]
    Shape,
    /// A `+` that is not at the beginning of the day-of-week field.
    #[error(
        "has a + in it; + may stand only in front of the whole day-of-week field, as in \"0 9 1-7 * +MON\""
    )]
    Plus,
    /// Neither a number nor a name of this field.
    #[error("is neither a number nor a name; write {0}")]
    Unknown(&'static str),
    /// Outside of what the field allows.
    #[error("is out of range; write {0}")]
    OutOfRange(&'static str),
    /// The end of a range comes before its beginning.
    #[error("is a range that runs backwards; write it as two: {0}")]
    Reversed(String),
    /// A step that is no positive number.
    #[error("has a step that is not a whole number from 1 on; write for example */5")]
    Step,
}

impl Field {
    /// The whole field.
    pub(crate) fn all(&self) -> Set {
        Set::range(self.low, self.high, 1)
    }

    /// The numbers that `text` selects, and whether it counts as a star for the day rule.
    ///
    /// The error comes with the part that it is about.
    pub(crate) fn parse<'a>(&self, text: &'a str) -> Result<(Set, bool), (&'a str, FieldError)> {
        let mut selected = Set::default();
        let mut star = false;
        for part in text.split(',') {
            if part.is_empty() {
                return Err((text, FieldError::EmptyPart));
            }
            let (set, is_star) = self.parse_part(part).map_err(|error| (part, error))?;
            selected = selected.union(set);
            star |= is_star;
        }
        Ok((selected, star))
    }

    fn parse_part(&self, part: &str) -> Result<(Set, bool), FieldError> {
        if part.contains('+') {
            return Err(FieldError::Plus);
        }
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(parse_step(step)?)),
            None => (part, None),
        };
        let (low, high, star) = match range.split_once('-') {
            Some((first, _)) if is_star(first) => return Err(FieldError::StarRange),
            Some((first, last)) => {
                let (low, high) = (self.number(first)?, self.number(last)?);
                if low > high {
                    let wrapped = format!("{first}-{},{}-{last}", self.high, self.low);
                    return Err(FieldError::Reversed(wrapped));
                }
                (low, high, false)
            }
            // The rule of robfig/cron: `*/1` is a star, `*/2` is a restriction.
            None if is_star(range) => (self.low, self.high, step.is_none_or(|step| step == 1)),
            None => {
                let low = self.number(range)?;
                (low, if step.is_some() { self.high } else { low }, false)
            }
        };
        Ok((Set::range(low, high, step.unwrap_or(1)), star))
    }

    fn number(&self, text: &str) -> Result<u32, FieldError> {
        if let Some(index) = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
        {
            return Ok(self.low + index as u32);
        }
        if text.is_empty() || text.contains('-') {
            return Err(FieldError::Shape);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FieldError::Unknown(self.usage));
        }
        match text.parse() {
            Ok(number) if (self.low..=self.high).contains(&number) => Ok(number),
            _ => Err(FieldError::OutOfRange(self.usage)),
        }
    }
}

fn is_star(text: &str) -> bool {
    matches!(text, "*" | "?")
}

fn parse_step(text: &str) -> Result<usize, FieldError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FieldError::Step);
    }
    // A step that is longer than the field is allowed, as in CronJob: it selects the first number only.
    match text.parse().unwrap_or(usize::MAX) {
        0 => Err(FieldError::Step),
        step => Ok(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(field: &Field, text: &str) -> (String, bool) {
        let (set, star) = field.parse(text).unwrap();
        (set.to_string(), star)
    }

    #[test]
    fn ranges_steps_lists_and_names_select_numbers() {
        for (field, text, selected) in [
            (&MINUTE, "5", "5"),
            (&MINUTE, "005", "5"),
            (&MINUTE, "1-3", "1-3"),
            (&MINUTE, "3-3", "3"),
            (&MINUTE, "*/20", "0,20,40"),
            (&MINUTE, "7/20", "7,27,47"),
            (&MINUTE, "10-50/20", "10,30,50"),
            (&MINUTE, "*/99999999999999999999999", "0"),
            (&MINUTE, "59,0,1", "0-1,59"),
            (&HOUR, "22/1", "22-23"),
            (&DAY_OF_MONTH, "*/10", "1,11,21,31"),
            (&MONTH, "jan,MAR-Apr,12", "1,3-4,12"),
            (&DAY_OF_WEEK, "SUN,fri-SAT", "0,5-6"),
        ] {
            assert_eq!(parsed(field, text), (selected.into(), false), "{text}");
        }
    }

    #[test]
    fn a_star_without_a_real_step_is_a_star() {
        for text in ["*", "?", "*/1", "?/1", "*,5", "5,*"] {
            assert_eq!(parsed(&DAY_OF_MONTH, text), ("1-31".into(), true), "{text}");
        }
        for text in ["1-31", "1/1", "1-15,16-31", "*/2,*/3,*/2"] {
            assert!(!parsed(&DAY_OF_MONTH, text).1, "{text}");
        }
    }

    #[test]
    fn a_wrong_part_is_named_with_what_to_write_instead() {
        for (field, text, part, message) in [
            (&MINUTE, "1,,2", "1,,2", "empty part"),
            (&MINUTE, ",", ",", "empty part"),
            (&MINUTE, "1,", "1,", "empty part"),
            (&MINUTE, "1,*-5", "*-5", "begins with a star"),
            (&MINUTE, "?-5/2", "?-5/2", "begins with a star"),
            (&MINUTE, "1-2-3", "1-2-3", "is not understood"),
            (&MINUTE, "-5", "-5", "is not understood"),
            (&MINUTE, "5-", "5-", "is not understood"),
            (&MINUTE, "/5", "/5", "is not understood"),
            (
                &MINUTE,
                "*5",
                "*5",
                "is neither a number nor a name; write 0-59",
            ),
            (&MINUTE, "60", "60", "is out of range; write 0-59"),
            (
                &MINUTE,
                "99999999999999999999",
                "99999999999999999999",
                "out of range",
            ),
            (&MINUTE, "1/0", "1/0", "has a step"),
            (&MINUTE, "1/", "1/", "has a step"),
            (&MINUTE, "1/2/3", "1/2/3", "has a step"),
            (&MINUTE, "*/-1", "*/-1", "has a step"),
            (&MINUTE, "+5", "+5", "day-of-week"),
            (&HOUR, "24", "24", "write 0-23"),
            (&HOUR, "22-2", "22-2", "write it as two: 22-23,0-2"),
            (&DAY_OF_MONTH, "0", "0", "write 1-31"),
            (&DAY_OF_MONTH, "L", "L", "write 1-31"),
            (&MONTH, "13", "13", "write 1-12 or JAN-DEC"),
            (&MONTH, "mon", "mon", "write 1-12 or JAN-DEC"),
            (&DAY_OF_WEEK, "7", "7", "Sunday is 0"),
            (&DAY_OF_WEEK, "5-7", "5-7", "Sunday is 0"),
            (&DAY_OF_WEEK, "FRI-MON", "FRI-MON", "FRI-6,0-MON"),
            (
                &DAY_OF_WEEK,
                "MON#1",
                "MON#1",
                "is neither a number nor a name",
            ),
            (
                &DAY_OF_WEEK,
                "MON,+TUE",
                "+TUE",
                "in front of the whole day-of-week field",
            ),
        ] {
            let (found, error) = field.parse(text).unwrap_err();
            assert_eq!(found, part);
            assert!(error.to_string().contains(message), "{text}: {error}");
        }
    }
}
