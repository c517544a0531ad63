//! How many requests a queue for parked ones keeps before it drops the oldest. Its arguments say so; a policy does not, and the
//! broker tells nobody. But when what was parked is not there afterwards, again and again, it was a policy.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How often that has to be seen, with the same number each time: who takes messages out leaves now more, now less.
const SEEN: u8 = 3;

/// What was seen of the queues for parked requests.
#[derive(Debug, Default)]
pub(super) struct Parked(Mutex<HashMap<String, Seen>>);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    kept: u64,
    times: u8,
}

impl Parked {
    /// How many `queue` keeps, if that is known from what was seen.
    pub(super) fn limit(&self, queue: &str) -> Option<u64> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.get(queue).filter(|seen| seen.times >= SEEN);
        seen.map(|seen| seen.kept)
    }

    /// There were `before` messages in `queue`, some were added, and there are `after`.
    pub(super) fn see(&self, queue: &str, before: u64, added: u64, after: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if added == 0 || after >= before + added || after == 0 {
            all.remove(queue);
            return;
        }
        let seen = all.entry(queue.to_owned()).or_default();
        if seen.kept != after {
            *seen = Seen {
                kept: after,
                times: 0,
            };
        }
        seen.times = seen.times.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_does_not_grow_again_and_again_has_a_limit() {
        let parked = Parked::default();
        parked.see("q", 4, 1, 5);
        for _ in 0..SEEN {
            assert_eq!(parked.limit("q"), None);
            parked.see("q", 5, 1, 5);
        }
        assert_eq!(parked.limit("q"), Some(5));
        assert_eq!(parked.limit("other"), None);
        // It was raised.
        parked.see("q", 5, 1, 6);
        assert_eq!(parked.limit("q"), None);
    }

    #[test]
    fn a_queue_that_somebody_takes_messages_out_of_has_none() {
        let parked = Parked::default();
        for (before, after) in [(5, 4), (4, 3), (3, 3), (3, 2), (0, 0), (0, 0), (0, 0)] {
            parked.see("q", before, 1, after);
            assert_eq!(parked.limit("q"), None);
        }
    }
}
