//! The counts of a bucket in the last hour, minute by minute. No clock: the time is passed in.

use chrono::{DateTime, Utc};

/// Minutes that are remembered.
pub(super) const MINUTES: usize = 60;

/// The lowest and the highest count of one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// Fewest tokens.
    pub low: u64,
    /// Most tokens.
    pub high: u64,
}

/// The counts of an hour.
#[derive(Clone, Debug)]
pub(super) struct Hour {
    /// By the minute's number; those that are too old to be true are emptied when a newer count comes.
    ranges: [Option<Range>; MINUTES],
    /// Number, since 1970, of the newest minute.
    newest: i64,
}

impl Default for Hour {
    fn default() -> Self {
        Self {
            ranges: [None; MINUTES],
            newest: i64::MIN / 2,
        }
    }
}

impl Hour {
    /// Remembers a count. One that is older than the newest minute, after a clock that was set back, begins anew.
    pub(super) fn note(&mut self, at: DateTime<Utc>, tokens: u64) {
        let minute = minute(at);
        if minute < self.newest {
            *self = Self::default();
        }
        let since = self.newest.max(minute - MINUTES as i64) + 1;
        for passed in since..=minute {
            self.ranges[slot(passed)] = None;
        }
        self.newest = minute;
        let range = self.ranges[slot(minute)].get_or_insert(Range {
            low: tokens,
            high: tokens,
        });
        range.low = range.low.min(tokens);
        range.high = range.high.max(tokens);
    }

    /// The last sixty minutes before `now`, the oldest first; None where nothing was counted.
    #[must_use]
    pub(super) fn minutes(&self, now: DateTime<Utc>) -> [Option<Range>; MINUTES] {
        let last = minute(now);
        std::array::from_fn(|index| {
            let minute = last - (MINUTES - 1 - index) as i64;
            let known = minute <= self.newest && self.newest - minute < MINUTES as i64;
            known.then(|| self.ranges[slot(minute)]).flatten()
        })
    }
}

fn minute(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(60)
}

fn slot(minute: i64) -> usize {
    minute.rem_euclid(MINUTES as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn known(hour: &Hour, seconds: i64) -> Vec<(usize, u64, u64)> {
        let minutes = hour.minutes(at(seconds));
        let ranges = minutes.iter().enumerate();
        ranges
            .filter_map(|(index, range)| range.map(|range| (index, range.low, range.high)))
            .collect()
    }

    #[test]
    fn a_minute_shows_the_lowest_and_the_highest_count() {
        let mut hour = Hour::default();
        for (second, tokens) in [(0, 5), (10, 2), (20, 9), (59, 4), (60, 3)] {
            hour.note(at(second), tokens);
        }
        assert_eq!(known(&hour, 60), [(58, 2, 9), (59, 3, 3)]);
    }

    #[test]
    fn minutes_without_a_count_stay_empty_and_old_ones_go() {
        let mut hour = Hour::default();
        hour.note(at(0), 1);
        hour.note(at(600), 2);
        assert_eq!(known(&hour, 600), [(49, 1, 1), (59, 2, 2)]);
        assert_eq!(known(&hour, 3599), [(0, 1, 1), (10, 2, 2)]);
        assert_eq!(known(&hour, 3600), [(9, 2, 2)]);
        assert_eq!(known(&hour, 99_999), []);
        hour.note(at(3600), 3);
        assert_eq!(known(&hour, 3600), [(9, 2, 2), (59, 3, 3)]);
        hour.note(at(99_960), 4);
        assert_eq!(known(&hour, 99_960), [(59, 4, 4)]);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut hour = Hour::default();
        hour.note(at(600), 1);
        hour.note(at(0), 2);
        assert_eq!(known(&hour, 0), [(59, 2, 2)]);
    }
}
