//! How often the operator writes to the API server.

use std::pin::pin;

use futures::StreamExt;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::json;
use token_bucket_operator::api::{TokenBucket, TokenBucketStatus, Trigger};

use crate::support::{Buckets, Operator, RARELY, SOON, eventually, stage, testbed};

/// What happened to the resource `name` since that version of its namespace, until its deletion was asked for.
async fn history(api: &Api<TokenBucket>, name: &str, since: &str) -> Vec<String> {
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let events = api.watch(&params, since).await;
    let mut events = pin!(events.expect("buckets can be watched"));
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        match event.expect("the watch goes on") {
            WatchEvent::Added(_) => seen.push("created".to_owned()),
            WatchEvent::Modified(bucket) if bucket.metadata.deletion_timestamp.is_some() => break,
            WatchEvent::Modified(bucket) => {
                let status = bucket.status.unwrap_or_default();
                seen.push(format!(
                    "finalizers {}, observed {:?}, tokens {:?}",
                    bucket.metadata.finalizers.unwrap_or_default().join(" "),
                    status.observed_generation,
                    status.available_tokens
                ));
            }
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    seen
}

#[tokio::test]
async fn a_bucket_is_in_progress_before_anybody_has_written_a_status() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9});
    let created = buckets.create("x", spec).await;
    // By kstatus, another generation than the present one means in progress.
    assert_eq!(
        created.status.and_then(|status| status.observed_generation),
        Some(-1)
    );
}

#[tokio::test]
async fn a_bucket_takes_two_writes_to_be_ready() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    // The engine is connected and its refill queue is there, as mostly.
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9});
    buckets.create("first", spec.clone()).await;
    buckets.ready("first").await;

    let api: Api<TokenBucket> = Api::namespaced(testbed.client().await, namespace.name());
    let list = api.list(&ListParams::default()).await;
    let since = list
        .expect("buckets can be listed")
        .metadata
        .resource_version;
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    buckets.delete("x").await;
    assert_eq!(
        history(&api, "x", &since.expect("a list has a version")).await,
        [
            "created",
            "finalizers tokenbucket.dev/queues, observed Some(-1), tokens None",
            "finalizers tokenbucket.dev/queues, observed Some(1), tokens Some(0)",
        ]
    );
}

#[tokio::test]
async fn a_bucket_is_ready_when_its_initial_tokens_are_in_it() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    // No count comes later and mends what the first status says.
    let seldom = ["--status-interval", "1h"];
    let _operator = Operator::start(testbed, &namespace, &vhost, &seldom).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 30_000, "initialTokens": 25_000});
    buckets.create("x", spec).await;
    let status = buckets.ready("x").await;
    assert_eq!(status.available_tokens, Some(25_000));
    let initial = status
        .last_refill
        .map(|refill| (refill.trigger, refill.added));
    assert_eq!(initial, Some((Trigger::Initial, 25_000)));
}

#[tokio::test]
async fn a_restart_over_unchanged_buckets_writes_nothing() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let often = ["--status-interval", "500ms"];
    let buckets = Buckets::of(testbed, &namespace).await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &often).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 4});
    buckets.create("x", spec).await;
    let settled = |status: &TokenBucketStatus| status.available_tokens == Some(4);
    buckets.until("x", "its tokens", settled).await;
    operator.terminate().await;
    let before = buckets.get("x").await.expect("it is there");

    let operator = Operator::start(testbed, &namespace, &vhost, &often).await;
    let series = format!(
        r#"tokenbucket_tokens_available{{namespace="{}",name="x"}}"#,
        namespace.name()
    );
    eventually("the bucket to be seen", SOON, async || {
        match operator.metric(&series).await? {
            Some(4.0) => Ok(()),
            tokens => Err(format!("{tokens:?}")),
        }
    })
    .await;
    let after = buckets.get("x").await.expect("it is there");
    assert_eq!(after, before);
    let writes = operator.metric(r#"tokenbucket_status_writes_total{result="ok"}"#);
    assert_eq!(writes.await, Ok(None));
}
