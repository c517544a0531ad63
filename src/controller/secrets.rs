//! What was read of Secrets, and when each may be read again. A bucket whose Secret is missing must not cost a request every
//! few seconds: there can be thousands of them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Resource;
use kube::runtime::watcher::Event;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::rereads::{Rereads, Seen};
use super::resolve::ResolveError;
use super::resource::{Guarded, id_of};
use amqp::Endpoint;
use bucket::{BucketId, backoff};

/// A Secret is read at most so often, however many buckets name it; after failures the pause doubles from this…
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(160);
/// The API server did not answer: that says nothing about the Secret.
const PAUSE_WHILE_AWAY: Duration = Duration::from_secs(2);

/// Namespace and name of a Secret.
pub(super) type SecretName = (String, String);
type Outcome = Result<Endpoint, ResolveError>;

/// The Secrets that TokenBuckets name, and no others.
#[derive(Default)]
pub(super) struct Secrets {
    inner: Mutex<Inner>,
    /// More Secrets are named.
    more: Notify,
}

#[derive(Default)]
struct Inner {
    secrets: HashMap<SecretName, Named>,
    namings: HashMap<BucketId, Naming>,
    rereads: Rereads,
}

/// A Secret that is named.
#[derive(Default)]
struct Named {
    by: HashSet<BucketId>,
    /// Those that are to be reconciled when it has been read.
    waiting: HashSet<BucketId>,
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Slot {
    /// Held while the Secret is read: whoever wants it meanwhile waits for what comes.
    look: tokio::sync::Mutex<Option<Look>>,
    /// Somebody has changed, or made, a TokenBucket that names it: perhaps the Secret too.
    news: AtomicBool,
}

/// Which Secret a resource names, and the version of the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Naming {
    secret: SecretName,
    uid: Option<String>,
    generation: Option<i64>,
}

/// What came of reading a Secret.
struct Look {
    outcome: Outcome,
    at: Instant,
    next: Instant,
    failures: u32,
}

impl Look {
    /// `jitter` from 0 to 1: Secrets that were asked for together are spread over time.
    fn new(outcome: Outcome, before: u32, at: Instant, jitter: f64) -> Self {
        let (pause, failures) = match &outcome {
            Ok(_) => (SHORTEST_PAUSE, 0),
            Err(ResolveError::SecretUnavailable { .. }) => (PAUSE_WHILE_AWAY, before),
            Err(_) => {
                let pause = backoff(SHORTEST_PAUSE, before, LONGEST_PAUSE);
                let pause = pause.mul_f64(0.75 + jitter / 4.0).max(SHORTEST_PAUSE);
                (pause, before.saturating_add(1))
            }
        };
        Self {
            outcome,
            at,
            next: at + pause,
            failures,
        }
    }

    /// Its Secret may have been changed.
    fn doubt(&mut self) {
        self.failures = 0;
        self.next = self.next.min(self.at + SHORTEST_PAUSE);
    }
}

/// What is known of a Secret.
pub(super) struct Answer {
    /// Its broker, or why there is none.
    pub(super) outcome: Outcome,
    /// It is not as it was: these buckets name it.
    pub(super) concerned: Vec<BucketId>,
}

impl Secrets {
    /// None is named. Each one that is will be looked at once in the interval.
    pub(super) fn new(reread_interval: Duration) -> Self {
        let rereads = Rereads::new(reread_interval);
        let inner = Mutex::new(Inner {
            rereads,
            ..Inner::default()
        });
        let more = Notify::new();
        Self { inner, more }
    }

    /// Takes note of what a watch shows; `gone` are the resources that it means the end of.
    pub(super) fn observe(&self, event: &Event<Guarded>, gone: &[BucketId]) {
        let mut inner = self.inner();
        for id in gone {
            inner.unname(id);
        }
        if let Event::Apply(object) | Event::InitApply(object) = event {
            let id = id_of(object);
            let spec = object.0.as_ref().ok().map(|bucket| &bucket.spec);
            let naming = spec.and_then(|spec| spec.secret()).map(|secret| Naming {
                secret: (id.namespace().to_owned(), secret.to_owned()),
                uid: object.meta().uid.clone(),
                generation: object.meta().generation,
            });
            inner.name(&id, naming);
            self.more.notify_one();
        }
    }

