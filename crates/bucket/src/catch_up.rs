//! Which ticks a scheduler requests: the one that is due now, and by policy those that passed while nobody could refill.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Bucket, MissedRefills};
use schedule::Timetable;

/// More ticks that are skipped are not told apart.
pub(super) const MOST_COUNTED: u64 = 1_000_000;

/// What one request stands for: `ticks` ticks in `(since, tick]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TickSpan {
    /// Exclusive start.
    pub since: DateTime<Utc>,
    /// The newest of the ticks.
    pub tick: DateTime<Utc>,
    /// How many they are.
    pub ticks: u64,
}

/// What is done about ticks that have passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// The requests to make, the oldest first.
    pub due: Vec<TickSpan>,
    /// How many of the ticks no request stands for: skipped by the policy, or too old.
    pub skipped: u64,
}

/// What the policy wants done about the ticks in `(reference, now]`, which all passed while nobody could refill.
#[must_use]
pub(crate) fn catch_up(
    bucket: &Bucket,
    timetable: &Timetable,
    reference: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Passed {
    if bucket.suspend {
        return Passed::default();
    }
    let count = |until| timetable.missed(reference, until, MOST_COUNTED);
    let since = too_late(bucket, now).map_or(reference, |end| end.max(reference));
    let newest = match bucket.missed_refills {
        MissedRefills::Skip => None,
        MissedRefills::Latest | MissedRefills::All => timetable.latest(since, now),
    };
    let Some(tick) = newest else {
        return Passed {
            due: Vec::new(),
            skipped: count(now),
        };
    };
    let (ticks, skipped) = if bucket.missed_refills == MissedRefills::All {
        // More refills than fill an empty bucket add nothing, and are not skipped either.
        let enough = bucket.maximum.div_ceil(bucket.amount.max(1));
        (timetable.missed(since, tick, enough), count(since))
    } else {
        (1, count(now) - 1)
    };
    Passed {
        due: vec![TickSpan { tick, since, ticks }],
        skipped,
    }
}

/// The ticks in `(last, now]` of a scheduler that has been awake all the time: each is requested for itself, however
/// late its turn came. More than `most` are too many to be mere lag and go by the policy.
#[must_use]
pub(crate) fn due(
    bucket: &Bucket,
    timetable: &Timetable,
    last: DateTime<Utc>,
    now: DateTime<Utc>,
    most: usize,
) -> Passed {
    if bucket.suspend {
        return Passed::default();
    }
    let mut ticks = Vec::new();
    let mut since = last;
    while let Some(tick) = timetable.next(since).filter(|tick| *tick <= now) {
        if ticks.len() == most {
            return catch_up(bucket, timetable, last, now);
        }
        ticks.push(TickSpan {
            tick,
            since,
            ticks: 1,
        });
        since = tick;
    }
    let all = ticks.len() as u64;
    let too_late = too_late(bucket, now);
    ticks.retain(|due| too_late.is_none_or(|end| due.tick > end));
    Passed {
        skipped: all - ticks.len() as u64,
        due: ticks,
    }
}

/// The end of the ticks that are older at `now` than their deadline; None: no tick is.
#[must_use]
pub(crate) fn too_late(bucket: &Bucket, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let deadline = TimeDelta::from_std(bucket.starting_deadline?).ok()?;
    // Half-open like every interval here; a tick exactly as old as the deadline still runs.
    now.checked_sub_signed(deadline)?
        .checked_sub_signed(TimeDelta::nanoseconds(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixture::{at, bucket};

    fn policy(missed_refills: MissedRefills) -> Bucket {
        Bucket {
            missed_refills,
            maximum: 1000,
            ..bucket()
        }
    }

    fn found(bucket: &Bucket, reference: i64, now: i64) -> Option<(i64, u64)> {
        let passed = catch_up(bucket, &bucket.timetable, at(reference), at(now));
        let due = passed.due.first()?;
        Some(((due.tick - at(0)).num_seconds(), due.ticks))
    }

    #[test]
    fn latest_runs_the_newest_missed_tick_once() {
        assert_eq!(
            found(&policy(MissedRefills::Latest), 0, 310),
            Some((300, 1))
        );
        assert_eq!(found(&policy(MissedRefills::Latest), 300, 310), None);
    }

    #[test]
    fn all_runs_every_missed_tick_in_one_request() {
        assert_eq!(found(&policy(MissedRefills::All), 0, 310), Some((300, 5)));
    }

    #[test]
    fn all_counts_no_further_than_a_full_bucket() {
        let year = 365 * 86_400;
        assert_eq!(
            found(&policy(MissedRefills::All), 0, year),
            Some((year, 100))
        );
    }

    #[test]
    fn skip_runs_none() {
        assert_eq!(found(&policy(MissedRefills::Skip), 0, 310), None);
    }

    #[test]
    fn suspended_buckets_run_none() {
        assert_eq!(
            found(
                &Bucket {
                    suspend: true,
                    ..policy(MissedRefills::All)
                },
                0,
                310
            ),
            None
        );
    }

    #[test]
    fn ticks_past_the_starting_deadline_are_skipped() {
        let deadline = |seconds| Bucket {
            starting_deadline: Some(Duration::from_secs(seconds)),
            ..policy(MissedRefills::All)
        };
        assert_eq!(found(&deadline(70), 0, 310), Some((300, 2)));
        assert_eq!(
            found(&deadline(10), 0, 310),
            Some((300, 1)),
            "a tick just as old as the deadline runs"
        );
        assert_eq!(found(&deadline(9), 0, 310), None);
    }

    #[test]
    fn ticks_found_together_by_an_awake_scheduler_each_run() {
        let bucket = policy(MissedRefills::Latest);
        let passed = due(&bucket, &bucket.timetable, at(60), at(190), 100);
        let expected = [(60, 120), (120, 180)].map(|(since, tick)| TickSpan {
            since: at(since),
            tick: at(tick),
            ticks: 1,
        });
        assert_eq!((passed.due.as_slice(), passed.skipped), (&expected[..], 0));
    }

    #[test]
    fn too_many_ticks_found_together_go_by_the_policy() {
        let bucket = policy(MissedRefills::Latest);
        let passed = due(&bucket, &bucket.timetable, at(0), at(600), 3);
        let newest = TickSpan {
            since: at(0),
            tick: at(600),
            ticks: 1,
        };
        assert_eq!((passed.due, passed.skipped), (vec![newest], 9));
    }

    #[test]
    fn a_clock_set_back_fires_nothing() {
        let bucket = policy(MissedRefills::All);
        let passed = due(&bucket, &bucket.timetable, at(600), at(0), 100);
        assert_eq!(passed, Passed::default());
        assert_eq!(found(&bucket, 600, 0), None);
    }

    #[test]
    fn what_is_not_carried_out_is_skipped() {
        for (missed_refills, left) in [
            (MissedRefills::Latest, 4),
            (MissedRefills::Skip, 5),
            (MissedRefills::All, 0),
        ] {
            let bucket = policy(missed_refills);
            let passed = catch_up(&bucket, &bucket.timetable, at(0), at(301));
            assert_eq!(passed.skipped, left, "{missed_refills:?}");
        }
    }

    #[test]
    fn a_tick_older_than_the_deadline_is_skipped_by_every_policy() {
        for missed_refills in [MissedRefills::Latest, MissedRefills::All] {
            let bucket = Bucket {
                starting_deadline: Some(Duration::from_secs(90)),
                ..policy(missed_refills)
            };
            let passed = catch_up(&bucket, &bucket.timetable, at(0), at(310));
            let carried: u64 = passed.due.iter().map(|due| due.ticks).sum();
            assert_eq!(passed.skipped + carried, 5, "{missed_refills:?}");
        }
    }

    #[test]
    fn a_tick_whose_turn_comes_after_the_deadline_is_skipped_by_an_awake_scheduler_too() {
        let bucket = Bucket {
            starting_deadline: Some(Duration::from_secs(15)),
            ..policy(MissedRefills::All)
        };
        let passed = due(&bucket, &bucket.timetable, at(60), at(190), 100);
        let ticks: Vec<_> = passed.due.iter().map(|due| due.tick).collect();
        assert_eq!((ticks, passed.skipped), (vec![at(180)], 1));
    }

    #[test]
    fn a_suspended_bucket_leaves_nothing_out_yet() {
        let bucket = Bucket {
            suspend: true,
            ..policy(MissedRefills::Skip)
        };
        let passed = catch_up(&bucket, &bucket.timetable, at(0), at(301));
        assert_eq!(passed, Passed::default());
    }
}
