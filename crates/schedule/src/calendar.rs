//! The local dates and times that an expression selects, before any time zone.
//!
//! A local time is a number here: the seconds between 1970-01-01 00:00 and it, both read off the same local clock.

use super::set::Set;
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, Utc};
use std::ops::Range;
use std::str::FromStr;

pub(super) const DAY: i64 = 86_400;
/// The end of all schedules, 2200-01-01.
pub(super) const END: i64 = 7_258_118_400;
/// The last year of which the enumerator of dates knows all.
const LAST_KNOWN: i32 = 2099;
/// Among these are the fourteen kinds of years: of both lengths, beginning on each day of the week.
const ALL_KINDS: Range<i32> = 2000..2028;

/// The times of day that are selected. No field is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeOfDay {
    pub second: Set,
    pub minute: Set,
    pub hour: Set,
}

impl TimeOfDay {
    fn per_minute(self) -> u64 {
        u64::from(self.second.len())
    }

    fn per_hour(self) -> u64 {
        self.per_minute() * u64::from(self.minute.len())
    }

    fn per_day(self) -> u64 {
        self.per_hour() * u64::from(self.hour.len())
    }

    /// How many selected times come before `second_of_day`.
    fn before(self, second_of_day: u32) -> u64 {
        let (hour, minute, second) = (
            second_of_day / 3600,
            second_of_day / 60 % 60,
            second_of_day % 60,
        );
        let mut count = u64::from(self.hour.below(hour)) * self.per_hour();
        if self.hour.contains(hour) {
            count += u64::from(self.minute.below(minute)) * self.per_minute();
            if self.minute.contains(minute) {
                count += u64::from(self.second.below(second));
            }
        }
        count
    }

    /// The second of the day of the selected time that has `rank` selected times before it.
    fn nth(self, rank: u64) -> Option<u32> {
        let part = |set: Set, rank: u64| set.nth(u32::try_from(rank).ok()?);
        let hour = part(self.hour, rank / self.per_hour())?;
        let minute = part(self.minute, rank % self.per_hour() / self.per_minute())?;
        let second = part(self.second, rank % self.per_minute())?;
        Some(hour * 3600 + minute * 60 + second)
    }
}

/// The dates that are selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dates {
    /// All of them. Most schedules are such, and the enumerator would need a kilobyte for each.
    All,
    /// A date counts when one of these has it: the enumerator itself only knows day of month *and* day of week.
    Some(Box<[cron::Schedule]>),
}

impl Dates {
    /// The fields as numbers of the expression, Sunday is 0. With `either`, day of month *or* day of week is enough.
    pub(crate) fn new(
        day: Set,
        month: Set,
        weekday: Set,
        either: bool,
    ) -> Result<Self, cron::error::Error> {
        let all = |set: Set, low, high| set == Set::range(low, high, 1);
        if all(day, 1, 31) && all(month, 1, 12) && all(weekday, 0, 6) {
            return Ok(Self::All);
        }
        let weekday = weekday.shifted(); // the enumerator counts Sunday as 1
        let rules = if either {
            vec![
                format!("0 0 0 {day} {month} *"),
                format!("0 0 0 * {month} {weekday}"),
            ]
        } else {
            vec![format!("0 0 0 {day} {month} {weekday}")]
        };
        let rules = rules
            .iter()
            .map(|rule| cron::Schedule::from_str(rule))
            .collect::<Result<_, _>>()?;
        Ok(Self::Some(rules))
    }

    /// Whether two dates that follow each other are both selected, in any kind of year.
    pub(crate) fn are_adjacent(&self) -> bool {
        let Self::Some(_) = self else {
            return true;
        };
        let begin = NaiveDate::from_yo_opt(ALL_KINDS.start, 1);
        let mut date = begin.and_then(|begin| self.first_from(begin));
        while let Some(found) = date.filter(|date| ALL_KINDS.contains(&date.year())) {
            let next = found.succ_opt();
            date = next.and_then(|next| self.first_from(next));
            if date == next {
                return true;
            }
        }
        false
    }

