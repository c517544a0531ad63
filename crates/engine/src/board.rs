//! What is known about every bucket in force. Each part of the engine writes what it learns here; a change goes out
//! as one [`Outcome`], so that nobody has to put the pieces together. Survives the loss of the connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use super::outcome::{BucketState, Outcome, Phase};
use bucket::{Bucket, BucketId};

/// Shared by the tasks of an engine.
#[derive(Debug)]
pub(super) struct Board {
    known: Mutex<Known>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

#[derive(Debug, Default)]
struct Known {
    /// With the bucket's name. Shared with whoever is told.
    states: HashMap<BucketId, (Arc<str>, Arc<BucketState>)>,
    by_name: HashMap<Arc<str>, Arc<Bucket>>,
    /// Ticks that were told to be left out, and after which one. A ledger says nothing of them, so the next connection
    /// finds the same ones again.
    left_out: HashMap<BucketId, (DateTime<Utc>, u64)>,
}

impl Board {
    pub(super) fn new(outcomes: mpsc::UnboundedSender<Outcome>) -> Self {
        Self {
            known: Mutex::default(),
            outcomes,
        }
    }

    /// Tells an outcome that is not about a bucket's state.
    pub(super) fn tell(&self, outcome: Outcome) {
        // Nobody listens any more only while the program ends.
        let _ = self.outcomes.send(outcome);
    }

    /// A specification is to be put into force.
    pub(super) fn enter(&self, bucket: &Arc<Bucket>) {
        let mut known = self.lock();
        known.by_name.insert(bucket.name.clone(), bucket.clone());
        known.states.entry(bucket.id.clone()).or_insert_with(|| {
            let state = BucketState {
                revision: 0,
                phase: Phase::Progressing {
                    reason: "Declaring",
                    message: "The queues are being declared.".into(),
                },
                observed: None,
                limit: None,
                last_refill: None,
                next_refill: None,
                issued: 0,
                refill_request: None,
            };
            (bucket.name.clone(), Arc::new(state))
        });
    }

    /// Changes what is known about a bucket, and tells it when that is news.
    pub(super) fn update(&self, id: &BucketId, change: impl FnOnce(&mut BucketState)) {
        let mut known = self.lock();
        let Some((_, state)) = known.states.get_mut(id) else {
            return;
        };
        let mut changed = BucketState::clone(state);
        change(&mut changed);
        if changed != **state {
            *state = Arc::new(changed);
            self.tell(Outcome::Bucket(id.clone(), state.clone()));
        }
    }

    /// Tells how many ticks after `reference` are left out, apart from those that were told before.
    pub(super) fn leave_out(&self, bucket: &Bucket, reference: DateTime<Utc>, ticks: u64) {
        let mut known = self.lock();
        if !known.states.contains_key(&bucket.id) {
            // It has left: nobody would ever forget what is entered here.
            return;
        }
        let before = known.left_out.insert(bucket.id.clone(), (reference, ticks));
        drop(known);
        let told = before.filter(|(after, _)| *after == reference);
        let ticks = ticks.saturating_sub(told.map_or(0, |(_, ticks)| ticks));
        if ticks > 0 {
            self.tell(Outcome::LeftOut {
                policy: bucket.missed_refills,
                ticks,
            });
        }
    }

    /// The bucket is not in force any more.
    pub(super) fn leave(&self, id: &BucketId) {
        let mut known = self.lock();
        known.left_out.remove(id);
        if let Some((name, _)) = known.states.remove(id) {
            known.by_name.remove(&name);
        }
    }

    /// The queue where refill requests of the bucket called `name` belong.
    pub(super) fn refill_queue_of(&self, name: &str) -> Option<String> {
        let known = self.lock();
        known
            .by_name
            .get(name)
            .map(|bucket| bucket.refill_queue.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // The maps are valid between any two statements, so a panic elsewhere while they were held does no harm.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bucket::fixture::{at, bucket};

    #[test]
    fn a_tick_that_is_left_out_is_told_once_however_often_it_is_found() {
        let (sender, mut outcomes) = mpsc::unbounded_channel();
        let (board, bucket) = (Board::new(sender), Arc::new(bucket()));
        let mut told = |second, ticks| {
            board.leave_out(&bucket, at(second), ticks);
            match outcomes.try_recv() {
                Ok(Outcome::LeftOut { ticks, .. }) => ticks,
                _ => 0,
            }
        };
        // The bucket has left, or never came.
        assert_eq!(told(0, 3), 0);
        board.enter(&bucket);
        assert_eq!(told(0, 3), 3);
        // The next connection finds the same ones, and two more.
        assert_eq!(told(0, 3), 0);
        assert_eq!(told(0, 5), 2);
        // A refill has moved the reference.
        assert_eq!(told(600, 2), 2);
    }
}
