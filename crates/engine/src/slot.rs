//! What a refill worker knows about one of its buckets.

use std::sync::Arc;

use amqp::Fence;
use bucket::{Bucket, Ledger};

use super::ensure::QueueState;
use super::plan::Asked;

/// One bucket of a worker.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) bucket: Arc<Bucket>,
    /// The caller's number for this specification.
    pub(super) revision: u64,
    pub(super) stage: Stage,
    /// Number of the newest look at the queues: what an earlier one found is out of date.
    pub(super) look: u64,
    /// The ledger as last read or committed.
    pub(super) ledger: Option<Ledger>,
    /// The ledger has to be written before anything else happens to the bucket.
    pub(super) unwritten: bool,
    /// Keeps others from writing it until then.
    pub(super) fence: Option<Fence>,
    /// Requests that came while the bucket was not ready for them.
    pub(super) held: Vec<Asked>,
    /// The last look found tokens owed: that the bucket is ready is told when they are in it.
    pub(super) filling: bool,
}

impl Slot {
    /// Boxed: a large value in each empty place of a map would be half of its memory.
    pub(super) fn new(bucket: Arc<Bucket>, revision: u64) -> Box<Self> {
        Box::new(Self {
            bucket,
            revision,
            stage: Stage::Ensuring,
            look: 0,
            ledger: None,
            unwritten: false,
            fence: None,
            held: Vec::new(),
            filling: false,
        })
    }

    /// Forgets all that was only true for the channel that is gone.
    pub(super) fn put_down(&mut self) {
        self.stage = Stage::Ensuring;
        self.look += 1;
        self.unwritten = false;
        self.fence = None;
        self.held.clear();
    }
}

/// How far a bucket has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// Its ledger and queue are being looked at.
    Ensuring,
    /// The queue has another limit than the maximum, or more tokens than that: it is being put right.
    Adjusting(QueueState),
    /// Refills run. The limit is what the broker enforces.
    Ready {
        /// `x-max-length` that is in force.
        limit: Option<u64>,
    },
    /// A person must act; it is looked at again now and then.
    Stalled,
}

/// The next step for a queue whose limit or contents differ from the specification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Adjustment {
    /// Nothing is to be done.
    None,
    /// Take this many tokens out, for good.
    Trim(u64),
    /// Take all tokens out, as owed, and declare the queue anew.
    Carry,
    /// It is empty: declare it anew.
    Replace,
}

impl QueueState {
    /// What to do next so that the bucket can hold `maximum` and never more.
    pub(super) fn adjustment(self, maximum: u64) -> Adjustment {
        if self.limit == Some(maximum) {
            Adjustment::None
        } else if self.tokens == 0 {
            Adjustment::Replace
        } else if self.limit.is_some_and(|limit| limit < maximum) {
            Adjustment::Carry
        } else if self.tokens > maximum {
            Adjustment::Trim(self.tokens - maximum)
        } else {
            // A larger limit is capped by arithmetic until the bucket is empty; carrying would empty it for takers.
            Adjustment::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjustment(tokens: u64, limit: Option<u64>) -> Adjustment {
        QueueState { tokens, limit }.adjustment(10)
    }

    #[test]
    fn the_right_limit_needs_nothing() {
        assert_eq!(adjustment(10, Some(10)), Adjustment::None);
    }

    #[test]
    fn a_smaller_limit_is_replaced_with_its_tokens() {
        assert_eq!(adjustment(3, Some(5)), Adjustment::Carry);
    }

    #[test]
    fn a_larger_limit_stays_while_tokens_are_in_the_queue() {
        assert_eq!(adjustment(10, Some(99)), Adjustment::None);
        assert_eq!(adjustment(10, None), Adjustment::None);
    }

    #[test]
    fn tokens_above_the_maximum_go() {
        assert_eq!(adjustment(12, Some(99)), Adjustment::Trim(2));
        assert_eq!(adjustment(12, None), Adjustment::Trim(2));
    }

    #[test]
    fn an_empty_queue_is_declared_anew() {
        assert_eq!(adjustment(0, Some(5)), Adjustment::Replace);
        assert_eq!(adjustment(0, Some(99)), Adjustment::Replace);
        assert_eq!(adjustment(0, None), Adjustment::Replace);
    }
}
