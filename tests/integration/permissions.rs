//! The permissions at the broker that the README tells to give are enough, for the operator and for a worker.

use std::fs;

use lapin::BasicProperties;
use serde_json::json;

use crate::support::{Operator, stage};

/// The regular expressions of `rabbitmqctl set_permissions` in the README: configure, write, read.
fn documented(user: &str) -> [String; 3] {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("the README");
    let command = format!("$ rabbitmqctl set_permissions -p / {user} ");
    let mut lines = readme.lines();
    let line = lines.find_map(|line| line.strip_prefix(&command));
    let mut quoted = line.expect("the command").split('\'').skip(1).step_by(2);
    [(); 3].map(|()| quoted.next().expect("three expressions").to_owned())
}

#[tokio::test]
async fn the_permissions_of_the_readme_are_enough() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    vhost
        .permit(documented("operator").each_ref().map(String::as_str))
        .await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;

    // Creation, refills, a replaced queue, a parked request.
    let spec = json!({"schedule": "* * * * * *", "amount": 1, "maximum": 5, "initialTokens": 2});
    buckets.create("my-api-client", spec).await;
    buckets.ready("my-api-client").await;
    vhost.depth_becomes("token_bucket_my_api_client", 5).await;
    buckets.edit("my-api-client", json!({"maximum": 9})).await;
    let raised = |status: &token_bucket_operator::api::TokenBucketStatus| status.maximum == Some(9);
    buckets
        .until("my-api-client", "the larger maximum", raised)
        .await;
    vhost.depth_becomes("token_bucket_my_api_client", 9).await;
    vhost
        .publish(
            "token_buckets.refill",
            b"no request",
            BasicProperties::default(),
        )
        .await;
    vhost
        .depth_becomes("token_buckets.refill.rejected", 1)
        .await;
    buckets
        .create(
            "other",
            json!({"schedule": "@hourly", "amount": 1, "maximum": 1}),
        )
        .await;
    buckets.ready("other").await;
    buckets.delete("other").await;
    assert_eq!(vhost.depth("token_bucket_other").await, None);

    // A worker takes from its bucket.
    operator.terminate().await;
    vhost
        .permit(documented("worker").each_ref().map(String::as_str))
        .await;
    vhost.close_all_connections().await;
    assert_eq!(vhost.take("token_bucket_my_api_client", 1).await, 1);
}