    // The years asked for must be from 1969 on: the enumerator reads a negative year as one far ahead.

    /// The first date not before `date`.
    fn first_from(&self, date: NaiveDate) -> Option<NaiveDate> {
        let Self::Some(rules) = self else {
            return Some(date);
        };
        let first = |from: NaiveDate| {
            let before = noon(from.checked_sub_days(Days::new(1))?);
            let found = rules.iter().filter_map(|rule| rule.after(&before).next());
            found.min().map(|found| found.date_naive())
        };
        let known = first(date).filter(|found| found.year() <= LAST_KNOWN);
        let years = date.year().max(LAST_KNOWN + 1)..=year_of(END);
        known.or_else(|| {
            years.into_iter().find_map(|year| {
                let from = NaiveDate::from_yo_opt(year, 1)?.max(date);
                let found = first(from.with_year(alike(year)?)?)?;
                (found.year() == alike(year)?).then(|| found.with_year(year))?
            })
        })
    }

    /// The last date not after `date`.
    fn last_until(&self, date: NaiveDate) -> Option<NaiveDate> {
        let Self::Some(rules) = self else {
            // The enumerator knows no year before 1970 either.
            return Some(date).filter(|date| *date >= DateTime::UNIX_EPOCH.date_naive());
        };
        let last = |until: NaiveDate| {
            let after = noon(until);
            let found = rules
                .iter()
                .filter_map(|rule| rule.after(&after).next_back());
            found.max().map(|found| found.date_naive())
        };
        let end_of = |year| NaiveDate::from_ymd_opt(year, 12, 31);
        let later = (LAST_KNOWN + 1..=date.year()).rev().find_map(|year| {
            let until = end_of(year)?.min(date);
            let found = last(until.with_year(alike(year)?)?)?;
            (found.year() == alike(year)?).then(|| found.with_year(year))?
        });
        later.or_else(|| last(end_of(LAST_KNOWN)?.min(date)))
    }
}

/// A year that the enumerator knows, as long as `year` and beginning on the same day of the week: it has the same dates.
fn alike(year: i32) -> Option<i32> {
    let kind = |year| {
        let first = NaiveDate::from_yo_opt(year, 1)?;
        Some((first.leap_year(), first.weekday()))
    };
    ALL_KINDS.clone().find(|known| kind(*known) == kind(year))
}

fn year_of(local: i64) -> i32 {
    split(local).map_or(LAST_KNOWN, |(date, _)| date.year())
}

/// The enumerator gives midnights; asked at noon it need not be trusted with what "after" means.
fn noon(date: NaiveDate) -> DateTime<Utc> {
    date.and_time(NaiveTime::MIN).and_utc() + chrono::TimeDelta::hours(12)
}

/// Dates and times of day together: the local times at which a schedule is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    pub dates: Dates,
    pub time: TimeOfDay,
    /// Due each time that the clock shows such a local time, instead of once for each.
    pub elapsed: bool,
}

impl Calendar {
    /// The first local time not before `local`.
    pub(crate) fn first_from(&self, local: i64) -> Option<i64> {
        if local >= END {
            return None;
        }
        let (date, second_of_day) = split(local.max(0))?;
        let mut found = self.dates.first_from(date)?;
        if found == date {
            if let Some(later) = self.time.nth(self.time.before(second_of_day)) {
                return Some(join(date, later));
            }
            found = self.dates.first_from(date.succ_opt()?)?;
        }
        Some(join(found, self.time.nth(0)?)).filter(|local| *local < END)
    }

    /// The last local time before `local`.
    pub(crate) fn last_before(&self, local: i64) -> Option<i64> {
        if local <= 0 {
            return None;
        }
        let (date, second_of_day) = split(local.min(END))?;
        let mut found = self.dates.last_until(date)?;
        if found == date {
            if let Some(rank) = self.time.before(second_of_day).checked_sub(1) {
                return Some(join(date, self.time.nth(rank)?));
            }
            found = self.dates.last_until(date.pred_opt()?)?;
        }
        Some(join(found, self.time.nth(self.time.per_day() - 1)?))
    }