    /// Whether the resource names a Secret.
    #[must_use]
    pub(super) fn is_named_by(&self, id: &BucketId) -> bool {
        self.inner().namings.contains_key(id)
    }

    /// What is known of a Secret; when that is old, or nothing, what `read` answers.
    pub(super) async fn get(
        &self,
        namespace: &str,
        name: &str,
        read: impl Future<Output = Outcome>,
    ) -> Answer {
        let Some(slot) = self.slot(namespace, name) else {
            // Nobody names it any more.
            let (outcome, concerned) = (read.await, Vec::new());
            return Answer { outcome, concerned };
        };
        let mut look = slot.look.lock().await;
        let news = slot.news.swap(false, Ordering::SeqCst);
        if let Some(look) = look.as_mut() {
            if news {
                look.doubt();
            }
            if Instant::now() < look.next {
                let (outcome, concerned) = (look.outcome.clone(), Vec::new());
                return Answer { outcome, concerned };
            }
        }
        let before = look.take();
        let outcome = read.await;
        let failures = before.as_ref().map_or(0, |look| look.failures);
        let new = Look::new(outcome.clone(), failures, Instant::now(), rand::random());
        *look = Some(new);
        drop(look);
        let concerned = match before {
            Some(before) if !are_alike(&before.outcome, &outcome) => self.named_by(namespace, name),
            _ => Vec::new(),
        };
        Answer { outcome, concerned }
    }

    /// Reads a Secret that is in use once more. Answers whom it concerns that it is not as it was; None when that is not known.
    pub(super) async fn get_again(
        &self,
        (namespace, name): &SecretName,
        read: impl Future<Output = Outcome>,
    ) -> Option<Vec<BucketId>> {
        let slot = self.slot(namespace, name)?;
        let mut look = slot.look.lock().await;
        let outcome = read.await;
        if let Err(ResolveError::SecretUnavailable { .. }) = outcome {
            return None;
        }
        let is_same = look
            .as_ref()
            .is_some_and(|look| are_alike(&look.outcome, &outcome));
        *look = Some(Look::new(outcome, 0, Instant::now(), rand::random()));
        drop(look);
        let concerned = || self.named_by(namespace, name);
        Some(if is_same { Vec::new() } else { concerned() })
    }

