//! Whose bucket it is. A resource that finds somebody else's ledger takes it over: the other one is gone, or it would
//! have been told apart before. Only when the other one takes it back are there two, and the older one keeps it.
//! Of resources that are known to exist, the one in the ledger keeps it, however old the others are.

use std::sync::Arc;

use super::outcome::Phase;
use crate::{Bucket, Ledger, Owner};

/// What a resource may do with a ledger.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Claim {
    /// It is its own, or nobody's.
    Ours,
    /// It was somebody else's, who has not been heard of since.
    TakenOver,
    /// Somebody else writes it too, and comes later.
    Contested(Box<Owner>),
    /// Somebody else writes it too, and comes first, or was there first.
    Yield(Box<Owner>),
}

/// Decides for `ours`, which has written the ledger before if `owned`. `gone` is the UID of a resource that is gone for
/// certain: a replica that has not heard of that may write for it still. `rivals` are UIDs of resources that exist.
pub(super) fn claim(
    ledger: &Ledger,
    ours: &Owner,
    owned: bool,
    gone: Option<&str>,
    rivals: &[Arc<str>],
) -> Claim {
    let Some(owner) = &ledger.owner else {
        return Claim::Ours;
    };
    if gone == Some(&owner.uid) {
        return Claim::TakenOver;
    }
    let lost_it = owned
        || ledger
            .rival
            .as_ref()
            .is_some_and(|rival| rival.uid == ours.uid);
    if owner.uid == ours.uid {
        Claim::Ours
    } else if rivals.iter().any(|rival| **rival == *owner.uid) {
        Claim::Yield(owner.clone())
    } else if !lost_it {
        Claim::TakenOver
    } else if ours.precedes(owner) {
        Claim::Contested(owner.clone())
    } else {
        Claim::Yield(owner.clone())
    }
}

/// What is told of `bucket` when its ledger belongs to `owner`, which comes first.
pub(super) fn conflict(bucket: &Bucket, owner: &Owner) -> Phase {
    let message = format!(
        "Queue {} is refilled for {} too, which comes first: give this one another spec.name, or delete that one. If it is \
         gone for good, purge queue {}.",
        bucket.queue(),
        described(owner),
        bucket.ledger_queue()
    );
    Phase::stalled("NameConflict", message)
}

/// Who that is, for people.
pub(super) fn described(owner: &Owner) -> String {
    let Owner {
        operator,
        resource,
        uid,
        created: _,
    } = owner;
    if resource.is_empty() {
        format!("another resource (UID {uid})")
    } else {
        format!("TokenBucket {resource} (UID {uid}, operator {operator})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, ledger, owner};

    fn other(created: i64) -> Owner {
        Owner {
            uid: "uid-2".into(),
            created: at(created),
            ..owner()
        }
    }

    fn of(other: &Owner, rival: Option<Owner>) -> Ledger {
        Ledger {
            owner: Some(Box::new(other.clone())),
            rival: rival.map(Box::new),
            ..ledger()
        }
    }

    #[test]
    fn a_ledger_of_its_own_or_of_nobody_is_free_to_use() {
        assert_eq!(claim(&ledger(), &owner(), true, None, &[]), Claim::Ours);
        let nobodys = Ledger {
            owner: None,
            ..ledger()
        };
        assert_eq!(claim(&nobodys, &owner(), true, None, &[]), Claim::Ours);
    }

    #[test]
    fn a_ledger_that_somebody_left_is_taken_over() {
        let left = of(&other(-1), Some(other(-2)));
        assert_eq!(claim(&left, &owner(), false, None, &[]), Claim::TakenOver);
    }

    #[test]
    fn a_resource_that_is_gone_contends_for_nothing() {
        let gone = of(&other(-1), Some(owner()));
        let claimed = claim(&gone, &owner(), true, Some("uid-2"), &[]);
        assert_eq!(claimed, Claim::TakenOver);
    }

    #[test]
    fn of_two_that_write_in_turn_the_older_keeps_the_ledger() {
        let (older, younger) = (other(-1), other(1));
        for (owned, rival) in [(true, None), (false, Some(owner()))] {
            let claimed =
                |other: &Owner| claim(&of(other, rival.clone()), &owner(), owned, None, &[]);
            assert_eq!(claimed(&older), Claim::Yield(older.clone().into()));
            assert_eq!(claimed(&younger), Claim::Contested(younger.clone().into()));
        }
    }

    #[test]
    fn whoever_has_the_ledger_keeps_it_while_it_exists() {
        let (older, younger) = (other(-1), other(1));
        for there in [older, younger] {
            let claimed =
                |rivals: &[Arc<str>]| claim(&of(&there, None), &owner(), false, None, rivals);
            assert_eq!(
                claimed(&["uid-2".into()]),
                Claim::Yield(there.clone().into())
            );
            assert_eq!(claimed(&["uid-3".into()]), Claim::TakenOver);
        }
    }
}