    /// How many local times there are from `from` on and before `to`. Whole days are counted, not walked.
    pub(crate) fn count(&self, from: i64, to: i64) -> u64 {
        let (from, to) = (from.max(0), to.min(END));
        if from >= to {
            return 0;
        }
        let (Some((first, from_second)), Some((last, to_second))) = (split(from), split(to)) else {
            return 0;
        };
        let next = |date: &NaiveDate| self.dates.first_from(date.succ_opt()?);
        let days = std::iter::successors(self.dates.first_from(first), next);
        days.take_while(|date| *date <= last)
            .map(|date| {
                let end = if date == last {
                    self.time.before(to_second)
                } else {
                    self.time.per_day()
                };
                let start = if date == first {
                    self.time.before(from_second)
                } else {
                    0
                };
                end - start
            })
            .sum()
    }
}

fn split(local: i64) -> Option<(NaiveDate, u32)> {
    let date = DateTime::from_timestamp(local, 0)?.date_naive();
    Some((date, u32::try_from(local.rem_euclid(DAY)).ok()?))
}

fn join(date: NaiveDate, second_of_day: u32) -> i64 {
    date.and_time(NaiveTime::MIN).and_utc().timestamp() + i64::from(second_of_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dates(day: Set, month: Set, weekday: Set, either: bool) -> Dates {
        Dates::new(day, month, weekday, either).unwrap()
    }

    #[test]
    fn dates_come_beyond_the_years_that_the_enumerator_knows() {
        let (days, months, weekdays) = (
            Set::range(1, 31, 1),
            Set::range(1, 12, 1),
            Set::range(0, 6, 1),
        );
        let only = |number| Set::range(number, number, 1);
        type Selects = fn(NaiveDate) -> bool;
        let cases: [(Dates, Selects); 3] = [
            (dates(only(29), only(2), weekdays, false), |date| {
                (date.month(), date.day()) == (2, 29)
            }),
            (dates(days, months, only(1), false), |date| {
                date.weekday() == chrono::Weekday::Mon
            }),
            (dates(only(31), months, only(0), true), |date| {
                date.day() == 31 || date.weekday() == chrono::Weekday::Sun
            }),
        ];
        let date = |year, month, day| NaiveDate::from_ymd_opt(year, month, day).unwrap();
        for (dates, selects) in cases {
            let mut last = dates.last_until(date(2095, 12, 31));
            let mut expected = Vec::new();
            for day in date(2096, 1, 1)
                .iter_days()
                .take_while(|day| day.year() < 2110)
            {
                if selects(day) {
                    last = Some(day);
                    expected.push(day);
                }
                assert_eq!(dates.last_until(day), last, "{day}");
            }
            let next = |from: &NaiveDate| dates.first_from(from.succ_opt()?);
            let found = std::iter::successors(dates.first_from(date(2096, 1, 1)), next);
            let found: Vec<_> = found.take_while(|day| day.year() < 2110).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn schedules_end_with_the_year_2199() {
        let calendar = Calendar {
            dates: dates(
                Set::range(1, 1, 1),
                Set::range(1, 1, 1),
                Set::range(0, 6, 1),
                false,
            ),
            time: TimeOfDay {
                second: Set::range(0, 0, 1),
                minute: Set::range(0, 0, 1),
                hour: Set::range(0, 0, 1),
            },
            elapsed: false,
        };
        let year = |year| join(NaiveDate::from_yo_opt(year, 1).unwrap(), 0);
        assert_eq!(calendar.first_from(year(2198) + 1), Some(year(2199)));
        assert_eq!(calendar.first_from(year(2199) + 1), None);
        assert_eq!(calendar.last_before(END), Some(year(2199)));
        assert_eq!(calendar.count(year(2090), END), 110);
    }
}
