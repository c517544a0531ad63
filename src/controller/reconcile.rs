//! The reconcile step: what is done about a TokenBucket, in order. Client required.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use kube::core::{PartialObjectMeta, PartialObjectMetaExt};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Event, finalizer};
use kube::{Api, Resource, ResourceExt};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::cleanup::{abandon, cleanup};
use super::conflict::Verdict;
use super::context::Context;
use super::errors::Error;
use super::moves::{Moves, Plan};
use super::removals::ATTEMPT_TIMEOUT;
use super::resolve::ResolveError;
use super::resource::{Guarded, id_of};
use super::status::{Decision, ReconcileResult, Report};
use super::validate::{Invalid, validate};
use amqp::Endpoint;
use api::{ALERT_WHEN_EMPTY, FINALIZER, TokenBucket};
use bucket::Bucket;
use bucket::machine::Failure;
use engine::{Phase, Removal};

/// Whoever waits for another bucket looks again so often, should nobody have told it.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(300);
/// A broker of its namespace may be free then. Sooner would cost requests: each look reads the Secret.
const ADMIT_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// A reconciliation that takes longer has failed.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reconciles a resource.
///
/// # Errors
/// What went wrong, to be tried again.
pub(super) async fn reconcile(
    object: Arc<Guarded>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    context.synced().await;
    let steps = async {
        match &object.0 {
            Ok(resource) => well_formed(resource, &context).await,
            Err(_) => malformed(&object, &context).await,
        }
    };
    let began = Instant::now();
    let action = timeout(RECONCILE_TIMEOUT, steps).await;
    context.metrics.reconciled(began.elapsed());
    context.passed(&*object);
    let action = action.unwrap_or(Err(Error::Timeout))?;
    context.succeeded(&id_of(&*object));
    Ok(action)
}

/// When to try again after a failure.
pub(super) fn after_error(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    if let Error::Removing = error {
        // It says itself when it has ended.
        return Action::requeue(2 * ATTEMPT_TIMEOUT);
    }
    let id = id_of(&*object);
    context.metrics.reconcile_error(error.reason());
    let pause = context.failed(&id, error);
    context.passed(&*object);
    if error.is_expected() {
        debug!(bucket = %id, reason = error.reason(), %error, retry_in = ?pause, "waiting");
    } else {
        warn!(bucket = %id, reason = error.reason(), %error, retry_in = ?pause, "the pass failed");
    }
    Action::requeue(pause)
}

async fn well_formed(resource: &TokenBucket, context: &Arc<Context>) -> Result<Action, Error> {
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<TokenBucket> = Api::namespaced(context.client.clone(), &namespace);
    let step = |event| async {
        match event {
            Event::Apply(resource) => apply(&resource, context).await,
            Event::Cleanup(resource) => cleanup(&resource, context).await,
        }
    };
    finalizer(&api, FINALIZER, Arc::new(resource.clone()), step)
        .await
        .map_err(Error::from)
}

/// A resource that does not parse has metadata all the same: it gets a status, and its deletion does not hang.
async fn malformed(object: &Guarded, context: &Context) -> Result<Action, Error> {
    let Err(invalid) = &object.0 else {
        return Ok(Action::await_change());
    };
    let id = id_of(object);
    if object.meta().deletion_timestamp.is_none() {
        let message = format!("the resource does not parse: {}. Correct it", invalid.error);
        refuse(object, None, context, Phase::stalled("Malformed", message));
        return Ok(Action::await_change());
    }
    let api: Api<PartialObjectMeta<TokenBucket>> =
        Api::namespaced(context.client.clone(), id.namespace());
    let metadata = object.meta().clone().into_response_partial::<TokenBucket>();
    let release = |_| async {
        abandon(
            object,
            "the queues of spec.name",
            context,
            "The resource does not parse, so they are not known",
        );
        Ok(Action::await_change())
    };
    finalizer(&api, FINALIZER, Arc::new(metadata), release)
        .await
        .map_err(Error::from)
}

