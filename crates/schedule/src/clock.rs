//! How the local clock of a time zone runs, in stretches of constant offset between clock changes, and which local
//! times are due in a stretch.

use super::calendar::Calendar;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A stretch of time in which the offset of the local clock from UTC stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// First second, Unix time.
    start: i64,
    /// The second after the last one, Unix time.
    end: i64,
    /// Local time minus UTC, in seconds.
    offset: i64,
    /// The first local time that the clock had not yet reached before `start`. It is before `start + offset` when the
    /// clock was put forward at `start`, and after it when the clock was put back and repeats some time.
    fresh: i64,
}

/// A local time `n` that belongs to a stretch is due at `n - offset`, but not before the stretch starts: that is where
/// skipped times go.
impl Stretch {
    /// The local times that are due in this stretch begin here…
    fn local_begin(&self, calendar: &Calendar) -> i64 {
        if calendar.elapsed {
            self.start + self.offset
        } else {
            self.fresh
        }
    }

    /// …and end before this one.
    fn local_end(&self) -> i64 {
        self.end + self.offset
    }

    /// The first tick, Unix time.
    pub(crate) fn first(&self, calendar: &Calendar) -> Option<i64> {
        let local = calendar.first_from(self.local_begin(calendar))?;
        (local < self.local_end()).then(|| self.start.max(local - self.offset))
    }

    /// The last tick, Unix time.
    pub(crate) fn last(&self, calendar: &Calendar) -> Option<i64> {
        let local = calendar.last_before(self.local_end())?;
        (local >= self.local_begin(calendar)).then(|| self.start.max(local - self.offset))
    }

    /// The number of ticks.
    pub(crate) fn count(&self, calendar: &Calendar) -> u64 {
        // What was skipped, and the first second behind the gap, make one tick together.
        let (begin, behind_gap) = (self.local_begin(calendar), self.start + self.offset + 1);
        let skipped = u64::from(
            calendar
                .first_from(begin)
                .is_some_and(|local| local < behind_gap.min(self.local_end())),
        );
        skipped + calendar.count(begin.max(behind_gap), self.local_end())
    }
}

/// The stretches that make up the time from `from` on and before `to` (Unix time), in order.
pub(super) fn stretches(zone: &TimeZone, from: i64, to: i64) -> Vec<Stretch> {
    let mut found = Vec::new();
    let (mut start, mut offset) = (from, offset_at(zone, from));
    // The last change decides what is fresh at `from`. Those before it are days away, and none moves the clock by more than
    // one day (checked by a test).
    let last = zone.preceding(timestamp(from + 1)).next();
    let mut fresh = last.map_or(from + offset, |change| {
        let at = change.timestamp().as_second();
        let reached = at + offset_at(zone, at - 1);
        // What a change at `from` itself skips is due there.
        if at == from {
            reached
        } else {
            reached.max(from + offset)
        }
    });
    for change in zone.following(timestamp(from)) {
        let end = change.timestamp().as_second();
        if end >= to {
            break;
        }
        found.push(Stretch {
            start,
            end,
            offset,
            fresh,
        });
        fresh = end + offset;
        (start, offset) = (end, change.offset().seconds().into());
    }
    found.push(Stretch {
        start,
        end: to,
        offset,
        fresh,
    });
    found
}

/// Local time minus UTC, in seconds.
fn offset_at(zone: &TimeZone, unix: i64) -> i64 {
    zone.to_offset(timestamp(unix)).seconds().into()
}

fn timestamp(unix: i64) -> Timestamp {
    Timestamp::from_second(unix).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{DAY, END};
    use jiff::tz::TimeZoneDatabase;

    // What the stretches and the searches of the timetable rely on, in all of the time that schedules cover.
    #[test]
    fn clock_changes_are_days_apart_and_move_the_clock_by_a_day_at_most() {
        let database = TimeZoneDatabase::bundled();
        for name in database.available() {
            let zone = database.get(name.as_str()).unwrap();
            let mut changed = -END;
            for change in zone.following(timestamp(0)) {
                let at = change.timestamp().as_second();
                if at > END {
                    break;
                }
                let (before, after) = (offset_at(&zone, at - 1), offset_at(&zone, at));
                assert!(at - changed > 3 * DAY, "{name} at {at}");
                assert!(
                    (after - before).abs() <= DAY && after.abs() < DAY,
                    "{name} at {at}"
                );
                changed = at;
            }
        }
    }
}
