//! Counts for the next transaction, made while the broker carries out the one before: neither waits for the other.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use bucket::BucketId;

/// A count that is older is made anew: a commit can wait for minutes while a resource alarm is in force.
const FRESH: Duration = Duration::from_secs(5);

/// Counts that were made ahead; each is used once, for the next transaction, or never.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    made: Option<Instant>,
    counts: HashMap<BucketId, Count>,
}

/// What was counted; None where the queue is missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Count {
    /// Nothing but takers has changed it since.
    Exact(Option<u64>),
    /// Tokens were on their way when it was made: there are at most so many. That is enough to go on with what is owed,
    /// but not to accept a request.
    AtMost(Option<u64>),
}

impl Ahead {
    pub(super) fn new(made: Instant, counts: HashMap<BucketId, Count>) -> Self {
        Self {
            made: Some(made),
            counts,
        }
    }

    /// All counts of use to a transaction that carries out requests for the buckets `asked`.
    pub(super) fn take(
        &mut self,
        asked: &HashSet<&BucketId>,
        now: Instant,
    ) -> HashMap<BucketId, Option<u64>> {
        let Self { made, counts } = std::mem::take(self);
        if made.is_none_or(|made| now - made > FRESH) {
            return HashMap::new();
        }
        let of_use = |(id, count)| match count {
            Count::Exact(tokens) => Some((id, tokens)),
            Count::AtMost(tokens) => (!asked.contains(&id)).then_some((id, tokens)),
        };
        counts.into_iter().filter_map(of_use).collect()
    }

    /// The bucket's queue was looked at or put right: what was counted before is out of date.
    pub(super) fn forget(&mut self, id: &BucketId) {
        self.counts.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> BucketId {
        BucketId::new("shop", name)
    }

    fn ahead(made: Instant) -> Ahead {
        let counts = [
            (id("exact"), Count::Exact(Some(1))),
            (id("filling"), Count::AtMost(Some(2))),
        ];
        Ahead::new(made, counts.into())
    }

    #[test]
    fn a_count_is_used_once() {
        let now = Instant::now();
        let mut ahead = ahead(now);
        let all = [(id("exact"), Some(1)), (id("filling"), Some(2))];
        assert_eq!(ahead.take(&HashSet::new(), now), all.into());
        assert_eq!(ahead.take(&HashSet::new(), now), HashMap::new());
    }

    #[test]
    fn no_request_is_accepted_by_a_count_that_missed_tokens_on_their_way() {
        let now = Instant::now();
        let ids = [id("exact"), id("filling")];
        let counts = ahead(now).take(&ids.iter().collect(), now);
        assert_eq!(counts, [(id("exact"), Some(1))].into());
    }

    #[test]
    fn an_old_count_is_made_anew() {
        let made = Instant::now();
        let late = |by| ahead(made).take(&HashSet::new(), made + by).len();
        assert_eq!(late(FRESH), 2);
        assert_eq!(late(FRESH + Duration::from_millis(1)), 0);
    }

    #[test]
    fn a_queue_that_was_put_right_is_counted_anew() {
        let now = Instant::now();
        let mut ahead = ahead(now);
        ahead.forget(&id("exact"));
        let counts = ahead.take(&HashSet::new(), now);
        assert_eq!(counts, [(id("filling"), Some(2))].into());
    }
}
