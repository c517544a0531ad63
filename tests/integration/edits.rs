//! Edits take effect without a restart and keep the tokens.

use lapin::BasicProperties;
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Operator, RARELY, SOON, eventually, stage};

#[tokio::test]
async fn a_lowered_maximum_takes_the_excess_away() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 5, "maximum": 30, "initialTokens": 20});
    buckets.create("x", spec).await;
    vhost.depth_becomes("token_bucket_x", 20).await;

    // The initial tokens were for the creation, which is over.
    buckets.ready("x").await;
    buckets.edit("x", json!({"maximum": 12})).await;
    buckets.ready("x").await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(12));

    // Refills keep to it, though the queue would hold more.
    buckets.request_refill("x", "full").await;
    buckets
        .until("x", "the refill", |status| {
            status.last_handled_refill_request.as_deref() == Some("full")
        })
        .await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(12));

    // Once it has been empty the broker enforces it too.
    assert_eq!(vhost.take("token_bucket_x", 12).await, 12);
    buckets.request_refill("x", "empty").await;
    vhost.depth_becomes("token_bucket_x", 5).await;
    let queue = vhost
        .queue("token_bucket_x")
        .await
        .expect("the bucket's queue");
    assert_eq!(queue["arguments"], json!({"x-max-length": 12}));
    buckets
        .until("x", "the limit in the status", |status| {
            status.maximum == Some(12)
        })
        .await;
}

#[tokio::test]
async fn a_raised_maximum_keeps_every_token() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 5, "maximum": 25_000, "initialTokens": 25_000});
    buckets.create("x", spec).await;
    vhost.depth_becomes("token_bucket_x", 25_000).await;

    buckets.edit("x", json!({"maximum": 40_000})).await;
    let status = buckets
        .until("x", "the new limit", |status| {
            status.maximum == Some(40_000)
        })
        .await;
    assert_eq!(
        status.tokens_issued,
        Some(25_000),
        "a replaced queue issues nothing"
    );
    vhost.depth_becomes("token_bucket_x", 25_000).await;
    let queue = vhost
        .queue("token_bucket_x")
        .await
        .expect("the bucket's queue");
    assert_eq!(queue["arguments"], json!({"x-max-length": 40_000}));
}

#[tokio::test]
async fn a_raised_maximum_survives_a_kill_at_any_point() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let tokens = 30_000;
    let spec = json!({"schedule": RARELY, "amount": 5, "maximum": tokens, "initialTokens": tokens});
    buckets.create("x", spec).await;
    vhost.depth_becomes("token_bucket_x", tokens).await;
    for (round, share) in [(1, 0), (2, 1), (3, 2), (4, 3)] {
        buckets.edit("x", json!({"maximum": tokens + round})).await;
        // Kill it when about this many quarters of the tokens have been taken out, or right after.
        eventually(
            "the replacement to be under way",
            SOON,
            async || match vhost.depth("token_bucket_x").await {
                Some(depth) if depth > tokens - share * tokens / 4 && share > 0 => {
                    Err(format!("{depth}"))
                }
                _ => Ok(()),
            },
        )
        .await;
        operator.kill().await;
        operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
        buckets
            .until("x", "the new limit", |status| {
                status.maximum.map(u64::from) == Some(tokens + round)
            })
            .await;
        vhost.depth_becomes("token_bucket_x", tokens).await;
    }
}

#[tokio::test]
async fn amount_schedule_and_suspension_change_live() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    buckets
        .create(
            "x",
            json!({"schedule": RARELY, "amount": 1, "maximum": 1_000_000}),
        )
        .await;
    let before = buckets.ready("x").await;

    // A new schedule has no past: what it would have fired before the edit is not missed.
    buckets
        .edit(
            "x",
            json!({"schedule": "* * * * * *", "missedRefills": "All"}),
        )
        .await;
    let rising = buckets
        .until("x", "the new schedule to fire", |status| {
            status.tokens_issued > Some(0)
        })
        .await;
    assert!(rising.tokens_issued <= Some(5), "{rising:?}");
    assert!(rising.next_refill_time != before.next_refill_time);

    buckets.edit("x", json!({"suspend": true})).await;
    let suspended = buckets
        .until("x", "the suspension", |status| {
            status.next_refill_time.is_none()
        })
        .await;
    buckets.request_refill("x", "while-suspended").await;
    let by_hand = |status: &TokenBucketStatus| status.last_handled_refill_request.is_some();
    let after = buckets.until("x", "a refill by hand", by_hand).await;
    assert_eq!(
        after.tokens_issued,
        suspended.tokens_issued.map(|issued| issued + 1)
    );

    buckets
        .edit(
            "x",
            json!({"amount": 1_000, "suspend": false, "missedRefills": "Skip"}),
        )
        .await;
    let fast = |status: &TokenBucketStatus| status.tokens_issued > Some(1_000);
    let resumed = buckets.until("x", "refills of the new amount", fast).await;
    assert!(
        resumed.tokens_issued < Some(6_000),
        "skipped ticks came: {resumed:?}"
    );
}

#[tokio::test]
async fn the_time_zone_changes_the_next_refill() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec =
        json!({"schedule": RARELY, "amount": 1, "maximum": 10, "timeZone": "Asia/Kathmandu"});
    buckets.create("x", spec).await;
    let next = |status: &TokenBucketStatus| {
        status
            .next_refill_time
            .as_ref()
            .map(|time| time.0.to_string())
            .unwrap_or_default()
    };
    let status = buckets.ready("x").await;
    assert!(next(&status).ends_with("-12-31T18:15:00Z"), "{status:?}");
    buckets
        .edit("x", json!({"timeZone": "America/New_York"}))
        .await;
    let status = buckets
        .until("x", "the other zone", |status| {
            next(status).contains("-01-01T")
        })
        .await;
    assert!(next(&status).ends_with("-01-01T05:00:00Z"), "{status:?}");
}

#[tokio::test]
async fn another_refill_queue_takes_over_with_its_requests() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": "* * * * * *", "amount": 1, "maximum": 100_000, "refillQueue": "token_buckets.old"});
    buckets.create("x", spec).await;
    buckets
        .until("x", "the first refills", |status| {
            status.tokens_issued > Some(0)
        })
        .await;
    buckets
        .edit("x", json!({"refillQueue": "token_buckets.new"}))
        .await;
    let before = buckets.ready("x").await.tokens_issued;
    buckets
        .until("x", "refills through the other queue", |status| {
            status.tokens_issued > before
        })
        .await;
    eventually("the old queue to go", SOON, async || {
        match vhost.queues().await {
            queues
                if queues
                    .iter()
                    .any(|queue| queue.starts_with("token_buckets.old")) =>
            {
                Err(format!("{queues:?}"))
            }
            queues if queues.contains(&"token_buckets.new".to_owned()) => Ok(()),
            queues => Err(format!("{queues:?}")),
        }
    })
    .await;
    let status = buckets.status("x").await;
    assert!(status.tokens_issued.is_some());
    vhost
        .publish("token_buckets.new", b"nonsense", BasicProperties::default())
        .await;
    vhost.depth_becomes("token_buckets.new.rejected", 1).await;
}
