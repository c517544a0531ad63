//! The broker layer on a real RabbitMQ.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod baton;
mod channels;
mod conformance;
mod connection;
mod consumer;
mod hostile;
mod inspect;
mod limits;
pub mod link;
mod publisher;
mod queues;
mod refill;
mod rejected;
mod remove;
mod write_ledger;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use token_bucket_operator::amqp::{
    Broker, BrokerError, Endpoint, RefillConsumer, TransactionChannel,
};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::machine::{Absence, Baton, Take, Taken, Transaction};
use token_bucket_operator::bucket::{
    Ledger, Origin, Owner, RefillRequest, ledger_queue_name, queue_name,
};

use crate::support::{Vhost, eventually};

const KINDS: [QueueType; 2] = [QueueType::Classic, QueueType::Quorum];
const REFILL: &str = "token_buckets.refill";
/// The queues of bucket `b`.
const BUCKET: &str = "token_bucket_b";
const LEDGER: &str = "token_bucket_b.ledger";

async fn connect(vhost: &Vhost<'_>) -> Arc<Broker> {
    connect_to(&vhost.amqp_url()).await
}

async fn connect_to(url: &str) -> Arc<Broker> {
    let endpoint = Endpoint::parse(url).unwrap();
    Arc::new(Broker::connect(&endpoint, "test").await.unwrap())
}

async fn consume(broker: &Arc<Broker>) -> RefillConsumer {
    broker
        .consume(REFILL, QueueType::Classic, 100)
        .await
        .unwrap()
}

/// The types of queues that transactions are carried out on as a whole.
fn kinds(broker: &Broker) -> &'static [QueueType] {
    let version = broker.version().and_then(|version| version.rabbitmq());
    match version {
        Some(series) if series < (3, 13) => &KINDS[..1],
        _ => &KINDS,
    }
}

fn request(bucket: &str) -> RefillRequest {
    let origin = Origin::Foreign { id: None };
    RefillRequest {
        bucket: bucket.into(),
        origin,
    }
}

/// Sends a request for `bucket` through the operator's own publisher.
async fn send(broker: &Arc<Broker>, bucket: &str) {
    let publisher = broker.publisher().await.unwrap();
    let results = publisher.publish(&[(REFILL, request(bucket))]).await;
    assert_eq!(results, [Ok(())]);
}

fn ledger(owed: u64) -> Ledger {
    let owner = Owner {
        operator: "ops".into(),
        resource: "shop/b".into(),
        uid: "uid".into(),
        created: DateTime::<Utc>::UNIX_EPOCH,
    };
    Ledger::new(owner, "* * * * *", owed)
}

/// Declares the queues of bucket `name`.
async fn declare(broker: &Broker, name: &str, kind: QueueType, maximum: u64) {
    let (bucket, ledger) = (queue_name(name), ledger_queue_name(name));
    broker.declare_bucket(&bucket, kind, maximum).await.unwrap();
    broker.declare_ledger(&ledger, kind).await.unwrap();
}

/// Writes a ledger into a queue that may be there; nobody holds one.
async fn write(
    broker: &Broker,
    name: &str,
    kind: QueueType,
    owed: u64,
) -> Result<bool, BrokerError> {
    let absence = Absence::Unseen(Duration::from_millis(50));
    broker
        .write_ledger(name, kind, &ledger(owed), absence)
        .await
}

/// Declares the queues of bucket `b`, and writes its ledger.
async fn bucket(broker: &Broker, kind: QueueType, maximum: u64) {
    declare(broker, "b", kind, maximum).await;
    assert_eq!(write(broker, "b", kind, 0).await, Ok(true));
}

async fn delete(broker: &Broker) {
    for queue in [BUCKET, LEDGER] {
        let always = token_bucket_operator::amqp::DeleteIf::Always;
        broker.delete_queue(queue, always).await.unwrap();
    }
}

/// What a transaction channel is asked to get.
fn want(name: &str, queue_type: QueueType, tokens: u64) -> Take {
    Take {
        name: name.into(),
        queue_type,
        tokens,
    }
}

/// Gets the ledger of bucket `b` and takes out so many tokens.
async fn take(channel: &mut TransactionChannel, kind: QueueType, tokens: u64) -> Taken {
    let taken = channel.take(&[want("b", kind, tokens)]).await;
    taken.unwrap().remove(0)
}

/// The tag of a ledger that is held, and what it says is owed.
fn held(taken: &Taken) -> Option<(u64, u64)> {
    match &taken.baton {
        Baton::Absent => None,
        Baton::Held { tag, ledger, .. } => Some((*tag, ledger.as_ref().unwrap().owed)),
    }
}

/// Waits until the ledger of bucket `b` can be got, gives it back, and answers what it says is owed. What goes back to a
/// quorum queue is there after a moment.
async fn owed(broker: &Arc<Broker>, kind: QueueType) -> u64 {
    let mut channel = broker.transactions().await.unwrap();
    let what = "the ledger";
    let (tag, owed) = eventually(what, Duration::from_secs(10), async || {
        held(&take(&mut channel, kind, 0).await).ok_or_else(|| "nothing".to_owned())
    })
    .await;
    let back = Transaction {
        nacks: vec![tag],
        ..Transaction::default()
    };
    assert_eq!(channel.commit(back).await, Ok(vec![]));
    channel.close().await;
    owed
}

/// A transaction that adds tokens to bucket `b`.
fn tokens(count: u64) -> Transaction {
    Transaction {
        tokens: vec![("b".into(), count)],
        ..Transaction::default()
    }
}

/// A transaction that adds tokens to bucket `b` and puts a ledger in the place of the one with this tag.
fn refill(count: u64, owed: u64, tag: u64) -> Transaction {
    Transaction {
        ledgers: vec![("b".into(), Box::new(ledger(owed)))],
        acks: vec![tag],
        ..tokens(count)
    }
}
