//! Requests that come while their bucket is not ready for them, and a bucket that moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::Utc;
use token_bucket_operator::bucket::{Bucket, Origin, RefillRequest};
use token_bucket_operator::engine::{Options, Outcome};

use crate::broker::link::Link;
use crate::support::{RARELY, Running, Vhost, bucket, progressing, send_requests, testbed};

/// Asks for a refill of each bucket, as somebody else does.
async fn ask(vhost: &Vhost<'_>, buckets: impl IntoIterator<Item = &str>) {
    // The same id twice would be one request.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let request = |bucket: &str| {
        let id = Some(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        let bucket = bucket.to_owned();
        let origin = Origin::Foreign { id };
        RefillRequest { bucket, origin }
    };
    let requests = buckets.into_iter().map(request).collect();
    send_requests(vhost, "refill", requests).await;
}

#[tokio::test]
async fn an_edit_during_an_alarm_is_in_force_after_it_and_loses_no_request() {
    let vhost = testbed().await.vhost().await;
    let link = Link::to(&vhost.amqp_url()).await;
    let often = Options {
        status_interval: Duration::from_secs(1),
        ..Running::options()
    };
    let mut running = Running::start_as(&link.uri, often);
    let bucket = bucket("x", RARELY, 5, 100);
    running.engine.apply(bucket.clone(), 1);
    running.ready(1, 1).await;

    link.block().await;
    let revision = edit_while_blocked(&mut running, &bucket, 2).await;
    link.unblock().await;
    running.ready(1, revision).await;
    ask(&vhost, ["x"]).await;
    vhost.depth_becomes("token_bucket_x", 5).await;

    link.block().await;
    edit_while_blocked(&mut running, &bucket, revision + 1).await;
    ask(&vhost, ["x", "x"]).await;
    vhost.depth_becomes("refill", 0).await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(5));
    link.unblock().await;
    vhost.depth_becomes("token_bucket_x", 15).await;
    assert_eq!(vhost.depth("refill.rejected").await, Some(0));
    running.stop().await;
}

/// The alarm is told on another way than an edit: edits until one comes after it, and answers its revision.
async fn edit_while_blocked(running: &mut Running, bucket: &Bucket, first: u64) -> u64 {
    let mut revision = first;
    loop {
        let edited = Bucket {
            maximum: 100 - revision % 2,
            ..bucket.clone()
        };
        running.engine.apply(edited, revision);
        let told = |outcome: &Outcome| match outcome {
            Outcome::Bucket(_, state) => state.revision == revision,
            _ => false,
        };
        if progressing(&running.until(told).await, "BrokerBlocked") {
            return revision;
        }
        revision += 1;
    }
}

#[tokio::test]
async fn requests_for_empty_buckets_whose_queues_are_replaced_are_all_carried_out() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::start(&vhost);
    // More than take part in one transaction.
    let buckets: Vec<_> = (0..30)
        .map(|number| Bucket {
            initial_tokens: 1,
            ..bucket(&format!("b{number}"), RARELY, 500, 2_000)
        })
        .collect();
    for bucket in &buckets {
        running.engine.apply(bucket.clone(), 1);
    }
    running.ready(buckets.len(), 1).await;
    for bucket in &buckets {
        let lowered = Bucket {
            maximum: 1_500,
            ..bucket.clone()
        };
        running.engine.apply(lowered, 2);
    }
    running.ready(buckets.len(), 2).await;
    for bucket in &buckets {
        assert_eq!(vhost.take(&bucket.queue(), 1).await, 1);
    }
    let names = || buckets.iter().map(|bucket| &*bucket.name);
    ask(&vhost, names().chain(names()).chain(names())).await;
    for bucket in &buckets {
        vhost.depth_becomes(&bucket.queue(), 1_500).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_replica_that_knows_nothing_of_a_move_and_the_one_that_does_add_no_tick_twice() {
    let vhost = testbed().await.vhost().await;
    let (mut first, mut second) = (Running::start(&vhost), Running::start(&vhost));
    let before = bucket("x", "* * * * * *", 1, 100_000);
    first.engine.apply(before.clone(), 1);
    first.ready(1, 1).await;
    // Cut off from the API server, the first one does not hear of this.
    let moved = Bucket {
        refill_queue: "elsewhere".into(),
        ..before.clone()
    };
    second.engine.apply(moved, 2);
    second.ready(1, 2).await;
    let refused = |outcome: &Outcome| {
        matches!(
            outcome,
            Outcome::Dropped {
                reason: "Duplicate",
                ..
            }
        )
    };
    for running in [&mut first, &mut second] {
        for _ in 0..2 {
            running.until(refused).await;
        }
    }
    first.stop().await;
    second.stop().await;
    let ticks = (Utc::now() - before.created).num_seconds() + 1;
    let depth = vhost.depth("token_bucket_x").await.expect("a queue");
    assert!(
        depth <= ticks.unsigned_abs(),
        "{depth} tokens for {ticks} ticks"
    );
}
