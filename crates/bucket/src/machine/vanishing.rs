//! Tokens that vanish at the broker. Workers take tokens at any time, so fewer than there should be say nothing. But when refill
//! after refill finds the same number, adds to it, and an exact count behind that finds the same number again, it was no
//! worker: the queue holds no more.

use super::Machine;
use super::failure::Failure;
use super::outcome::Outcome;
use crate::BucketId;

/// Refills without a trace, one after the other, until that is told.
const TOLD_AFTER: u8 = 3;

/// The refills of a bucket that left no trace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Traces {
    /// What the newest refill found before it added something.
    found: Option<u64>,
    without: u8,
}

impl Traces {
    /// A refill has added tokens to those that it found. Answers whether it is worth an exact count what there is now.
    pub(super) fn refilled(&mut self, found: u64, added: u64) -> bool {
        if added == 0 {
            return false;
        }
        let again = found > 0 && self.found == Some(found);
        if !again {
            *self = Self {
                found: Some(found),
                without: 0,
            };
        }
        again && self.without < TOLD_AFTER
    }

    /// That was counted. Answers whether it is to be told.
    fn counted(&mut self, tokens: u64) -> bool {
        if self.found != Some(tokens) {
            self.without = 0;
            return false;
        }
        self.without = self.without.saturating_add(1);
        self.without == TOLD_AFTER
    }
}

impl Machine {
    /// The tokens of a bucket were counted exactly, right after a refill.
    pub(super) fn recounted(&mut self, id: BucketId, tokens: Result<u64, Failure>) {
        let Some(entry) = self.buckets.get_mut(&id) else {
            return;
        };
        if let Ok(left) = tokens
            && entry.traces.counted(left)
        {
            self.tell(Outcome::TokensVanish { bucket: id, left });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_refills_without_a_trace_are_told_once() {
        let mut traces = Traces::default();
        assert!(!traces.refilled(3, 1));
        // It was only looked at.
        assert!(!traces.refilled(3, 0));
        let told: Vec<_> = (0..5)
            .map(|_| traces.refilled(3, 1) && traces.counted(3))
            .collect();
        assert_eq!(told, [false, false, true, false, false]);
    }

    #[test]
    fn what_workers_leave_is_no_sign() {
        let mut traces = Traces::default();
        // They take as much as is added, but not in that moment.
        for _ in 0..9 {
            assert!(!(traces.refilled(5, 2) && traces.counted(7)));
        }
        // They take all there is.
        for _ in 0..9 {
            assert!(!traces.refilled(0, 2));
        }
        // They take now more, now less.
        for found in [4, 3, 4, 5, 4, 3] {
            assert!(!traces.refilled(found, 2));
        }
    }

    #[test]
    fn a_full_bucket_is_no_sign() {
        let mut traces = Traces::default();
        for _ in 0..9 {
            assert!(!traces.refilled(10, 0));
        }
    }
}
