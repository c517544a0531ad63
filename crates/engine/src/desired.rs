//! What is desired of an engine: a map with what it has not taken up yet, and a notification. Of a bucket only the newest
//! specification counts, so that a storm of edits needs no more room than its buckets; what has not changed, the machine
//! finds out.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bucket::machine::Removal;
use bucket::{Bucket, BucketId, Contents, Known};
use tokio::sync::{Notify, oneshot};

use crate::remove_error::RemoveError;

/// Tells whoever wants a removal what became of it.
pub(crate) type Answer = oneshot::Sender<Result<Option<Contents>, RemoveError>>;

/// Something for the engine to take up.
#[derive(Debug)]
pub(crate) enum Change {
    Apply(Arc<Bucket>, u64, Option<Known>),
    Release(BucketId),
    Remove(Removal, Answer),
}

/// What is desired and not taken up.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    buckets: HashMap<BucketId, OfBucket>,
    /// The buckets, in the order in which something was first desired of them: one that gives a name up is before the one
    /// that gets it.
    order: VecDeque<BucketId>,
    /// Nobody will take anything up any more.
    closed: bool,
}

/// What is desired of one bucket: removals, each of which is answered, and then the newest specification or none.
#[derive(Debug, Default)]
struct OfBucket {
    removals: VecDeque<(Removal, Answer)>,
    /// An `Apply` or a `Release`.
    last: Option<Change>,
}

/// Closes when it is dropped, however the engine ends.
pub(crate) struct CloseOnDrop<'d>(&'d Desired);

impl Desired {
    pub(crate) fn apply(&self, bucket: Arc<Bucket>, revision: u64, known: Option<Known>) {
        let id = bucket.id.clone();
        self.change(&id, |desired| {
            // What is known of a resource is told once.
            let before = match desired.last.take() {
                Some(Change::Apply(before, _, known)) if before.uid == bucket.uid => known,
                _ => None,
            };
            desired.last = Some(Change::Apply(bucket, revision, known.or(before)));
        });
    }

    pub(crate) fn release(&self, id: &BucketId) {
        self.change(id, |desired| {
            desired.last = Some(Change::Release(id.clone()));
        });
    }

    /// The answer is an error of the channel when the engine has ended.
    pub(crate) fn remove(
        &self,
        removal: Removal,
    ) -> oneshot::Receiver<Result<Option<Contents>, RemoveError>> {
        let (answer, wait) = oneshot::channel();
        let id = removal.id.clone();
        self.change(&id, |desired| {
            // Who asked before may have given up meanwhile.
            desired.removals.retain(|(_, answer)| !answer.is_closed());
            desired.removals.push_back((removal, answer));
            desired.last = None;
        });
        wait
    }

    fn change(&self, id: &BucketId, change: impl FnOnce(&mut OfBucket)) {
        let mut pending = self.pending();
        if pending.closed {
            return;
        }
        if !pending.buckets.contains_key(id) {
            pending.order.push_back(id.clone());
        }
        change(pending.buckets.entry(id.clone()).or_default());
        drop(pending);
        self.changed.notify_one();
    }

    /// Waits for the next change. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Change {
        loop {
            if let Some(change) = self.take() {
                return change;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<Change> {
        let mut pending = self.pending();
        loop {
            let id = pending.order.front()?.clone();
            let change = pending.buckets.get_mut(&id).and_then(|desired| {
                let removal = desired.removals.pop_front();
                let removal = removal.map(|(removal, answer)| Change::Remove(removal, answer));
                removal.or_else(|| desired.last.take())
            });
            if change.is_some() {
                return change;
            }
            pending.order.pop_front();
            pending.buckets.remove(&id);
        }
    }

    /// When the guard is dropped, removals that wait are not answered any more.
    pub(crate) fn close_on_drop(&self) -> CloseOnDrop<'_> {
        CloseOnDrop(self)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        let closed = true;
        *self.0.pending() = Pending {
            closed,
            ..Pending::default()
        };
    }
}

#[cfg(test)]
mod tests;
