//! Schedules: cron expressions, time zones and the ticks they give. Pure: `now` is passed in.
//!
//! The fields, macros and the day rule are those of Kubernetes CronJob, with two additions: seconds may stand in
//! front as a sixth field, and `+` in front of the day-of-week field asks for day of month *and* day of week.
//! Clock changes follow cronie: see [`Timetable`].

#![warn(unreachable_pub)]

mod calendar;
mod clock;
mod closest;
mod every;
mod field;
mod parse;
#[cfg(test)]
mod properties;
mod set;
mod timetable;
mod zone;

use chrono::{DateTime, Utc};
use thiserror::Error;

pub use every::DurationError;
pub use field::FieldError;
pub use parse::{ParseError, Schedule};
pub use timetable::Timetable;
pub use zone::{ZoneError, parse_zone, zones_version};

/// Why there are no due times to show.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpcomingError {
    /// The expression is no schedule.
    #[error(transparent)]
    Schedule(#[from] ParseError),
    /// The time zone is unknown.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// The schedule has no due time left.
    #[error(
        "schedule {expression:?} is not due again before the year 2200 in time zone {zone}: \
         choose dates that come, and times that clock changes do not skip"
    )]
    Never {
        /// The expression as given.
        expression: String,
        /// The time zone as given.
        zone: String,
    },
}

/// Up to `count` due times strictly after `after`, oldest first. `@every` counts from `after`.
///
/// Fewer come back only when the schedule ends, which it does with the year 2199.
///
/// # Errors
/// When the expression or the zone is refused, or when nothing is due any more.
pub fn upcoming(
    expression: &str,
    zone: &str,
    after: DateTime<Utc>,
    count: usize,
) -> Result<Vec<DateTime<Utc>>, UpcomingError> {
    let timetable = Timetable::new(expression.parse()?, parse_zone(zone)?, after);
    let first = timetable.next(after).ok_or_else(|| UpcomingError::Never {
        expression: expression.into(),
        zone: zone.into(),
    })?;
    Ok(
        std::iter::successors(Some(first), |tick| timetable.next(*tick))
            .take(count)
            .collect(),
    )
}
