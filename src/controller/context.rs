//! What all reconciliations share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::{Client, ResourceExt};
use tokio::sync::{SetOnce, mpsc, watch};

use super::ceilings::{Ceilings, Exceeded};
use super::default_broker::{DefaultBrokerRules, NotAllowed};
use super::engine_registry::{EngineRegistry, Fact};
use super::errors::Error;
use super::events::{Events, Notice};
use super::index::Index;
use super::interner::Interner;
use super::moves::{Home, Moves};
use super::removals::Removals;
use super::resolve::Resolver;
use super::resource::id_of;
use super::seats::Seats;
use super::status::Report;
use super::triggers::ReconcileTriggers;
use crate::ops::Metrics;
use amqp::Endpoint;
use api::TokenBucket;
use bucket::{Bucket, BucketId, backoff};
use schedule::Schedule;

/// The pause before the next try while something else has to come back first.
const PAUSE_WHILE_AWAY: Duration = Duration::from_secs(2);
/// Otherwise the pause doubles with every failure from this…
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What all reconciliations share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) engines: EngineRegistry,
    pub(super) resolver: Resolver,
    pub(super) removals: Removals,
    pub(super) moves: Moves,
    pub(super) triggers: ReconcileTriggers,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Events,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) index: Mutex<Index>,
    pub(super) seats: Mutex<Seats>,
    pub(super) ceilings: Ceilings,
    pub(super) default_broker_rules: DefaultBrokerRules,
    pub(super) failures: Mutex<HashMap<BucketId, u32>>,
    pub(super) schedules: Mutex<Interner<Schedule>>,
    pub(super) synced: SetOnce<()>,
}

impl Context {
    /// Waits until every resource is known: before that, nobody can say which one is the oldest.
    pub(super) async fn synced(&self) {
        self.synced.wait().await;
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a bucket against the ceilings.
    ///
    /// # Errors
    /// The ceiling that it goes beyond.
    pub(super) fn within_ceilings(&self, bucket: &Bucket) -> Result<(), Exceeded> {
        self.ceilings.check(bucket)?;
        self.seats()
            .beyond(&bucket.id)
            .map_or(Ok(()), |most| Err(Exceeded::Buckets(most)))
    }

    /// Holds a bucket at the operator's own broker against what an administrator allows there.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(super) fn at_default_broker(&self, resource: &TokenBucket) -> Result<(), NotAllowed> {
        let (spec, namespace) = (&resource.spec, resource.namespace());
        if spec.secret().is_some() {
            return Ok(());
        }
        let namespace = namespace.unwrap_or_default();
        self.default_broker_rules
            .check(&namespace, spec.vhost(), &spec.refill_queue)
    }

    /// Who a resource is.
    pub(super) fn identity(&self, object: &impl ResourceExt) -> (BucketId, Arc<str>) {
        self.index().identity(object)
    }

    /// Takes note of what engines tell about queues that several resources name.
    pub(super) async fn follow(&self, mut facts: mpsc::UnboundedReceiver<Fact>) {
        while let Some(fact) = facts.recv().await {
            let concerned = match fact {
                Fact::Connected => self.index().contenders(),
                Fact::Owned {
                    endpoint,
                    bucket,
                    owner,
                } => {
                    let home = Home {
                        place: self.engines.place(&endpoint),
                        endpoint: endpoint.clone(),
                    };
                    let mut index = self.index();
                    let owns = index.uid(&bucket).is_some_and(|uid| *uid == *owner);
                    self.engines.owns(&bucket, &endpoint, owns);
                    index.owned(&bucket, home, &owner)
                }
            };
            self.triggers.send(&concerned);
        }
    }

    /// When the operator's own broker becomes another one, the buckets that name no Secret move along.
    pub(super) async fn follow_default_broker(
        &self,
        mut broker: watch::Receiver<Option<Endpoint>>,
    ) {
        while broker.changed().await.is_ok() {
            let secrets = self.resolver.secrets();
            let mut at_default = self.index().ids();
            at_default.retain(|id| !secrets.is_named_by(id));
            self.triggers.send(&at_default);
        }
    }

    /// The bucket of `object`, with what other parts and other buckets have too.
    pub(super) fn sharing(&self, bucket: Bucket, object: &impl ResourceExt) -> Bucket {
        let (id, uid) = self.identity(object);
        let mut schedules = self
            .schedules
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Bucket {
            id,
            uid,
            timetable: bucket.timetable.map_schedule(|it| schedules.intern(it)),
            ..bucket
        }
    }

    /// Tells the status writer.
    pub(super) fn report(&self, report: Report) {
        // It ends last; should it have ended, the program is ending.
        let _ = self.reports.send(report);
    }

    /// An event about `object`.
    pub(super) fn publish(&self, object: &impl ResourceExt, notice: Notice) {
        self.events
            .publish(&id_of(object), &object.uid().unwrap_or_default(), notice);
    }

    /// Nothing is done for the resource any more.
    pub(super) fn forget(&self, id: &BucketId) {
        self.engines.forget(id);
        self.removals.forget(id);
        self.moves.forget(id);
        self.report(Report::Gone(id.clone()));
        self.succeeded(id);
    }

    /// After a pass: a resource that went meanwhile, and has been forgotten, must be forgotten again.
    pub(super) fn passed(&self, object: &impl ResourceExt) {
        let id = id_of(object);
        if !self.index().holds(&id, object.meta().uid.as_deref()) {
            self.forget(&id);
        }
    }

    /// It was reconciled.
    pub(super) fn succeeded(&self, id: &BucketId) {
        self.failures().remove(id);
    }

    /// It was not reconciled; answers the pause before the next try.
    pub(super) fn failed(&self, id: &BucketId, error: &Error) -> Duration {
        if error.is_expected() {
            return PAUSE_WHILE_AWAY;
        }
        let mut failures = self.failures();
        let failures = failures.entry(id.clone()).or_default();
        let pause = backoff(FIRST_PAUSE, *failures, LONGEST_PAUSE);
        *failures = failures.saturating_add(1);
        pause.mul_f64(rand::random_range(0.5..1.0))
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<BucketId, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
