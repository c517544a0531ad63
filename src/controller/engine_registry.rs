//! The registry of engines: one for each broker that buckets are at, and which bucket is assigned to which of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::status::Report;
use super::triggers::ReconcileTriggers;
use amqp::{Endpoint, Place};
use bucket::BucketId;
use engine::{ConnectionState, Engine, Options, Outcome};

/// All engines, and which bucket is at which of them.
pub(super) struct EngineRegistry {
    options: Options,
    reports: mpsc::UnboundedSender<Report>,
    facts: mpsc::UnboundedSender<Fact>,
    triggers: ReconcileTriggers,
    stop: CancellationToken,
    crashed: CancellationToken,
    tasks: TaskTracker,
    /// Brokers that the buckets of one namespace may be at, besides the operator's own.
    most_brokers: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    engines: HashMap<Endpoint, Running>,
    assignments: HashMap<BucketId, Assignment>,
    sources: HashMap<BucketId, Source>,
    /// Engines that have been told to stop: each is cancelled when it has.
    ending: Vec<(Endpoint, CancellationToken)>,
    /// Buckets of each namespace at each broker that a `spec.connection` names.
    named: HashMap<Box<str>, HashMap<Endpoint, HashSet<BucketId>>>,
    /// Buckets of each namespace that were not admitted.
    refused: HashMap<Box<str>, BTreeSet<BucketId>>,
    /// Buckets of each namespace that are about to leave a broker.
    visits: HashMap<Box<str>, usize>,
}

/// What names the broker of a bucket.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    /// Namespace and name of a Secret; None: the operator's own setting.
    secret: Option<(Box<str>, Box<str>)>,
    /// The resource names its virtual host itself.
    vhost: Option<Box<str>>,
}

/// Where a bucket is.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    /// At which broker, and as whom.
    pub endpoint: Endpoint,
    /// Its ledger there names its resource.
    pub owns: bool,
}

/// What an engine tells that concerns resources which name the same queue.
#[derive(Debug)]
pub(super) enum Fact {
    /// The engine of a broker is connected: it is known which one that is.
    Connected,
    /// Whom the ledger of a bucket names.
    Owned {
        /// Where.
        endpoint: Endpoint,
        /// The bucket that wants it.
        bucket: BucketId,
        /// UID of the resource that has it.
        owner: Box<str>,
    },
}

struct Running {
    engine: Engine,
    stop: CancellationToken,
    buckets: HashSet<BucketId>,
    /// Buckets that are about to leave it, and are not among these.
    visits: usize,
    /// Whether buckets are at the broker still.
    used: Arc<Mutex<bool>>,
    ended: CancellationToken,
}

/// An engine that goes on while a bucket leaves.
pub(super) struct Visit<'r> {
    registry: &'r EngineRegistry,
    namespace: Box<str>,
    endpoint: Endpoint,
    /// The engine.
    pub engine: Engine,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.registry.end_visit(&self.namespace, &self.endpoint);
    }
}

impl EngineRegistry {
    /// No engine yet. Each one that is started reports on `reports` and `facts`, and stops on `stop`.
    #[must_use]
    pub(super) fn new(
        options: Options,
        most_brokers: usize,
        reports: mpsc::UnboundedSender<Report>,
        facts: mpsc::UnboundedSender<Fact>,
        triggers: ReconcileTriggers,
        stop: CancellationToken,
    ) -> Self {
        Self {
            options,
            reports,
            facts,
            triggers,
            stop,
            crashed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            most_brokers,
            inner: Mutex::default(),
        }
    }

    /// Lets `id` be at a broker that its `spec.connection` names, from the next [`EngineRegistry::assign`] on. Each broker
    /// costs a connection and its threads. One that is refused is reconciled when there may be room for it.
    ///
    /// # Errors
    /// As many brokers as the buckets of the namespace are at, when they may be at no more.
    pub(super) fn admit(&self, id: &BucketId, endpoint: &Endpoint) -> Result<(), usize> {
        let mut inner = self.inner();
        let named = inner.named.entry(id.namespace().into()).or_default();
        let alone = |(broker, buckets): (&Endpoint, &HashSet<BucketId>)| {
            broker != endpoint && buckets.len() == 1 && buckets.contains(id)
        };
        // One that it leaves, and nobody else is at.
        let others = named.len() - usize::from(named.iter().any(alone));
        if !named.contains_key(endpoint) && others >= self.most_brokers {
            let refused = inner.refused.entry(id.namespace().into()).or_default();
            refused.insert(id.clone());
            return Err(others);
        }
        named
            .entry(endpoint.clone())
            .or_default()
            .insert(id.clone());
        inner.not_refused(id);
        Ok(())
    }

