//! The broker layer on a real RabbitMQ.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod connection;
mod ledger;
pub mod link;
mod publisher;
mod queues;
mod refill;
mod rejected;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use token_bucket_operator::amqp::{Broker, Endpoint, RefillChannel};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::{Ledger, Origin, RefillRequest};

use crate::support::Vhost;

const KINDS: [QueueType; 2] = [QueueType::Classic, QueueType::Quorum];
const REFILL: &str = "token_buckets.refill";

async fn connect(vhost: &Vhost<'_>) -> Arc<Broker> {
    let endpoint = Endpoint::parse(&vhost.amqp_url()).unwrap();
    Arc::new(Broker::connect(&endpoint, "test").await.unwrap())
}

async fn consume(broker: &Arc<Broker>) -> RefillChannel {
    broker
        .consume_requests(REFILL, QueueType::Classic, 100)
        .await
        .unwrap()
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
    let results = publisher.publish(&[(REFILL.into(), request(bucket))]).await;
    assert_eq!(results, [Ok(())]);
}

fn ledger(owed: u64) -> Ledger {
    Ledger::new("uid", DateTime::<Utc>::UNIX_EPOCH, "* * * * *", owed)
}
