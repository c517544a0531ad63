//! The engine on its own: no Kubernetes, a real RabbitMQ.

use std::time::Duration;

use chrono::Utc;
use futures::future::join_all;
use futures::join;
use jiff::tz::TimeZone;
use token_bucket_operator::api::{MissedRefills, QueueType, Trigger};
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::engine::{Clock, LeaseValidity, Outcome};
use token_bucket_operator::schedule::Timetable;

use crate::support::{
    RARELY, Running, SOON, Vhost, asked, bucket, eventually, progressing, removal, testbed,
};

#[tokio::test]
async fn a_big_refill_does_not_hold_up_a_small_one() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::start(&vhost);
    let (big, small) = (
        bucket("big", RARELY, 150_000, 150_000),
        bucket("small", RARELY, 5, 5),
    );
    running.engine.apply(big.clone(), 1);
    running.engine.apply(small.clone(), 1);
    running.ready(2, 1).await;

    running.engine.apply(asked(&big, "now"), 2);
    eventually("the big refill to have begun", SOON, async || {
        match vhost.depth("token_bucket_big").await {
            Some(depth) if depth > 0 => Ok(()),
            depth => Err(format!("{depth:?}")),
        }
    })
    .await;
    running.engine.apply(asked(&small, "now"), 2);
    vhost.depth_becomes("token_bucket_small", 5).await;
    let meanwhile = vhost
        .depth("token_bucket_big")
        .await
        .expect("the big bucket");
    assert!(
        meanwhile < 150_000,
        "the small refill came after the big one"
    );
    vhost.depth_becomes("token_bucket_big", 150_000).await;
    running.stop().await;
}

#[tokio::test]
async fn a_second_engine_waits_for_the_refill_queue_and_takes_over() {
    let vhost = testbed().await.vhost().await;
    waits_and_takes_over(&vhost, QueueType::Classic).await;
}

/// An engine has the refill queue; another one waits for it and goes on where the first one ended.
pub async fn waits_and_takes_over(vhost: &Vhost<'_>, kind: QueueType) {
    let start = || Running::of_type(&vhost.amqp_url(), kind);
    let (mut first, mut second) = (start(), start());
    let bucket = Bucket {
        queue_type: kind,
        ..bucket("x", "* * * * * *", 1, 100_000)
    };
    first.engine.apply(bucket.clone(), 1);
    first.ready(1, 1).await;
    second.engine.apply(bucket.clone(), 7);
    second
        .until(|outcome| progressing(outcome, "QueueInUse"))
        .await;
    first.stop().await;
    second.ready(1, 7).await;
    // Stopping the clock makes the sum exact: one token for each second since the creation.
    second
        .until(|outcome| matches!(outcome, Outcome::Refilled { .. }))
        .await;
    second.engine.apply(
        Bucket {
            suspend: true,
            ..bucket.clone()
        },
        8,
    );
    let state = second.ready(1, 8).await;
    let last = state
        .last_refill
        .as_ref()
        .and_then(|refill| refill.scheduled_time)
        .expect("a last tick");
    let ticks = u64::try_from(last.timestamp() - bucket.created.timestamp()).expect("time goes on");
    assert!(
        state.issued <= ticks,
        "{} tokens for {ticks} ticks",
        state.issued
    );
    assert_eq!(vhost.depth("token_bucket_x").await, Some(state.issued));
    second.stop().await;
}

#[tokio::test]
async fn queues_deleted_behind_our_back_come_again() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::start(&vhost);
    let bucket = bucket("x", RARELY, 5, 100);
    running.engine.apply(bucket.clone(), 1);
    running.ready(1, 1).await;
    running.engine.apply(asked(&bucket, "one"), 2);
    vhost.depth_becomes("token_bucket_x", 5).await;

    let channel = vhost.channel().await;
    for queue in ["token_bucket_x.ledger", "token_bucket_x", "refill"] {
        channel
            .queue_delete(queue.into(), Default::default())
            .await
            .expect("it can be deleted");
    }
    eventually("all queues", SOON, async || match vhost.queues().await {
        queues if queues.len() == 4 => Ok(()),
        queues => Err(format!("{queues:?}")),
    })
    .await;
    // The ledger was not forgotten with its queue: the request that it knows is not carried out again.
    running.engine.apply(asked(&bucket, "one"), 3);
    running.ready(1, 3).await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(0));
    running.engine.apply(asked(&bucket, "two"), 4);
    vhost.depth_becomes("token_bucket_x", 5).await;
    running.stop().await;
}

