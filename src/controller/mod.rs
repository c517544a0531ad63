//! TokenBucket resources → engine → status. One file for each step: [`watch`], [`reconcile`] (which validates,
//! [resolves](resolve) the broker and judges [name conflicts](conflict)), [`cleanup`], [`status`].

mod broker_rules;
mod ceilings;
mod cleanup;
mod conflict;
mod context;
mod default_broker;
mod deselected;
mod engine_registry;
mod errors;
mod events;
mod index;
mod interner;
mod moves;
mod public;
mod reconcile;
mod removals;
mod rereads;
mod resolve;
mod resource;
mod scope;
mod seats;
mod secret_label;
mod secrets;
mod status;
mod triggers;
mod validate;
mod watch;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join_all, pending};
use futures::stream::poll_fn;
use kube::Client;
use kube::runtime::Controller;
use kube::runtime::controller::Config;
use kube::runtime::reflector::Store;
use tokio::sync::watch::Receiver;
use tokio::sync::{SetOnce, mpsc};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::ops::election::Term;
use crate::ops::{Identity, Metrics, Readiness};
use amqp::Endpoint;
use api::QueueType;
use context::Context;
use deselected::Deselected;
use engine::Clock;
use engine_registry::EngineRegistry;
use events::Events;
use moves::Moves;
use removals::Removals;
use resolve::Resolver;
use resource::Guarded;
use seats::Seats;
use status::StatusWriter;
use triggers::ReconcileTriggers;

pub use broker_rules::{AllowedHost, BrokerRules};
pub use ceilings::Ceilings;
pub use default_broker::{DefaultBrokerRules, Pattern};
pub use scope::{Scope, ScopeError, describe_scope};
pub use secret_label::{NoLabel, SecretLabel};

/// Reconciliations at the same time.
const CONCURRENCY: u16 = 64;
/// At the end, events that wait have so long.
const EVENTS_WITHIN: Duration = Duration::from_millis(500);

