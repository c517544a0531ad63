//! The next step for a queue whose limit or contents differ from the specification. Tokens are interchangeable, so their
//! count is carried, not the messages; it is in the ledger while they are in no queue.

use super::event::QueueState;

/// What to do next so that a bucket can hold its maximum and never more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Adjustment {
    /// Nothing is to be done.
    None,
    /// Take this many tokens out, for good.
    Trim(u64),
    /// Take all tokens out, as owed.
    Carry,
    /// It is empty: declare it anew.
    Replace,
}

impl Adjustment {
    pub(super) fn of(queue: QueueState, maximum: u64) -> Self {
        let QueueState { tokens, limit } = queue;
        if limit == Some(maximum) {
            Self::None
        } else if tokens == 0 {
            Self::Replace
        } else if limit.is_some_and(|limit| limit < maximum) {
            Self::Carry
        } else if tokens > maximum {
            Self::Trim(tokens - maximum)
        } else {
            // A larger limit is capped by arithmetic until the bucket is empty; carrying would empty it for takers.
            Self::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjustment(tokens: u64, limit: Option<u64>) -> Adjustment {
        Adjustment::of(QueueState { tokens, limit }, 10)
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
