//! What becomes of the queues of a bucket whose resource is deleted: its ledger says whose they are.

use crate::{DeletionPolicy, Ledger};

/// What is done about the queues of a bucket whose resource is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parting {
    /// They are deleted.
    Delete,
    /// They stay, as the policy wants it; where there is a ledger, it says from now on that they belong to nobody.
    Keep(Option<Box<Ledger>>),
    /// They belong to another resource, or nothing says that they belong to this one; nothing happens to them.
    NotOurs,
    /// They belong to an older resource again, from which they were taken over, and the ledger says so: that one may still
    /// be there, and would have said so with its next refill.
    HandBack(Box<Ledger>),
}

impl Parting {
    /// Decides for the resource `uid`. A ledger that is absent or cannot be read tells of no other: then the queues are
    /// deleted if they are `established` as those of `uid`.
    #[must_use]
    pub fn of(
        ledger: Option<&Ledger>,
        uid: &str,
        policy: DeletionPolicy,
        established: bool,
    ) -> Self {
        let owner = ledger.and_then(|ledger| ledger.owner.as_ref());
        match (ledger, owner, policy) {
            (_, Some(owner), _) if *owner.uid != *uid => Self::NotOurs,
            (_, None, DeletionPolicy::Delete) if !established => Self::NotOurs,
            (_, None, DeletionPolicy::Delete) => Self::Delete,
            (Some(ledger), Some(_), DeletionPolicy::Delete) => match ledger.back_to_older() {
                Some(ledger) => Self::HandBack(Box::new(ledger)),
                None => Self::Delete,
            },
            (Some(ledger), Some(_), DeletionPolicy::Retain) => {
                Self::Keep(Some(Box::new(ledger.of_nobody())))
            }
            _ => Self::Keep(None),
        }
    }

    /// The ledger that is written.
    #[must_use]
    pub fn ledger(&self) -> Option<&Ledger> {
        match self {
            Self::Keep(ledger) => ledger.as_deref(),
            Self::HandBack(ledger) => Some(ledger),
            Self::Delete | Self::NotOurs => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Owner;
    use crate::fixture::{at, ledger, owner};

    fn other(created: i64) -> Option<Box<Owner>> {
        let other = Owner {
            uid: "uid-2".into(),
            created: at(created),
            ..owner()
        };
        Some(Box::new(other))
    }

    fn parting(ledger: Option<&Ledger>, policy: DeletionPolicy, established: bool) -> Parting {
        Parting::of(ledger, &owner().uid, policy, established)
    }

    #[test]
    fn what_belongs_to_another_stays() {
        let others = Ledger {
            owner: other(-1),
            ..ledger()
        };
        for policy in [DeletionPolicy::Delete, DeletionPolicy::Retain] {
            assert_eq!(parting(Some(&others), policy, true), Parting::NotOurs);
        }
    }

    #[test]
    fn without_a_ledger_only_what_is_established_is_deleted() {
        let nobodys = ledger().of_nobody();
        for ledger in [None, Some(&nobodys)] {
            let delete = |established| parting(ledger, DeletionPolicy::Delete, established);
            assert_eq!(delete(true), Parting::Delete);
            assert_eq!(delete(false), Parting::NotOurs);
            let retain = parting(ledger, DeletionPolicy::Retain, true);
            assert_eq!(retain, Parting::Keep(None));
        }
    }

    #[test]
    fn what_is_kept_belongs_to_nobody() {
        let kept = parting(Some(&ledger()), DeletionPolicy::Retain, true);
        assert_eq!(kept.ledger().map(|ledger| &ledger.owner), Some(&None));
    }

    #[test]
    fn what_was_taken_from_an_older_resource_is_handed_back_and_tells_from_whom() {
        let taken = |rival| Ledger { rival, ..ledger() };
        let delete = |ledger: &Ledger| parting(Some(ledger), DeletionPolicy::Delete, true);
        assert_eq!(delete(&taken(other(1))), Parting::Delete);
        let parting = delete(&taken(other(-1)));
        let back = parting.ledger().unwrap();
        assert_eq!(back.owner, other(-1));
        assert_eq!(back.rival.as_deref(), Some(&owner()));
    }
}
