//! A schedule in a time zone: which ticks there are.

use super::calendar::{Calendar, DAY};
use super::clock::stretches;
use super::parse::{Kind, Schedule};
use chrono::{DateTime, Utc};
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Seconds that a search looks at in one go. Short, because most searches end in the first minutes.
const WINDOW: i64 = 3 * DAY;

/// A schedule in a time zone. Ticks are whole seconds, strictly ascending, from 1970 to 2199.
///
/// Where the minute or the hour field begins with `*`, the schedule follows elapsed time: a local time that the clock
/// skips has no tick, one that the clock repeats has two. Any other schedule has one tick for each local time: at the
/// first instant after the gap if it is skipped, at its first occurrence if it is repeated. `@every` knows no local
/// time: its ticks are the anchor plus one, two, three… times the duration.
#[derive(Clone, Debug, PartialEq)]
pub struct Timetable {
    /// Shared: an engine keeps each timetable with more than one anchor.
    schedule: Arc<Schedule>,
    zone: TimeZone,
    anchor: i64,
}

impl Timetable {
    /// `anchor` is where `@every` counts from, cut to whole seconds; other schedules do not use it.
    pub fn new(schedule: Schedule, zone: TimeZone, anchor: DateTime<Utc>) -> Self {
        Self {
            schedule: Arc::new(schedule),
            zone,
            anchor: anchor.timestamp(),
        }
    }

    /// The same timetable, where `@every` counts from `anchor`.
    #[must_use]
    pub fn anchored(self, anchor: DateTime<Utc>) -> Self {
        Self {
            anchor: anchor.timestamp(),
            ..self
        }
    }

    /// The same timetable with an equal schedule, which others may have too.
    #[must_use]
    pub fn map_schedule(self, shared: impl FnOnce(Arc<Schedule>) -> Arc<Schedule>) -> Self {
        Self {
            schedule: shared(self.schedule),
            ..self
        }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.schedule.kind
    }

    /// The first tick strictly after `after`; `None` when there is none before the year 2200.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = after.timestamp() + 1;
        let tick = match &self.schedule.kind {
            Kind::Every(seconds) => {
                let number = (after.timestamp() - self.anchor).div_euclid(*seconds) + 1;
                Some(self.anchor + number.max(1) * seconds)
            }
            Kind::Calendar(calendar) => self.first_from(calendar, from),
        };
        tick.and_then(|tick| DateTime::from_timestamp(tick, 0))
    }

    /// The newest tick after `since` and not after `now`.
    pub fn latest(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (since, now) = (since.timestamp(), now.timestamp());
        let tick = match &self.schedule.kind {
            Kind::Every(seconds) => {
                let number = (now - self.anchor).div_euclid(*seconds);
                Some(self.anchor + number * seconds).filter(|tick| number >= 1 && *tick > since)
            }
            Kind::Calendar(calendar) => self.last_between(calendar, since + 1, now + 1),
        };
        tick.and_then(|tick| DateTime::from_timestamp(tick, 0))
    }

    /// How many ticks there are after `since` and not after `now`; counting stops at `cap`.
    pub fn missed(&self, since: DateTime<Utc>, now: DateTime<Utc>, cap: u64) -> u64 {
        let (since, now) = (since.timestamp(), now.timestamp());
        let count = match &self.schedule.kind {
            Kind::Every(seconds) => {
                let until = |instant: i64| (instant - self.anchor).div_euclid(*seconds).max(0);
                u64::try_from(until(now) - until(since)).unwrap_or(0)
            }
            Kind::Calendar(calendar) => self.count_between(calendar, since + 1, now + 1, cap),
        };
        count.min(cap)
    }

    /// Text that is equal for two timetables exactly when schedule and zone mean the same, however the schedule is
    /// written. It says nothing about the anchor. It is stored in the broker, so releases must not change it.
    pub fn fingerprint(&self) -> String {
        let schedule = self.schedule.canonical();
        match self.schedule.kind {
            Kind::Every(_) => schedule.into(),
            Kind::Calendar(_) => {
                format!("{schedule} {}", self.zone.iana_name().unwrap_or("UTC"))
            }
        }
    }

    fn first_from(&self, calendar: &Calendar, mut from: i64) -> Option<i64> {
        loop {
            // No offset is a day or more: a local time comes less than a day after or before its number as Unix time.
            let first = calendar.first_from(from - DAY)?;
            from = from.max(first - DAY);
            let mut window = stretches(&self.zone, from, from + WINDOW).into_iter();
            if let Some(tick) = window.find_map(|stretch| stretch.first(calendar)) {
                return Some(tick);
            }
            from += WINDOW;
        }
    }

    fn last_between(&self, calendar: &Calendar, from: i64, mut to: i64) -> Option<i64> {
        loop {
            let last = calendar.last_before(to + DAY)?;
            to = to.min(last + DAY);
            if from >= to {
                return None;
            }
            let start = from.max(to - WINDOW);
            let mut window = stretches(&self.zone, start, to).into_iter().rev();
            if let Some(tick) = window.find_map(|stretch| stretch.last(calendar)) {
                return Some(tick);
            }
            to = start;
        }
    }

    fn count_between(&self, calendar: &Calendar, mut from: i64, to: i64, cap: u64) -> u64 {
        let mut count = 0;
        while count < cap {
            let Some(first) = calendar.first_from(from - DAY) else {
                break;
            };
            from = from.max(first - DAY);
            if from >= to {
                break;
            }
            let end = to.min(from + WINDOW);
            let window = stretches(&self.zone, from, end);
            count += window
                .iter()
                .map(|stretch| stretch.count(calendar))
                .sum::<u64>();
            from = end;
        }
        count
    }
}

#[cfg(test)]
mod tests;
