//! When the next refill is, told by the schedule that the TokenBucket has.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use token_bucket_schedule::{Timetable, parse_zone};

use crate::Error;

/// The schedule of a TokenBucket, by which a program can say when to come again: `Retry-After`, the countdown of a task.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use token_bucket_client::Schedule;
///
/// let hourly = Schedule::parse("0 * * * *", "Europe/Berlin")?;
/// let wait = hourly.until_next(SystemTime::now()).expect("there is always another hour");
/// assert!(wait <= Duration::from_secs(3600));
/// # Ok::<(), token_bucket_client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    timetable: Timetable,
    is_anchored: bool,
}

impl Schedule {
    /// Reads `spec.schedule` and `spec.timeZone` (`UTC` where there is none), by the operator's rules.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`] says what to write instead.
    pub fn parse(expression: &str, time_zone: &str) -> Result<Self, Error> {
        let schedule = expression.parse();
        let schedule =
            schedule.map_err(|error: token_bucket_schedule::ParseError| invalid(&error))?;
        let zone = parse_zone(time_zone).map_err(|error| invalid(&error))?;
        Ok(Self {
            timetable: Timetable::new(schedule, zone, DateTime::UNIX_EPOCH),
            is_anchored: false,
        })
    }

    /// For `@every …`, which is counted from the creation of the resource (`metadata.creationTimestamp`). Where that is not told,
    /// the answer is the longest time that it can be.
    #[must_use]
    pub fn created_at(self, created: SystemTime) -> Self {
        Self {
            timetable: self.timetable.anchored(created.into()),
            is_anchored: true,
        }
    }

    /// The time from `now` to the first refill after it; None when there is none before the year 2200.
    #[must_use]
    pub fn until_next(&self, now: SystemTime) -> Option<Duration> {
        let after: DateTime<Utc> = now.into();
        let next = match self.is_anchored {
            true => self.timetable.next(after),
            false => self.timetable.clone().anchored(after).next(after),
        }?;
        SystemTime::from(next).duration_since(now).ok()
    }
}

fn invalid(error: &dyn std::error::Error) -> Error {
    Error::InvalidSchedule(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_next_refill_is_that_of_the_operator() {
        let schedule = Schedule::parse("*/10 * * * *", "UTC").unwrap();
        assert_eq!(
            schedule.until_next(at(1_000)),
            Some(Duration::from_secs(200))
        );
        assert_eq!(
            schedule.until_next(at(1_200)),
            Some(Duration::from_secs(600))
        );
        let every = Schedule::parse("@every 90s", "UTC").unwrap();
        assert_eq!(every.until_next(at(1_000)), Some(Duration::from_secs(90)));
        let every = every.created_at(at(10));
        assert_eq!(every.until_next(at(1_000)), Some(Duration::from_secs(90)));
        assert_eq!(every.until_next(at(1_030)), Some(Duration::from_secs(60)));
        for (expression, zone) in [("0 * * *", "UTC"), ("0 * * * *", "Europe/Bonn")] {
            let error = Schedule::parse(expression, zone).unwrap_err();
            assert!(matches!(error, Error::InvalidSchedule(_)), "{error}");
        }
    }
}