async fn apply(resource: &TokenBucket, context: &Arc<Context>) -> Result<Action, Error> {
    let bucket = match validate(resource, Utc::now()) {
        Ok(bucket) => context.sharing(bucket, resource),
        Err(invalid) => {
            context.metrics.reconcile_error(invalid.reason());
            refuse(resource, Some(resource), context, invalid.phase());
            return Ok(Action::await_change());
        }
    };
    if let Err(exceeded) = context.within_ceilings(&bucket) {
        context.metrics.reconcile_error(exceeded.reason());
        refuse(resource, Some(resource), context, exceeded.phase());
        return Ok(Action::await_change());
    }
    if let Err(refusal) = context.at_default_broker(resource) {
        context.metrics.reconcile_error(refusal.reason());
        refuse(resource, Some(resource), context, refusal.phase());
        return Ok(Action::await_change());
    }
    let (namespace, connection) = (bucket.id.namespace(), resource.spec.connection.as_deref());
    let Some(known) = context.resolver.known(&bucket.id, connection) else {
        return Ok(Action::await_change());
    };
    let endpoint = match known {
        Ok(endpoint) => endpoint,
        // It goes on where it is: that the API server is away is no reason to stop refills.
        Err(error @ ResolveError::SecretUnavailable { .. }) => return Err(error.into()),
        Err(error) => {
            context.metrics.reconcile_error(error.reason());
            refuse(resource, Some(resource), context, error.phase());
            return Ok(match resource.spec.secret() {
                Some(secret) => Action::requeue(context.resolver.pause(namespace, secret)),
                None => Action::await_change(),
            });
        }
    };
    let (verdict, concerned) = context.index().ask(&bucket.id, &endpoint, |other| {
        context.engines.assignment(other)
    });
    match verdict {
        Verdict::Holds(before) => {
            // Whoever had the queue until now lets go of it first.
            before.iter().for_each(|it| context.engines.unassign(it));
            context.triggers.send(before.as_slice());
        }
        Verdict::Waits(owner) => {
            context.metrics.reconcile_error("NameConflict");
            let message = format!(
                "queue {} belongs to TokenBucket {owner}, which had it before or is older: give this one another spec.name, \
                 or delete {owner}",
                resource.queue_name(),
            );
            let phase = Phase::stalled("NameConflict", message);
            context.engines.unassign(&bucket.id);
            let decision = Decision::Refused(phase.into());
            report(resource, Some(resource), decision, context);
            context.triggers.send(&concerned);
            return Ok(Action::requeue(ASK_AGAIN_AFTER));
        }
    }
    if connection.is_some()
        && let Err(brokers) = context.engines.admit(&bucket.id, &endpoint)
    {
        context.metrics.reconcile_error("TooManyBrokers");
        let message = format!(
            "the buckets of namespace {namespace} are at {brokers} brokers already, as many as the operator's \
             --max-brokers-per-namespace allows: let them share virtual hosts and users, or have it raised"
        );
        let phase = Phase::stalled("TooManyBrokers", message);
        refuse(resource, Some(resource), context, phase);
        context.triggers.send(&concerned);
        return Ok(Action::requeue(ADMIT_AGAIN_AFTER));
    }
    put_in_force(resource, bucket, &endpoint, context);
    // Now it is known where it is, and where it is not any more.
    context.triggers.send(&concerned);
    Ok(Action::await_change())
}

fn put_in_force(
    resource: &TokenBucket,
    bucket: Bucket,
    endpoint: &Endpoint,
    context: &Arc<Context>,
) {
    let id = bucket.id.clone();
    let (secret, vhost) = (resource.spec.secret(), resource.spec.vhost());
    let plan = {
        let home = context.index().home(&id);
        context.moves.plan(&id, &bucket.uid, home, endpoint)
    };
    let decision = Decision::InForce {
        broker: endpoint.clone(),
        secret: secret.map(Into::into),
        vhost: vhost.map(Into::into),
        suspend: resource.spec.suspend,
        moving: !matches!(plan, Plan::Arrived(_)),
    };
    report(resource, Some(resource), decision, context);
    context.engines.follow(&id, endpoint, secret, vhost);
    let engine = context.engines.assign(&id, endpoint);
    let moved = match plan {
        Plan::Arrived(moved) => moved,
        Plan::Moving => return,
        Plan::Begin(home) => {
            return Moves::begin(context, moving(resource, &bucket), home, endpoint, engine);
        }
    };
    let revision =
        u64::try_from(resource.meta().generation.unwrap_or_default()).unwrap_or_default();
    let (known, rivals) = {
        let mut index = context.index();
        let elsewhere = |other: &_| context.engines.is_elsewhere(other, endpoint);
        (index.take_known(&id), index.rivals(&id, elsewhere))
    };
    let bucket = Bucket {
        rivals,
        moved,
        ..bucket
    };
    engine.apply_known(bucket, revision, known);
}

/// What is done about the queues of a bucket where it was, when it moves to another broker.
fn moving(resource: &TokenBucket, bucket: &Bucket) -> Removal {
    Removal {
        id: bucket.id.clone(),
        uid: bucket.uid.clone(),
        name: bucket.name.clone(),
        refill_queue: bucket.refill_queue.as_str().into(),
        policy: resource.spec.deletion_policy,
        moves: true,
        established: true,
    }
}

/// The bucket is not refilled until something changes; its tokens stay.
fn refuse(
    object: &impl ResourceExt,
    resource: Option<&TokenBucket>,
    context: &Context,
    phase: Phase,
) {
    let id = id_of(object);
    context.engines.unassign(&id);
    let concerned = context.index().refused(&id);
    context.triggers.send(&concerned);
    report(object, resource, Decision::Refused(phase.into()), context);
}

fn report(
    object: &impl ResourceExt,
    resource: Option<&TokenBucket>,
    decision: Decision,
    context: &Context,
) {
    let (id, uid) = context.identity(object);
    let published = context.index().take_published(&id);
    context.report(Report::Reconciled(ReconcileResult {
        id,
        uid,
        generation: object.meta().generation.unwrap_or_default(),
        alert_when_empty: object
            .labels()
            .get(ALERT_WHEN_EMPTY)
            .is_some_and(|value| value == "true"),
        queue: resource.map(TokenBucket::queue_name),
        published,
        decision,
    }));
}

impl Invalid {
    fn phase(&self) -> Phase {
        Phase::stalled(self.reason(), self.to_string())
    }
}

impl ResolveError {
    fn phase(&self) -> Phase {
        Phase::of(&Failure {
            reason: self.reason(),
            message: self.to_string(),
            class: self.class(),
        })
    }
}