    /// What names the broker of `id`, a Secret or the operator's own setting, names `endpoint`. When it named another one before,
    /// all of its buckets leave that one together, and are reconciled. One after the other, the engine there would go on
    /// meanwhile, and take the refill requests of those that have left for requests of nobody.
    pub(super) fn follow(
        &self,
        id: &BucketId,
        endpoint: &Endpoint,
        secret: Option<&str>,
        vhost: Option<&str>,
    ) {
        let mut inner = self.inner();
        let source = Source {
            secret: secret.map(|name| (id.namespace().into(), name.into())),
            vhost: vhost.map(Into::into),
        };
        let is_of_source = |inner: &Inner, id: &_| inner.sources.get(id) == Some(&source);
        let before = inner.assignments.get(id).map(|it| it.endpoint.clone());
        if let Some(before) = before.filter(|before| before != endpoint)
            && is_of_source(&inner, id)
        {
            let at = inner.engines.get(&before).map(|it| it.buckets.iter());
            let along = at.into_iter().flatten();
            let along = along.filter(|other| *other != id && is_of_source(&inner, other));
            let along: Vec<_> = along.cloned().collect();
            for other in &along {
                self.release(&mut inner, other);
            }
            self.triggers.send(&along);
        }
        inner.sources.insert(id.clone(), source);
    }

    /// The engine of `endpoint`, which `id` is at from now on; where it was before, it is released.
    pub(super) fn assign(&self, id: &BucketId, endpoint: &Endpoint) -> Engine {
        let mut inner = self.inner();
        if inner
            .assignments
            .get(id)
            .is_some_and(|before| before.endpoint != *endpoint)
        {
            self.release(&mut inner, id);
        }
        let running = self.running(&mut inner, endpoint);
        running.buckets.insert(id.clone());
        let engine = running.engine.clone();
        inner
            .assignments
            .entry(id.clone())
            .or_insert_with(|| Assignment {
                endpoint: endpoint.clone(),
                owns: false,
            });
        engine
    }

