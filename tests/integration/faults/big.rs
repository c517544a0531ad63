use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Operator, RARELY, SOON, eventually, stage};

#[tokio::test]
async fn a_big_refill_that_is_killed_at_many_chunks_ends_exactly() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 200_000, "maximum": 10_000_000});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    buckets.request_refill("x", "now").await;
    for tokens in [1, 40_000, 80_000, 120_000, 160_000] {
        eventually("the next chunks", SOON, async || {
            match vhost.depth("token_bucket_x").await {
                Some(depth) if depth >= tokens => Ok(()),
                depth => Err(format!("{depth:?}")),
            }
        })
        .await;
        operator.kill().await;
        operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    }
    vhost.depth_becomes("token_bucket_x", 200_000).await;
    let complete =
        |status: &TokenBucketStatus| status.last_handled_refill_request.as_deref() == Some("now");
    buckets
        .until("x", "the refill in the status", complete)
        .await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(200_000));
}
