use lapin::options::QueueDeleteOptions;
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Operator, RARELY, SOON, Vhost, eventually, stage};

const QUEUE: &str = "token_bucket_x";

async fn holds_at_least(vhost: &Vhost<'_>, tokens: u64) {
    eventually("the next chunks", SOON, async || {
        match vhost.depth(QUEUE).await {
            Some(depth) if depth >= tokens => Ok(()),
            depth => Err(format!("{depth:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_big_refill_that_is_killed_at_many_chunks_ends_exactly() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 200_000, "maximum": 10_000_000});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    buckets.request_refill("x", "now").await;
    for tokens in [1, 40_000, 80_000, 120_000, 160_000] {
        holds_at_least(&vhost, tokens).await;
        operator.kill().await;
        operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    }
    vhost.depth_becomes(QUEUE, 200_000).await;
    let complete =
        |status: &TokenBucketStatus| status.last_handled_refill_request.as_deref() == Some("now");
    buckets
        .until("x", "the refill in the status", complete)
        .await;
    assert_eq!(vhost.depth(QUEUE).await, Some(200_000));
}

#[tokio::test]
async fn a_bucket_that_somebody_deletes_in_the_middle_of_a_big_refill_gets_the_rest() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 200_000, "maximum": 10_000_000});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    buckets.request_refill("x", "now").await;
    holds_at_least(&vhost, 40_000).await;
    let channel = vhost.channel().await;
    let deleted = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
    let deleted = u64::from(deleted.await.expect("it is deleted"));
    operator.logs_have("refilled to the last token").await;
    let left = vhost.depth(QUEUE).await.expect("a new queue");
    // What was deleted is gone, and so is what was on its way to the queue: one transaction, and the one that was
    // counted for before.
    let rest = 200_000 - deleted;
    assert!(
        (rest - 20_000..=rest).contains(&left),
        "{left} of {rest} tokens"
    );
}