    /// The engine of a broker that `id` is not at any more, for as long as the answer is kept. None: of its namespace as many
    /// buckets leave as there may be brokers.
    pub(super) fn visit<'r>(&'r self, id: &BucketId, endpoint: &Endpoint) -> Option<Visit<'r>> {
        let mut inner = self.inner();
        let of_namespace = inner.visits.entry(id.namespace().into()).or_default();
        if *of_namespace >= self.most_brokers {
            return None;
        }
        *of_namespace += 1;
        let running = self.running(&mut inner, endpoint);
        running.visits += 1;
        Some(Visit {
            registry: self,
            namespace: id.namespace().into(),
            endpoint: endpoint.clone(),
            engine: running.engine.clone(),
        })
    }

    fn end_visit(&self, namespace: &str, endpoint: &Endpoint) {
        let mut inner = self.inner();
        if let Some(visits) = inner.visits.get_mut(namespace) {
            *visits -= 1;
            if *visits == 0 {
                inner.visits.remove(namespace);
            }
        }
        if let Some(running) = inner.engines.get_mut(endpoint) {
            running.visits = running.visits.saturating_sub(1);
        }
        self.stop_unused(&mut inner, endpoint);
    }

    /// Whether the ledger of `id` at `endpoint` names its resource.
    pub(super) fn owns(&self, id: &BucketId, endpoint: &Endpoint, owns: bool) {
        if let Some(assignment) = self.inner().assignments.get_mut(id)
            && assignment.endpoint == *endpoint
        {
            assignment.owns = owns;
        }
    }

    /// Nothing is done for `id` any more; its queues stay. An engine without buckets stops.
    pub(super) fn unassign(&self, id: &BucketId) {
        let mut inner = self.inner();
        inner.sources.remove(id);
        self.release(&mut inner, id);
    }

    /// Nothing is known of `id` any more.
    pub(super) fn forget(&self, id: &BucketId) {
        let mut inner = self.inner();
        inner.not_refused(id);
        inner.sources.remove(id);
        self.release(&mut inner, id);
    }

    /// Where `id` is.
    #[must_use]
    pub(super) fn broker_of(&self, id: &BucketId) -> Option<Endpoint> {
        self.assignment(id).map(|it| it.endpoint)
    }

    /// Where `id` is, and whether it has its queue there.
    #[must_use]
    pub(super) fn assignment(&self, id: &BucketId) -> Option<Assignment> {
        self.inner().assignments.get(id).cloned()
    }

    /// Whether a queue of `id` is for certain another one than that of the same name at `endpoint`.
    #[must_use]
    pub(super) fn is_elsewhere(&self, id: &BucketId, endpoint: &Endpoint) -> bool {
        let inner = self.inner();
        let at = inner.assignments.get(id);
        at.is_some_and(|at| !inner.place(&at.endpoint).may_be(&inner.place(endpoint)))
    }

    /// Which broker `endpoint` is, as far as that is known.
    #[must_use]
    pub(super) fn place(&self, endpoint: &Endpoint) -> Place {
        self.inner().place(endpoint)
    }

    /// Waits until an engine has ended that was not told to, which is a bug.
    pub(super) async fn crashed(&self) {
        self.crashed.cancelled().await;
    }

    /// Stops all engines and waits until they have released everything.
    pub(super) async fn drain(&self) {
        self.stop.cancel();
        *self.inner() = Inner::default();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn release(&self, inner: &mut Inner, id: &BucketId) {
        let Some(Assignment { endpoint, .. }) = inner.assignments.remove(id) else {
            return;
        };
        if let Some(named) = inner.named.get_mut(id.namespace()) {
            if let Some(buckets) = named.get_mut(&endpoint) {
                buckets.remove(id);
            }
            let before = named.len();
            named.retain(|_, buckets| !buckets.is_empty());
            let is_room = named.len() < before;
            if named.is_empty() {
                inner.named.remove(id.namespace());
            }
            // One of them, as there is room for one: each look costs a request.
            let next = inner.refused.get_mut(id.namespace());
            if is_room && let Some(next) = next.and_then(BTreeSet::pop_first) {
                inner.not_refused(&next);
                self.triggers.send(&[next]);
            }
        }
        if let Some(running) = inner.engines.get_mut(&endpoint) {
            running.engine.release(id);
            running.buckets.remove(id);
        }
        self.stop_unused(inner, &endpoint);
    }

    fn stop_unused(&self, inner: &mut Inner, endpoint: &Endpoint) {
        let is_unused = |running: &&Running| running.buckets.is_empty() && running.visits == 0;
        let Some(running) = inner.engines.get(endpoint).filter(is_unused) else {
            return;
        };
        info!(broker = %endpoint, "no bucket is at this broker any more: disconnecting");
        running.stop.cancel();
        // What it says of its connection after this would be remembered for ever.
        *lock(&running.used) = false;
        let ended = running.ended.clone();
        inner.engines.remove(endpoint);
        inner.ending.retain(|(_, ended)| !ended.is_cancelled());
        inner.ending.push((endpoint.clone(), ended));
        // Told here, before another engine for the same broker can tell that it is connected.
        let _ = self.reports.send(Report::Left(endpoint.clone()));
    }

    /// The engine of `endpoint`, from now on if there was none.
    fn running<'i>(&self, inner: &'i mut Inner, endpoint: &Endpoint) -> &'i mut Running {
        // One that reached the same place as somebody else lets go of the refill queues first.
        let place = |it: &Endpoint| (it.host().to_owned(), it.port(), it.vhost().to_owned());
        let ending = inner.ending.iter();
        let ending = ending.filter(|(at, _)| place(at) == place(endpoint));
        let ending: Vec<_> = ending.map(|(_, ended)| ended.clone()).collect();
        let running = inner.engines.entry(endpoint.clone());
        running.or_insert_with(|| self.start(endpoint, ending))
    }

    /// An engine that begins when others have ended.
    fn start(&self, endpoint: &Endpoint, ending: Vec<CancellationToken>) -> Running {
        let stop = self.stop.child_token();
        let (sender, mut outcomes) = mpsc::unbounded_channel();
        let (engine, work) =
            Engine::start(endpoint.clone(), self.options.clone(), sender, stop.clone());
        let ended = CancellationToken::new();
        let supervised = {
            let stop = stop.clone();
            let crashed = self.crashed.clone().drop_guard();
            let ended = ended.clone().drop_guard();
            async move {
                let ending = async {
                    for other in &ending {
                        other.cancelled().await;
                    }
                };
                tokio::select! {
                    () = ending => {}
                    () = stop.cancelled() => {}
                }
                work.await;
                drop(ended);
                if stop.is_cancelled() {
                    crashed.disarm();
                }
            }
        };
        let used = Arc::new(Mutex::new(true));
        let forward = {
            let (reports, facts) = (self.reports.clone(), self.facts.clone());
            let (broker, used) = (endpoint.clone(), used.clone());
            async move {
                while let Some(outcome) = outcomes.recv().await {
                    // Who would listen has ended before.
                    let _ = match &outcome {
                        Outcome::Connection(ConnectionState::Up) => facts.send(Fact::Connected),
                        Outcome::Owned { bucket, owner } => facts.send(Fact::Owned {
                            endpoint: broker.clone(),
                            bucket: bucket.clone(),
                            owner: owner.clone(),
                        }),
                        _ => Ok(()),
                    };
                    let used = lock(&used);
                    if *used || !matches!(outcome, Outcome::Connection(_)) {
                        let _ = reports.send(Report::Outcome(broker.clone(), outcome));
                    }
                }
            }
        };
        self.tasks
            .spawn(async move { tokio::join!(supervised, forward) });
        Running {
            engine,
            stop,
            buckets: HashSet::new(),
            visits: 0,
            used,
            ended,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn place(&self, endpoint: &Endpoint) -> Place {
        let running = self.engines.get(endpoint);
        running.map_or_else(|| Place::unknown(endpoint), |it| it.engine.place())
    }

    fn not_refused(&mut self, id: &BucketId) {
        if let Some(refused) = self.refused.get_mut(id.namespace()) {
            refused.remove(id);
            if refused.is_empty() {
                self.refused.remove(id.namespace());
            }
        }
    }
}

#[cfg(test)]
mod tests;
