//! What happens while something that the operator needs is away, or wrong.

use chrono::{TimeDelta, Utc};
use futures::future::{join, join_all};
use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{
    Buckets, Operator, RARELY, SOON, condition, event, eventually, last_tick, stage, testbed,
};

const QUEUE: &str = "token_bucket_x";

/// Nobody listens at the discard port.
const NOBODY: &str = "amqp://127.0.0.1:9/";

fn away(status: &TokenBucketStatus) -> bool {
    condition(status, "BrokerConnected") == "False"
}

#[tokio::test]
async fn deletion_ends_though_the_broker_is_away() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let _operator = Operator::start_at(testbed, &namespace, Some(NOBODY), &[]).await;
    let spec = |policy: &str| json!({"schedule": RARELY, "amount": 1, "maximum": 1, "deletionPolicy": policy});
    buckets.create("gone", spec("Delete")).await;
    buckets.create("kept", spec("Retain")).await;
    buckets.until("gone", "the broker to be missed", away).await;
    buckets.until("kept", "the broker to be missed", away).await;

    // That one needs no broker.
    buckets.delete("kept").await;
    // The other one waits a minute for it.
    buckets.delete("gone").await;
    let event = event(testbed, &namespace, "gone", "QueuesLeftBehind").await;
    let note = event.note.unwrap_or_default();
    assert!(note.contains("token_bucket_gone.ledger"), "{note}");
}

#[tokio::test]
async fn other_deletions_go_on_while_one_waits_for_its_broker() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(testbed, &namespace).await;
    namespace.create_secret("away", NOBODY).await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1});
    let mut elsewhere = spec.clone();
    elsewhere["connection"] = json!({"secretRef": {"name": "away"}});
    buckets.create("waits", elsewhere).await;
    buckets
        .until("waits", "the broker to be missed", away)
        .await;
    let others = ["a", "b", "c", "d"];
    for name in others {
        buckets.create(name, spec.clone()).await;
    }
    for name in others {
        buckets.ready(name).await;
    }
    buckets.begin_to_delete("waits").await;
    join_all(others.map(|name| buckets.delete(name))).await;
    assert_eq!(vhost.queues().await, Vec::<String>::new());
    let waiting = buckets.get("waits").await.expect("it waits a minute");
    assert!(waiting.metadata.deletion_timestamp.is_some());
}

#[tokio::test]
async fn corrected_credentials_are_used_at_once() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    let wrong = vhost.amqp_url().replacen(":test@", ":s3cret@", 1);
    namespace.create_secret("rabbit", &wrong).await;
    let connection = json!({"secretRef": {"name": "rabbit"}});
    let spec = json!({"schedule": RARELY, "amount": 7, "maximum": 9, "connection": connection});
    for name in ["one", "two"] {
        buckets.create(name, spec.clone()).await;
        let status = buckets.until(name, "the refusal", away).await;
        assert!(!format!("{status:?}").contains("s3cret"), "{status:?}");
    }

    namespace.change_secret("rabbit", &vhost.amqp_url()).await;
    buckets.ready("one").await;
    buckets.ready("two").await;
    event(testbed, &namespace, "one", "BrokerRecovered").await;
}

#[tokio::test]
async fn a_bucket_that_leaves_the_selector_is_let_go() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let selector = ["--selector", "team!=other"];
    let operator = Operator::start(testbed, &namespace, &vhost, &selector).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 4});
    buckets.create("x", spec).await;
    buckets.ready("x").await;

    testbed.kubectl(&[
        "label",
        "tb/x",
        "team=other",
        "--namespace",
        namespace.name(),
    ]);
    // Without its finalizer it is gone at once, though the operator does not hear of it.
    operator.logs_have("left the label selector").await;
    buckets.delete("x").await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(4));
}

/// The status of the resource knows what was done.
#[tokio::test]
async fn after_a_broker_has_lost_everything_no_tick_and_no_initial_token_comes_again() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": "* * * * * *", "amount": 1, "maximum": 10_000, "initialTokens": 100,
                      "missedRefills": "All"});
    buckets.create("api", spec).await;
    let filled = |status: &TokenBucketStatus| {
        status.tokens_issued.is_some_and(|issued| issued > 103) && last_tick(status).is_some()
    };
    let told = buckets.until("api", "three refills", filled).await;
    let last = last_tick(&told).expect("a tick");
    operator.kill().await;
    let channel = vhost.channel().await;
    for queue in ["token_bucket_api", "token_bucket_api.ledger"] {
        let deleting = channel.queue_delete(queue.into(), Default::default());
        deleting.await.expect("it is deleted");
    }
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let event = event(testbed, &namespace, "api", "LedgerLost").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let later = |status: &TokenBucketStatus| last_tick(status) > Some(last + TimeDelta::seconds(5));
    buckets.until("api", "later refills", later).await;
    let tokens = vhost.depth("token_bucket_api").await.expect("the queue");
    let since = (Utc::now() - last).num_seconds();
    let tokens = i64::try_from(tokens).expect("a count");
    assert!(
        0 < tokens && tokens <= since,
        "{tokens} tokens, {since} s after {last}"
    );
}

#[tokio::test]
async fn a_queue_that_somebody_declares_anew_with_another_limit_is_put_right() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 5, "initialTokens": 5});
    buckets.create("x", spec).await;
    vhost.depth_becomes(QUEUE, 5).await;
    buckets.ready("x").await;

    // The operator may be quicker to declare it again.
    eventually("a queue of our own", SOON, async || {
        let channel = vhost.channel().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), 99.into());
        let (deleted, declared) = join(
            channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()),
            channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments),
        )
        .await;
        deleted.expect("deleted");
        declared.map(drop).map_err(|error| error.to_string())
    })
    .await;
    for _ in 0..9 {
        vhost.publish(QUEUE, b"", BasicProperties::default()).await;
    }
    vhost.depth_becomes(QUEUE, 5).await;

    // Once it is empty it has its own limit again.
    assert_eq!(vhost.take(QUEUE, 5).await, 5);
    buckets.request_refill("x", "now").await;
    vhost.depth_becomes(QUEUE, 1).await;
    let queue = vhost.queue(QUEUE).await.expect("the bucket's queue");
    assert_eq!(queue["arguments"], json!({"x-max-length": 5}));
}
