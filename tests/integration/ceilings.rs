//! What an administrator does not allow is refused, with a word about what is allowed.

use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Buckets, Operator, RARELY, condition, event, reason, stage};

/// Waits until a bucket is refused, and answers what people are told.
async fn refused(buckets: &Buckets, name: &str, wanted: &str) -> String {
    let holds = |status: &TokenBucketStatus| reason(status, "Stalled") == wanted;
    let status = buckets.until(name, "it to be refused", holds).await;
    assert_eq!(condition(&status, "Stalled"), "True");
    let ready = status.conditions.into_iter().find(|it| it.type_ == "Ready");
    ready.expect("a condition").message
}

#[tokio::test]
async fn a_bucket_that_is_too_large_keeps_its_tokens_and_gets_no_more() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 5, "maximum": 25, "initialTokens": 7});
    buckets.create("api", spec).await;
    let full = |status: &TokenBucketStatus| status.available_tokens == Some(7);
    buckets.until("api", "its tokens", full).await;
    operator.terminate().await;

    let limit = ["--max-tokens-per-bucket=20"];
    let operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    let said = refused(&buckets, "api", "MaximumTooLarge").await;
    for word in ["25", "at most 20", "--max-tokens-per-bucket"] {
        assert!(said.contains(word), "{said}");
    }
    event(testbed, &namespace, "api", "MaximumTooLarge").await;
    let series = "tokenbucket_reconcile_errors_total{reason=\"MaximumTooLarge\"}";
    assert!(operator.metric(series).await.expect("metrics").is_some());
    buckets.request_refill("api", "now").await;
    assert_eq!(vhost.depth("token_bucket_api").await, Some(7));
    buckets.edit("api", json!({"maximum": 20})).await;
    let refilled = |status: &TokenBucketStatus| status.available_tokens == Some(12);
    buckets.until("api", "the refill", refilled).await;
}

#[tokio::test]
async fn the_oldest_buckets_of_a_namespace_are_in_force() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut by_age = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1});
        let metadata = buckets.create(name, spec).await.metadata;
        let created = metadata.creation_timestamp.expect("a time");
        by_age.push((created.0, metadata.uid.expect("a UID"), name));
    }
    by_age.sort();
    let [oldest, second, third, youngest] = [0, 1, 2, 3].map(|place: usize| by_age[place].2);
    let limit = ["--max-buckets-per-namespace=2"];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    buckets.ready(oldest).await;
    buckets.ready(second).await;
    let said = refused(&buckets, youngest, "TooManyBuckets").await;
    assert!(
        said.contains("--max-buckets-per-namespace allows 2"),
        "{said}"
    );
    refused(&buckets, third, "TooManyBuckets").await;

    buckets.delete(second).await;
    buckets.ready(third).await;
    operator.terminate().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    operator.logs_have("every TokenBucket is known").await;
    buckets.delete(oldest).await;
    buckets.ready(youngest).await;
    operator.terminate().await;
}

#[tokio::test]
async fn a_schedule_with_two_ticks_too_close_is_refused() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let limit = ["--min-refill-interval=1h"];
    let _operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    let spec = |schedule: &str| json!({"schedule": schedule, "timeZone": "Europe/Berlin", "amount": 1, "maximum": 1});
    for (name, schedule) in [("twice", "0,1 * * * *"), ("often", "@every 5s")] {
        buckets.create(name, spec(schedule)).await;
        let said = refused(&buckets, name, "ScheduleTooFrequent").await;
        for word in ["one in 3600 s", "--min-refill-interval"] {
            assert!(said.contains(word), "{said}");
        }
    }
    buckets.create("hourly", spec("0 * * * *")).await;
    buckets.ready("hourly").await;
    buckets.edit("twice", json!({"schedule": "@hourly"})).await;
    buckets.ready("twice").await;
}
