//! What is known about every bucket in force. Each part of the engine writes what it learns here; a change goes out
//! as one [`Outcome`], so that nobody has to put the pieces together. Survives the loss of the connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::outcome::{BucketState, Outcome, Phase};
use crate::bucket::{Bucket, BucketId};

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

    /// The bucket is not in force any more.
    pub(super) fn leave(&self, id: &BucketId) {
        let mut known = self.lock();
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