    /// Waits for the turn of a Secret that is in use to be looked at again. One that cannot be used has turns of its own.
    pub(super) async fn due_again(&self) -> SecretName {
        loop {
            let next = self.inner().rereads.next(Instant::now());
            match next {
                Ok(secret) if self.may_be_in_use(&secret) => return secret,
                Ok(_) => {}
                Err(Some(at)) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.more.notified() => {}
                },
                Err(None) => self.more.notified().await,
            }
        }
    }

    /// Takes note of such a look. Answers whether the Secret has to be read.
    pub(super) fn saw(&self, secret: &SecretName, seen: Seen) -> bool {
        self.inner().rereads.saw(secret, seen)
    }

    /// It could not be read.
    pub(super) fn forget_seen(&self, secret: &SecretName) {
        self.inner().rereads.forget_seen(secret);
    }

    /// Whether it may name a broker. While it is being read it needs no further look.
    fn may_be_in_use(&self, (namespace, name): &SecretName) -> bool {
        let Some(slot) = self.slot(namespace, name) else {
            return false;
        };
        let Ok(look) = slot.look.try_lock() else {
            return false;
        };
        look.as_ref().is_none_or(|look| {
            let unknown = matches!(look.outcome, Err(ResolveError::SecretUnavailable { .. }));
            look.outcome.is_ok() || unknown
        })
    }

    /// What is known of a Secret. Otherwise it has to be read, and `id` waits for that: answers whether it is the first.
    ///
    /// # Errors
    /// Whether nobody else waits.
    pub(super) fn known(&self, id: &BucketId, name: &str) -> Result<Outcome, bool> {
        let mut inner = self.inner();
        let key = (id.namespace().to_owned(), name.to_owned());
        let Some(named) = inner.secrets.get_mut(&key) else {
            // The resource has changed meanwhile.
            return Err(false);
        };
        if let Ok(mut look) = named.slot.look.try_lock()
            && let Some(look) = look.as_mut()
        {
            if named.slot.news.swap(false, Ordering::SeqCst) {
                look.doubt();
            }
            if Instant::now() < look.next {
                return Ok(look.outcome.clone());
            }
        }
        let is_first = named.waiting.is_empty();
        named.waiting.insert(id.clone());
        Err(is_first)
    }

    /// Those that waited for a Secret, once.
    pub(super) fn take_waiting(&self, name: &SecretName) -> Vec<BucketId> {
        let mut inner = self.inner();
        let named = inner.secrets.get_mut(name);
        named.map_or_else(Vec::new, |named| named.waiting.drain().collect())
    }

    /// How long until it may be read again.
    #[must_use]
    pub(super) fn pause(&self, namespace: &str, name: &str) -> Duration {
        let slot = self.slot(namespace, name);
        let next = slot.and_then(|slot| Some(slot.look.try_lock().ok()?.as_ref()?.next));
        next.map_or(SHORTEST_PAUSE, |next| {
            next.saturating_duration_since(Instant::now())
        })
    }

    fn slot(&self, namespace: &str, name: &str) -> Option<Arc<Slot>> {
        let key = (namespace.to_owned(), name.to_owned());
        Some(self.inner().secrets.get(&key)?.slot.clone())
    }

    fn named_by(&self, namespace: &str, name: &str) -> Vec<BucketId> {
        let key = (namespace.to_owned(), name.to_owned());
        let inner = self.inner();
        let named = inner.secrets.get(&key);
        named.map_or_else(Vec::new, |named| named.by.iter().cloned().collect())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody is concerned when the second comes after the first. What is not known concerns nobody.
fn are_alike(before: &Outcome, after: &Outcome) -> bool {
    match (before, after) {
        (_, Err(ResolveError::SecretUnavailable { .. })) => true,
        (Ok(before), Ok(after)) => before == after,
        (Err(before), Err(after)) => before.to_string() == after.to_string(),
        _ => false,
    }
}

impl Inner {
    fn name(&mut self, id: &BucketId, naming: Option<Naming>) {
        if self.namings.get(id) == naming.as_ref() {
            return;
        }
        let Some(naming) = naming else {
            return self.unname(id);
        };
        // First the new one, so that a Secret that stays named is not forgotten.
        if !self.secrets.contains_key(&naming.secret) {
            let phase = rand::random();
            self.rereads.add(&naming.secret, Instant::now(), phase);
        }
        let named = self.secrets.entry(naming.secret.clone()).or_default();
        named.by.insert(id.clone());
        named.slot.news.store(true, Ordering::SeqCst);
        let secret = naming.secret.clone();
        if let Some(before) = self.namings.insert(id.clone(), naming)
            && before.secret != secret
        {
            self.release(id, &before.secret);
        }
    }

    fn unname(&mut self, id: &BucketId) {
        if let Some(before) = self.namings.remove(id) {
            self.release(id, &before.secret);
        }
    }

    fn release(&mut self, id: &BucketId, secret: &SecretName) {
        if let Some(named) = self.secrets.get_mut(secret) {
            named.by.remove(id);
            named.waiting.remove(id);
            if named.by.is_empty() {
                self.secrets.remove(secret);
                self.rereads.remove(secret);
            }
        }
    }
}

#[cfg(test)]
mod tests;
