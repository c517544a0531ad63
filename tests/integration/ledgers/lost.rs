//! Somebody deletes a ledger, or its queue.

use chrono::Utc;
use futures::join;
use lapin::options::{QueueDeleteOptions, QueuePurgeOptions};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::engine::Outcome;

use super::{
    Count, LEDGER, Operator, each_second, goes_on_exactly_after_a_crash, hold, no_tick_is_doubled,
    ticks,
};
use crate::support::{RARELY, SOON, Vhost, bucket, eventually, removal, testbed};

/// Ticks that may go with a ledger: those of the second that it is looked for before it counts as lost, and around it.
/// More only by what a busy machine delays.
const LOST_WITH_A_LEDGER: u64 = 5;

#[tokio::test]
async fn a_ledger_that_is_deleted_or_purged_comes_back_and_no_tick_is_repeated() {
    let classic = QueueType::Classic;
    join!(is_lost(classic, delete), is_lost(classic, purge));
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn a_ledger_in_a_quorum_queue_comes_back_too_and_no_tick_is_repeated() {
    let quorum = QueueType::Quorum;
    join!(is_lost(quorum, delete), is_lost(quorum, purge));
}

async fn delete(vhost: &Vhost<'_>) {
    let channel = vhost.channel().await;
    let deleted = channel.queue_delete(LEDGER.into(), QueueDeleteOptions::default());
    deleted.await.expect("it is deleted");
}

async fn purge(vhost: &Vhost<'_>) {
    let channel = vhost.channel().await;
    // A ledger that is held at that moment stays.
    eventually("a ledger to purge", SOON, async || {
        let purged = channel.queue_purge(LEDGER.into(), QueuePurgeOptions::default());
        match purged.await.expect("it is purged") {
            0 => Err("nothing was there".into()),
            _ => Ok(()),
        }
    })
    .await;
}

async fn is_lost(queue_type: QueueType, lose: impl AsyncFn(&Vhost<'_>)) {
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = Bucket {
        queue_type,
        ..each_second()
    };
    operator.apply(&bucket, 1);
    for _ in 0..2 {
        operator.refills_after(Utc::now()).await;
        lose(&vhost).await;
        operator.running.until(lost).await;
        operator.refills_after(Utc::now()).await;
        no_tick_is_doubled(&vhost, &bucket).await;
    }
    goes_on_exactly_after_a_crash(&vhost, operator, &bucket).await;
    let count = Count::of(&vhost).await;
    let due = ticks(bucket.created, count.tick());
    assert!(
        count.tokens + 2 * LOST_WITH_A_LEDGER >= due,
        "{count:?} for {due} ticks"
    );
}

fn lost(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::LedgerLost(_))
}

#[tokio::test]
async fn a_lost_ledger_that_nobody_remembers_repeats_nothing() {
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    operator.refills_after(Utc::now()).await;
    operator.crash().await;
    let before = Count::of(&vhost).await;
    delete(&vhost).await;

    let restarted = Utc::now();
    let mut next = Operator::start(&vhost, "one").await;
    next.apply(&bucket, 1);
    next.refills_after(restarted).await;
    next.running.stop().await;
    let after = Count::of(&vhost).await;
    let due = ticks(restarted, after.tick());
    assert!(
        after.tokens - before.tokens <= due,
        "{due}: {before:?} {after:?}"
    );
}

#[tokio::test]
async fn a_lost_ledger_does_not_hold_up_other_buckets() {
    const OTHER: &str = "token_bucket_other";
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let other = Bucket {
        missed_refills: each_second().missed_refills,
        ..bucket("other", "* * * * * *", 1, 1_000_000)
    };
    let bucket = each_second();
    operator.apply(&bucket, 1);
    operator.apply(&other, 1);
    operator.running.ready(2, 1).await;
    for lose in [true, false] {
        let before = vhost.depth(OTHER).await.expect("its queue");
        if lose {
            delete(&vhost).await;
        } else {
            purge(&vhost).await;
        }
        operator.running.until(lost).await;
        let meanwhile = vhost.depth(OTHER).await.expect("its queue") - before;
        assert!(meanwhile > 4, "{meanwhile} refills of the other bucket");
    }
    operator.running.stop().await;
}

#[tokio::test]
async fn a_bucket_without_its_ledger_can_be_removed() {
    is_removed(QueueType::Classic).await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn a_quorum_bucket_without_its_ledger_can_be_removed() {
    is_removed(QueueType::Quorum).await;
}

async fn is_removed(queue_type: QueueType) {
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = Bucket {
        queue_type,
        ..bucket("x", RARELY, 1, 9)
    };
    operator.apply(&bucket, 1);
    operator.running.ready(1, 1).await;
    purge(&vhost).await;
    // Until nobody can hold it any more.
    let removing = operator.running.engine.remove(removal(&bucket));
    let removed = tokio::time::timeout(SOON, removing).await;
    removed.expect("it ends").expect("it is removed");
    assert_eq!(vhost.queues().await, Vec::<String>::new());
    operator.running.stop().await;
}

#[tokio::test]
async fn a_ledger_that_comes_back_when_it_counts_as_lost_is_dropped() {
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    operator.refills_after(bucket.created).await;
    let channel = hold(&vhost).await;
    operator.running.until(lost).await;
    operator.refills_after(Utc::now()).await;
    channel.close(200, "done".into()).await.expect("it closes");
    operator.refills_after(Utc::now()).await;
    no_tick_is_doubled(&vhost, &bucket).await;
    goes_on_exactly_after_a_crash(&vhost, operator, &bucket).await;
    assert_eq!(vhost.depth(LEDGER).await, Some(1));
}
