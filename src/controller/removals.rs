//! Removals of queues that are under way. A broker may take long to answer: a pass that waited for it would keep others from
//! their turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::errors::Error;
use super::triggers::ReconcileTriggers;
use bucket::BucketId;
use engine::{Engine, Removal};

/// One attempt may take so long.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// By resource.
#[derive(Clone, Debug)]
pub(super) struct Removals {
    triggers: ReconcileTriggers,
    attempts: Arc<Mutex<HashMap<BucketId, Attempt>>>,
}

#[derive(Debug)]
struct Attempt {
    uid: Arc<str>,
    /// None while it is under way.
    result: Option<Result<(), Error>>,
}

impl Removals {
    /// Has resources reconciled by `triggers` when their removal has ended.
    pub(super) fn new(triggers: ReconcileTriggers) -> Self {
        Self {
            triggers,
            attempts: Arc::default(),
        }
    }

    /// What became of the removal; None: it is under way, from now on if it was not before.
    pub(super) fn result(&self, removal: Removal, engine: Engine) -> Option<Result<(), Error>> {
        let id = removal.id.clone();
        let mut attempts = self.attempts();
        if attempts.get(&id).is_some_and(|it| it.uid == removal.uid) {
            let ended = attempts.remove(&id)?;
            if ended.result.is_none() {
                attempts.insert(id, ended);
                return None;
            }
            return ended.result;
        }
        let uid = removal.uid.clone();
        let attempt = Attempt {
            uid: uid.clone(),
            result: None,
        };
        attempts.insert(id.clone(), attempt);
        drop(attempts);
        let this = self.clone();
        tokio::spawn(async move {
            let removed = timeout(ATTEMPT_TIMEOUT, engine.remove(removal)).await;
            let removed = match removed {
                Ok(removed) => removed.map(drop).map_err(Error::from),
                Err(_) => Err(Error::Timeout),
            };
            this.ended(&id, &uid, removed);
        });
        None
    }

    fn ended(&self, id: &BucketId, uid: &str, result: Result<(), Error>) {
        // Unless nobody wants to know any more.
        if let Some(attempt) = self.attempts().get_mut(id)
            && *attempt.uid == *uid
        {
            attempt.result = Some(result);
        }
        self.triggers.send(std::slice::from_ref(id));
    }

    /// Nobody wants to know any more what became of it.
    pub(super) fn forget(&self, id: &BucketId) {
        self.attempts().remove(id);
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<BucketId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
