//! How the local clock of a time zone runs, in stretches of constant offset between clock changes, and which local
//! times are due in a stretch.

use super::calendar::Calendar;
use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;

/// Seconds. Clock changes of one zone are at least six days apart and none moves the clock by more than one day
/// (checked by a test), so two looks that are this far apart have at most one change between them.
const LOOK: i64 = 3 * 86_400;

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
pub(super) fn stretches(zone: Tz, from: i64, to: i64) -> Vec<Stretch> {
    let mut found = Vec::new();
    // Started earlier, because a change shortly before `from` decides what is fresh at `from`.
    let mut start = from - LOOK;
    let mut offset = offset_at(zone, start);
    let mut fresh = start + offset;
    let mut look = start;
    while look < to {
        let next = look + LOOK;
        if offset_at(zone, next) == offset {
            look = next;
            continue;
        }
        let change = first_change(zone, look, next);
        found.push(Stretch {
            start,
            end: change,
            offset,
            fresh,
        });
        fresh = change + offset;
        offset = offset_at(zone, change);
        (start, look) = (change, change);
    }
    found.push(Stretch {
        start,
        end: to,
        offset,
        fresh,
    });
    found.retain_mut(|stretch| {
        stretch.end = stretch.end.min(to);
        if stretch.start < from {
            stretch.start = from;
            stretch.fresh = stretch.fresh.max(from + stretch.offset);
        }
        stretch.start < stretch.end
    });
    found
}

/// The only change after `from` and not after `to`, of which there must be one.
fn first_change(zone: Tz, from: i64, to: i64) -> i64 {
    let before = offset_at(zone, from);
    let (mut same, mut changed) = (from, to);
    while same + 1 < changed {
        let middle = same + (changed - same) / 2;
        if offset_at(zone, middle) == before {
            same = middle
        } else {
            changed = middle
        }
    }
    changed
}

/// Local time minus UTC, in seconds.
fn offset_at(zone: Tz, unix: i64) -> i64 {
    let instant = DateTime::from_timestamp(unix, 0).unwrap_or_default();
    i64::from(
        zone.offset_from_utc_datetime(&instant.naive_utc())
            .fix()
            .local_minus_utc(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{DAY, END};
    use chrono_tz::TZ_VARIANTS;

    // What `LOOK` and the searches of the timetable rely on, in all of the time that schedules cover.
    #[test]
    fn clock_changes_are_days_apart_and_move_the_clock_by_a_day_at_most() {
        const STEP: i64 = 2 * DAY;
        for zone in TZ_VARIANTS {
            let (mut offset, mut changed) = (offset_at(zone, 0), -END);
            for instant in (0..=END).step_by(STEP as usize) {
                let now = offset_at(zone, instant);
                if now != offset {
                    assert!(instant - changed > LOOK + STEP, "{zone} at {instant}");
                    assert!(
                        (now - offset).abs() <= DAY && now.abs() < DAY,
                        "{zone} at {instant}"
                    );
                    (offset, changed) = (now, instant);
                }
            }
        }
    }
}
