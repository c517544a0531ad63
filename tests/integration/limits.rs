//! What one namespace can make the operator do is limited.

use std::time::Instant;

use futures::{StreamExt, stream};
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{
    Buckets, Crowd, Operator, RARELY, condition, event, eventually, reason, stage, testbed,
};

#[tokio::test]
async fn a_namespace_has_so_many_brokers_and_no_more() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let limit = ["--max-brokers-per-namespace=2"];
    let _operator = Operator::start_at(testbed, &namespace, None, &limit).await;
    let create = async |name: &str, secret: &str| {
        let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1, "deletionPolicy": "Retain",
                          "connection": {"secretRef": {"name": secret}}});
        buckets.create(name, spec).await;
    };
    for name in ["one", "two", "three"] {
        // Nobody listens at the discard port.
        let uri = format!("amqp://127.0.0.1:9/{name}");
        namespace.create_secret(name, &uri).await;
    }
    let away = |status: &TokenBucketStatus| condition(status, "BrokerConnected") == "False";
    for (name, secret) in [("a", "one"), ("b", "two"), ("c", "one")] {
        create(name, secret).await;
        buckets.until(name, "its broker to be missed", away).await;
    }
    create("d", "three").await;
    let refused = |status: &TokenBucketStatus| reason(status, "Stalled") == "TooManyBrokers";
    buckets
        .until("d", "its broker to be one too many", refused)
        .await;
    // Its deletion makes no connection either.
    create("e", "three").await;
    buckets.edit("e", json!({"deletionPolicy": "Delete"})).await;
    buckets
        .until("e", "its broker to be one too many", refused)
        .await;
    buckets.delete("e").await;
    let left = event(testbed, &namespace, "e", "QueuesLeftBehind").await;
    let note = left.note.unwrap_or_default();
    assert!(note.contains("--max-brokers-per-namespace"), "{note}");
    // Nobody is at that one any more.
    buckets.delete("b").await;
    buckets.until("d", "its broker to be missed", away).await;
}

#[tokio::test]
async fn a_long_value_of_the_annotation_is_refused_and_kept_nowhere() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets
        .create(
            "api",
            json!({"schedule": RARELY, "amount": 1, "maximum": 10}),
        )
        .await;
    buckets.ready("api").await;
    buckets.request_refill("api", &"x".repeat(200_000)).await;
    let refused = |status: &TokenBucketStatus| reason(status, "Stalled") == "InvalidRefillRequest";
    let status = buckets
        .until("api", "the value to be refused", refused)
        .await;
    let status = serde_json::to_string(&status).expect("a status");
    assert!(status.len() < 5_000, "{} bytes", status.len());
    buckets.request_refill("api", "now").await;
    let refilled = |status: &TokenBucketStatus| status.available_tokens == Some(1);
    buckets.until("api", "the refill", refilled).await;
}

#[tokio::test]
async fn missing_secrets_hold_up_nobody() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let spec = |secret: &str| json!({"schedule": RARELY, "amount": 1, "maximum": 1, "connection": {"secretRef": {"name": secret}}});
    let crowd = Crowd::of(300);
    let names: Vec<_> = (0..crowd.many)
        .map(|number| format!("missing-{number}"))
        .collect();
    let created = names.iter().map(|name| buckets.create(name, spec(name)));
    let created = stream::iter(created).buffer_unordered(64);
    created.map(drop).collect::<()>().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let waits = |status: &TokenBucketStatus| reason(status, "Ready") == "SecretNotFound";
    for name in &names {
        eventually("its Secret to be missed", crowd.soon(), async || {
            let status = buckets.status(name).await;
            match waits(&status) {
                true => Ok(()),
                false => Err(format!("{name}: {status:?}")),
            }
        })
        .await;
    }
    let good = json!({"schedule": RARELY, "amount": 1, "maximum": 1});
    let start = Instant::now();
    buckets.create("good", good).await;
    buckets.ready("good").await;
    let taken = start.elapsed().as_secs_f32();
    crowd.tell(&format!("another bucket is ready in {taken:.1} s"));

    // When a Secret comes, and one of the buckets that name it changes, all of them go on.
    buckets.create("late", spec("missing-0")).await;
    buckets
        .until("late", "its Secret to be missed", waits)
        .await;
    namespace
        .create_secret("missing-0", &vhost.amqp_url())
        .await;
    buckets
        .edit("late", json!({"amount": 2, "maximum": 2}))
        .await;
    buckets.ready("late").await;
    buckets.ready("missing-0").await;
}