/// What the controller needs.
#[derive(Clone)]
pub struct Settings {
    /// Client of the API server.
    pub client: Client,
    /// Which resources it cares for.
    pub scope: Scope,
    /// Broker of the resources that name none. It may become another one at any time.
    pub default_broker: Receiver<Option<Endpoint>>,
    /// Label of the Secrets that may be used; none: all.
    pub required_secret_label: Option<SecretLabel>,
    /// Who it is.
    pub identity: Identity,
    /// Where the replicas have their lease.
    pub lease_namespace: String,
    /// How often tokens are counted, and how often at most a changed count is written.
    pub status_interval: Duration,
    /// How many changed counts are written in a second, at most.
    pub status_writes_per_second: NonZeroU32,
    /// How often each Secret that resources name is looked at, to see whether it has changed.
    pub secret_reread_interval: Duration,
    /// Brokers that the buckets of one namespace may be at, besides the default one.
    pub max_brokers_per_namespace: NonZeroU32,
    /// What brokers that Secrets name have to be.
    pub broker_rules: BrokerRules,
    /// What no resource may go beyond.
    pub ceilings: Ceilings,
    /// What holds for buckets that name no Secret.
    pub default_broker_rules: DefaultBrokerRules,
    /// Type of the refill queues.
    pub refill_queue_type: QueueType,
    /// Set once every resource was read.
    pub readiness: Readiness,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// A part of the controller ended that should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} ended unexpectedly: ending the program, to be started again")]
pub struct Ended(&'static str);

/// Cares for the resources until the term ends, then lets the engines finish what they are at.
///
/// # Errors
/// When a part of it ends by itself: a bug.
pub async fn run(settings: Settings, term: Term) -> Result<(), Ended> {
    let Term { stop, lease } = term;
    let Settings {
        client,
        scope,
        default_broker,
        required_secret_label,
        identity,
        lease_namespace,
        status_interval,
        status_writes_per_second,
        secret_reread_interval,
        max_brokers_per_namespace,
        broker_rules,
        ceilings,
        default_broker_rules,
        refill_queue_type,
        readiness,
        metrics,
    } = settings;
    let (reports, inbox) = mpsc::unbounded_channel();
    let (facts, learnt) = mpsc::unbounded_channel();
    let (events, send_events) = Events::new(client.clone(), &identity.host);
    let (deselected, release_deselected) = Deselected::new(client.clone(), &scope);
    let mut triggers = ReconcileTriggers::default();
    let watches: Vec<_> = scope
        .watches()
        .into_iter()
        .map(|namespace| (triggers.of_scope(namespace.as_deref()), namespace))
        .collect();
    let options = engine::Options {
        connection_name: identity.connection_name(),
        operator: lease_namespace,
        status_interval,
        refill_queue_type,
        lease,
    };
    let writer = StatusWriter {
        clock: Clock::start(),
        client: client.clone(),
        events: events.clone(),
        triggers: triggers.clone(),
        metrics: metrics.clone(),
        interval: status_interval,
        per_second: status_writes_per_second,
    };
    let (resolver, to_read) = Resolver::new(
        client.clone(),
        default_broker.clone(),
        required_secret_label,
        broker_rules,
        secret_reread_interval,
        triggers.clone(),
    );
    let context = Arc::new(Context {
        engines: EngineRegistry::new(
            options,
            usize::try_from(max_brokers_per_namespace.get()).unwrap_or(usize::MAX),
            reports.clone(),
            facts,
            triggers.clone(),
            stop.clone(),
        ),
        resolver,
        client,
        removals: Removals::new(triggers.clone()),
        moves: Moves::default(),
        triggers,
        metrics,
        events,
        reports,
        index: Mutex::default(),
        seats: Mutex::new(Seats::new(ceilings.max_buckets_per_namespace)),
        ceilings,
        default_broker_rules,
        failures: Mutex::new(HashMap::new()),
        schedules: Mutex::default(),
        synced: SetOnce::new(),
    });
    let mut stores = Vec::new();
    let mut controllers = Vec::new();
    for (mut triggers, namespace) in watches {
        let (store, changes) = watch::watch(&scope, namespace, context.clone(), deselected.clone());
        stores.push(store.clone());
        controllers.push(
            Controller::for_stream(changes, store)
                .with_config(Config::default().concurrency(CONCURRENCY))
                .reconcile_on(poll_fn(move |task| triggers.poll_recv(task)))
                .graceful_shutdown_on(stop.clone().cancelled_owned())
                .run(
                    reconcile::reconcile,
                    reconcile::after_error,
                    context.clone(),
                )
                .for_each(|result| async {
                    if let Err(error) = result {
                        debug!(%error, "controller");
                    }
                }),
        );
    }
    drop(deselected);

    let mut writing = pin!(writer.run(inbox));
    let mut sending = pin!(send_events);
    let background = async {
        tokio::join!(
            announce(&context, &stores, &readiness),
            context.follow(learnt),
            context.follow_default_broker(default_broker),
            release_deselected,
            context.resolver.read_asked(to_read),
            context.resolver.read_again()
        );
        pending::<()>().await;
    };
    let result = tokio::select! {
        _ = join_all(controllers) => if stop.is_cancelled() { Ok(()) } else { Err(Ended("the watch")) },
        () = context.engines.crashed() => Err(Ended("an engine")),
        () = &mut writing => Err(Ended("the status writer")),
        () = &mut sending => Err(Ended("the sender of events")),
        () = background => Ok(()),
    };
    readiness.set(false);
    result?;
    context.engines.drain().await;
    // The last outcomes are told, then the channels close.
    drop(context);
    writing.await;
    // The rest of the events is no harm.
    let _ = timeout(EVENTS_WITHIN, sending).await;
    Ok(())
}

/// Ready is who knows every resource.
async fn announce(context: &Context, stores: &[Store<Guarded>], readiness: &Readiness) {
    let mut buckets = 0;
    for store in stores {
        if store.wait_until_ready().await.is_err() {
            return;
        }
        buckets += store.len();
    }
    // It is set here only.
    let _ = context.synced.set(());
    readiness.set(true);
    info!(buckets, "every TokenBucket is known");
}
