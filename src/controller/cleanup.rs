//! The cleanup step: what the deletion of a TokenBucket does at the broker. It depends on as little as possible, never
//! on a valid spec, and it ends: when the queues cannot be removed, they are left behind, and said to be.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use tracing::{info, warn};

use super::context::Context;
use super::errors::Error;
use super::events::Notice;
use super::resource::id_of;
use super::status::Report;
use api::{DeletionPolicy, TokenBucket, from_time};
use bucket::{ledger_queue_name, queue_name};
use engine::Removal;

/// After the deletion was asked for, the broker has so long to come back.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Stops working on the bucket and removes its queues, by its deletion policy.
///
/// # Errors
/// When the broker is away, to be tried again; and [`Error::Removing`], to be asked again.
pub(super) async fn cleanup(resource: &TokenBucket, context: &Context) -> Result<Action, Error> {
    let id = id_of(resource);
    context.report(Report::Gone(id.clone()));
    let removal = Removal {
        id: id.clone(),
        uid: resource.uid().unwrap_or_default().into(),
        name: resource.bucket_name().into(),
        refill_queue: resource.spec.refill_queue.as_str().into(),
        policy: resource.spec.deletion_policy,
        moves: false,
        established: context.index().is_established(&id),
    };
    let has_moved = context.moves.stop(&id).ok_or(Error::Removing)?;
    // A bucket in force is removed where it is, whatever became of its Secret.
    let home = context.index().home(&id).filter(|_| !has_moved);
    let broker = match home {
        Some(home) => Some(home.endpoint.clone()),
        None => context.engines.broker_of(&id),
    };
    let owner = context.index().awaited_by(&id);
    if let Some(owner) = owner {
        context.engines.unassign(&id);
        info!(bucket = %id, queue = resource.queue_name(), %owner, "deleted; the queue belongs to its owner");
        return Ok(Action::await_change());
    }
    if let Err(refusal) = context.at_default_broker(resource) {
        // A deletion takes an empty refill queue with it, and this one may be anybody's.
        abandon(
            resource,
            &queues(&resource.bucket_name()),
            context,
            &refusal.to_string(),
        );
        return Ok(Action::await_change());
    }
    if resource.spec.deletion_policy == DeletionPolicy::Retain {
        if let Some(broker) = broker {
            // Whoever wants the bucket next need not ask whether its owner is still there. If this fails, it takes over.
            let engine = context.engines.assign(&id, &broker);
            let removed = context.removals.result(removal, engine);
            let _ = removed.ok_or(Error::Removing)?;
        }
        context.engines.unassign(&id);
        let queue = resource.queue_name();
        info!(bucket = %id, queue, "deleted; by its deletionPolicy the queue stays");
        context.publish(
            resource,
            Notice::normal(
                "QueuesRetained",
                &format!("queue {queue} stays (deletionPolicy)"),
            ),
        );
        return Ok(Action::await_change());
    }
    let endpoint = match broker {
        Some(broker) => broker,
        None => match context
            .resolver
            .resolve(id.namespace(), resource.spec.connection.as_deref())
            .await
        {
            Ok(endpoint) => endpoint,
            Err(error) => return give_up_or(error.into(), resource, context),
        },
    };
    let admitted = |_: &_| context.engines.admit(&id, &endpoint);
    if let Some(Err(brokers)) = resource.spec.connection.as_ref().map(admitted) {
        // It was not in force. Else whoever creates and deletes buckets had the operator connect to as many brokers as they like.
        let why = format!(
            "The buckets of its namespace are at {brokers} brokers, as many as --max-brokers-per-namespace allows"
        );
        abandon(resource, &queues(&resource.bucket_name()), context, &why);
        return Ok(Action::await_change());
    }
    let engine = context.engines.assign(&id, &endpoint);
    let removed = context.removals.result(removal, engine);
    match removed.ok_or(Error::Removing)? {
        Ok(()) => {
            context.engines.unassign(&id);
            Ok(Action::await_change())
        }
        Err(error) => give_up_or(error, resource, context),
    }
}

/// Lets the resource go when `error` has lasted long enough or will not pass.
fn give_up_or(error: Error, resource: &TokenBucket, context: &Context) -> Result<Action, Error> {
    let since = resource.meta().deletion_timestamp.as_ref().map(from_time);
    if error.will_not_pass() || is_over(since, Utc::now()) {
        info!(bucket = %id_of(resource), %error, "the queues cannot be removed");
        abandon(
            resource,
            &queues(&resource.bucket_name()),
            context,
            &error.public((&resource.spec).into()),
        );
        Ok(Action::await_change())
    } else {
        Err(error)
    }
}

/// The queues of the bucket `name`.
pub(super) fn queues(name: &str) -> String {
    let (queue, ledger) = (queue_name(name), ledger_queue_name(name));
    format!("{queue} and {ledger}")
}

fn is_over(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    since.is_none_or(|since| (now - since).to_std().unwrap_or_default() >= GIVE_UP_AFTER)
}

/// Lets the resource go and says which queues stay behind.
pub(super) fn abandon(object: &impl ResourceExt, queues: &str, context: &Context, why: &str) {
    let id = id_of(object);
    context.forget(&id);
    warn!(bucket = %id, queues, "deleted, but its queues are left behind: {why}");
    context.publish(object, Notice::left_behind(queues, "the broker", why));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_has_a_minute_to_come_back() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        assert!(!is_over(Some(at(0)), at(59)));
        assert!(is_over(Some(at(0)), at(60)));
        assert!(
            !is_over(Some(at(60)), at(0)),
            "a clock that is behind gives more time, not less"
        );
    }
}
