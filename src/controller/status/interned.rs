//! Statuses as they are kept between two writes. Of thousands of buckets most say the same about themselves, at other
//! times: such texts are kept once.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::controller::interner::Interner;
use api::TokenBucketStatus;

/// A status without what others say too.
#[derive(Debug, Default)]
pub(super) struct InternedStatus {
    words: Arc<[Words]>,
    /// When each of the conditions began.
    since: Box<[Time]>,
    /// All the rest.
    rest: TokenBucketStatus,
}

/// A condition without its time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Words {
    type_: String,
    status: String,
    reason: String,
    message: String,
    observed_generation: Option<i64>,
}

/// The texts of all statuses that are kept.
#[derive(Debug, Default)]
pub(super) struct StatusInterner(Interner<[Words]>);

impl StatusInterner {
    pub(super) fn intern(&mut self, mut status: TokenBucketStatus) -> InternedStatus {
        let (words, since): (Vec<_>, Vec<_>) = std::mem::take(&mut status.conditions)
            .into_iter()
            .map(|condition| {
                let Condition {
                    type_,
                    status,
                    reason,
                    message,
                    observed_generation,
                    last_transition_time,
                } = condition;
                let words = Words {
                    type_,
                    status,
                    reason,
                    message,
                    observed_generation,
                };
                (words, last_transition_time)
            })
            .unzip();
        InternedStatus {
            words: self.0.intern(words.into()),
            since: since.into(),
            rest: status,
        }
    }
}

impl InternedStatus {
    /// The status as it was.
    pub(super) fn status(&self) -> TokenBucketStatus {
        let condition = |(words, since): (&Words, &Time)| Condition {
            type_: words.type_.clone(),
            status: words.status.clone(),
            reason: words.reason.clone(),
            message: words.message.clone(),
            observed_generation: words.observed_generation,
            last_transition_time: since.clone(),
        };
        TokenBucketStatus {
            conditions: self.words.iter().zip(&self.since).map(condition).collect(),
            ..self.rest.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compose::compose;
    use super::super::fixture::{at, in_force, refused, state};
    use super::*;
    use engine::ConnectionState;

    fn ready(tokens: u64, second: i64) -> TokenBucketStatus {
        compose(
            &in_force(1),
            Some(&state(1, tokens)),
            Some(&ConnectionState::Up),
            &TokenBucketStatus::default(),
            at(second),
        )
    }

    fn stalled(generation: i64) -> TokenBucketStatus {
        let none = TokenBucketStatus::default();
        compose(&refused(generation, "Malformed"), None, None, &none, at(1))
    }

    #[test]
    fn a_status_comes_back_as_it_was() {
        let mut interner = StatusInterner::default();
        for status in [ready(5, 1), stalled(3), TokenBucketStatus::default()] {
            assert_eq!(interner.intern(status.clone()).status(), status);
        }
    }

    #[test]
    fn what_many_say_is_kept_once() {
        let mut interner = StatusInterner::default();
        let (one, other) = (interner.intern(ready(5, 1)), interner.intern(ready(7, 2)));
        assert!(Arc::ptr_eq(&one.words, &other.words));
        assert_eq!(other.status(), ready(7, 2));
    }
}