#[tokio::test]
async fn removing_deletes_what_is_there_and_nothing_else() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::start(&vhost);
    let (gone, stays) = (
        bucket("gone", "* * * * * *", 1, 10),
        bucket("stays", RARELY, 1, 10),
    );
    running.engine.apply(gone.clone(), 1);
    running.engine.apply(stays.clone(), 1);
    running.ready(2, 1).await;
    running
        .engine
        .remove(removal(&gone))
        .await
        .expect("it is removed");
    let mut queues = vhost.queues().await;
    queues.sort_unstable();
    assert_eq!(
        queues,
        [
            "refill",
            "refill.rejected",
            "token_bucket_stays",
            "token_bucket_stays.ledger"
        ]
    );

    running
        .engine
        .remove(removal(&gone))
        .await
        .expect("absent is removed");
    running
        .engine
        .remove(removal(&stays))
        .await
        .expect("it is removed");
    assert_eq!(vhost.queues().await, Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn a_thousand_buckets_are_refilled_in_the_same_second() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::start(&vhost);
    let buckets: Vec<_> = (0..1_000)
        .map(|number| bucket(&format!("b{number}"), RARELY, 3, 10))
        .collect();
    buckets
        .iter()
        .for_each(|bucket| running.engine.apply(bucket.clone(), 1));
    running.ready(1_000, 1).await;
    for bucket in &buckets {
        // Seldom enough for a busy machine to keep up with.
        let timetable = Timetable::new(
            "*/5 * * * * *".parse().expect("a schedule"),
            TimeZone::UTC,
            bucket.created,
        );
        running.engine.apply(
            Bucket {
                timetable,
                ..bucket.clone()
            },
            2,
        );
    }
    eventually("all buckets to be full", SOON * 2, async || {
        for bucket in &buckets {
            match vhost.depth(&bucket.queue()).await {
                Some(10) => {}
                depth => return Err(format!("{depth:?} in {}", bucket.id)),
            }
        }
        Ok(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn an_engine_that_may_have_been_replaced_asks_for_nothing_until_it_knows_better() {
    let vhost = testbed().await.vhost().await;
    let clock = Clock::start();
    let (renewer, lease) = LeaseValidity::granted(clock, clock.now(), Duration::ZERO);
    let mut running = Running::start_with(&vhost, lease);
    let bucket = Bucket {
        missed_refills: MissedRefills::All,
        ..bucket("x", "* * * * * *", 1, 100_000)
    };
    running.engine.apply(bucket.clone(), 1);
    running.ready(1, 1).await;
    eventually("two ticks to have passed", SOON, async || {
        let age = Utc::now() - bucket.created;
        (age.num_seconds() > 2)
            .then_some(())
            .ok_or(format!("{age}"))
    })
    .await;
    // What others ask for is carried out, and is the first refill.
    running.engine.apply(asked(&bucket, "now"), 2);
    let refilled = |outcome: &Outcome| matches!(outcome, Outcome::Refilled { .. });
    match running.until(refilled).await {
        Outcome::Refilled { trigger, .. } => assert_eq!(trigger, Trigger::Manual),
        outcome => panic!("{outcome:?}"),
    }
    renewer.renew(clock.now(), SOON);
    match running.until(refilled).await {
        Outcome::Refilled { trigger, .. } => assert_eq!(trigger, Trigger::Schedule),
        outcome => panic!("{outcome:?}"),
    }
    running.stop().await;
}

#[tokio::test]
async fn many_removals_at_once_take_their_queues_and_not_those_of_a_successor() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::start(&vhost);
    let buckets: Vec<_> = (0..40)
        .map(|number| bucket(&format!("b{number}"), RARELY, 1, 9))
        .collect();
    for bucket in &buckets {
        running.engine.apply(bucket.clone(), 1);
    }
    running.ready(buckets.len(), 1).await;
    let removals = join_all(
        buckets
            .iter()
            .map(|bucket| running.engine.remove(removal(bucket))),
    );
    // Handed over after the removals, before any of them has ended.
    let successor = Bucket {
        uid: "another".into(),
        initial_tokens: 3,
        ..buckets[7].clone()
    };
    let engine = running.engine.clone();
    let (removed, ()) = join!(removals, async { engine.apply(successor.clone(), 2) });
    assert!(removed.iter().all(Result::is_ok), "{removed:?}");
    running.ready(1, 2).await;
    vhost.depth_becomes("token_bucket_b7", 3).await;
    let left = [
        "refill",
        "refill.rejected",
        "token_bucket_b7",
        "token_bucket_b7.ledger",
    ];
    assert_eq!(vhost.queues().await, left);

    engine
        .remove(removal(&successor))
        .await
        .expect("it is removed");
    assert_eq!(vhost.queues().await, Vec::<String>::new());
    running.stop().await;
}
