//! Which ledgers this connection has written. What others have just added to a queue may be missing from a count: a
//! classic queue answers that ahead of the messages that it has not taken in yet, a quorum queue while it replicates them. A commit is answered when all queues have
//! taken in theirs; so a ledger that bears the stamp of one of our commits, and that commit was answered, says that
//! there is nothing of the kind.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The commits of one connection.
#[derive(Debug)]
pub(super) struct Stamps {
    /// No other connection has it.
    connection: u64,
    next: AtomicU64,
    /// Those that were not answered: few, since each ends its channel.
    open: Mutex<BTreeSet<u64>>,
}

impl Default for Stamps {
    fn default() -> Self {
        Self {
            connection: RandomState::new().build_hasher().finish(),
            next: AtomicU64::default(),
            open: Mutex::default(),
        }
    }
}

impl Stamps {
    /// A commit begins.
    pub(super) fn begin(&self) -> u64 {
        let mut open = self.open();
        let commit = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(commit);
        commit
    }

    /// The commit was answered.
    pub(super) fn end(&self, commit: u64) {
        self.open().remove(&commit);
    }

    /// What the ledgers of a commit bear.
    pub(super) fn stamp(&self, commit: u64) -> String {
        stamp(self.connection, commit)
    }

    /// The commits that were answered by now.
    pub(super) fn answered(&self) -> Answered {
        // The lock keeps commits from beginning meanwhile.
        let open = self.open();
        Answered {
            connection: self.connection,
            next: self.next.load(Ordering::Relaxed),
            open: open.clone(),
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The commits of one connection that were answered at some time.
#[derive(Debug)]
pub(super) struct Answered {
    connection: u64,
    next: u64,
    open: BTreeSet<u64>,
}

impl Answered {
    /// The stamp is of one of them.
    pub(super) fn has(&self, text: &str) -> bool {
        let commit = text.split_once('.').and_then(|(_, it)| it.parse().ok());
        commit.is_some_and(|commit| {
            commit < self.next
                && !self.open.contains(&commit)
                && stamp(self.connection, commit) == text
        })
    }
}

fn stamp(connection: u64, commit: u64) -> String {
    format!("{connection:016x}.{commit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_of_a_commit_that_was_answered_by_then_or_not() {
        let (ours, others) = (Stamps::default(), Stamps::default());
        let (first, second) = (ours.begin(), ours.begin());
        let before = ours.answered();
        ours.end(second);
        let after = ours.answered();
        let third = ours.begin();
        ours.end(third);
        let stamp = ours.stamp(second);
        assert!(after.has(&stamp) && !before.has(&stamp));
        assert!(!after.has(&ours.stamp(first)) && !after.has(&ours.stamp(third)));
        assert!(!others.answered().has(&stamp));
        for other in [
            "",
            ".",
            "7",
            "x.1",
            &format!("{stamp}0"),
            &format!("{stamp}.1"),
        ] {
            assert!(!after.has(other), "{other}");
        }
    }
}
