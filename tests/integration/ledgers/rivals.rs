//! Several operators work on one bucket.

use chrono::{SubsecRound, TimeDelta, Utc};
use futures::join;
use serde_json::json;
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::{Bucket, BucketId};
use token_bucket_operator::engine::{Outcome, Phase};

use super::{Count, LEDGER, Operator, each_second};
use crate::support::{Network, Running, testbed};

#[tokio::test]
async fn of_two_resources_for_one_bucket_the_older_keeps_it_and_no_tick_is_doubled() {
    let kind = QueueType::Classic;
    join!(contend(kind, true, 3), contend(kind, false, 3));
}

/// RabbitMQ 4 removes a message of a quorum queue that was given back 20 times, or as often as a policy says.
#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn a_resource_that_yields_does_not_wear_out_the_ledger_of_a_quorum_queue() {
    contend(QueueType::Quorum, true, 25).await;
}

async fn contend(queue_type: QueueType, older_first: bool, looks: u64) {
    let vhost = testbed().await.vhost().await;
    if queue_type == QueueType::Quorum {
        let limit = json!({"delivery-limit": 3});
        vhost.set_policy(".*", LEDGER, limit).await;
    }
    let created = Utc::now().trunc_subsecs(0);
    let [older, younger] = [("older", 0), ("younger", 1)].map(|(name, age)| Bucket {
        id: BucketId::new(name, "x"),
        uid: format!("uid-{name}").into(),
        created: created + TimeDelta::milliseconds(age),
        refill_queue: format!("refill-{name}"),
        queue_type,
        ..each_second()
    });
    let mut keeps = Operator::start(&vhost, "one").await;
    let mut yields = Operator::start(&vhost, "two").await;
    if older_first {
        keeps.apply(&older, 1);
        keeps.refills_after(created).await;
        yields.apply(&younger, 1);
    } else {
        yields.apply(&younger, 1);
        yields.refills_after(created).await;
        keeps.apply(&older, 1);
    }
    told_of_the_conflict(&mut yields).await;
    if older_first {
        let contested = |outcome: &Outcome| match outcome {
            Outcome::Contested { rival, .. } => {
                rival.contains("younger/x") && rival.contains("operator two")
            }
            _ => false,
        };
        keeps.running.until(contested).await;
    }
    // It stays so, whatever the other one tries.
    for revision in 2..2 + looks {
        yields.apply(&younger, revision);
        told_of_the_conflict(&mut yields).await;
    }
    yields.crash().await;
    let mut yields = Operator::start(&vhost, "two").await;
    yields.apply(&younger, 1);
    told_of_the_conflict(&mut yields).await;

    let since = Utc::now();
    keeps.refills_after(since).await;
    let ready = |outcome: &Outcome| match outcome {
        Outcome::Bucket(_, state) => state.phase == Phase::Ready,
        _ => false,
    };
    keeps.running.until(ready).await;
    join!(keeps.running.stop(), yields.running.stop());
    let count = Count::of(&vhost).await;
    count.is_exact_since(created);
    assert_eq!(count.ledger["owner"]["uid"], "uid-older");
}

/// Waits until it says that the bucket is that of the older resource.
async fn told_of_the_conflict(operator: &mut Operator) {
    let told = |outcome: &Outcome| match outcome {
        Outcome::Bucket(_, state) => match &state.phase {
            Phase::Stalled { reason, message } => {
                *reason == "NameConflict"
                    && message.contains("older/x")
                    && message.contains("operator one")
            }
            _ => false,
        },
        _ => false,
    };
    operator.running.until(told).await;
}

#[tokio::test]
async fn one_bucket_by_two_names_of_its_broker_is_refilled_once_a_tick() {
    let vhost = testbed().await.vhost().await;
    let here = each_second();
    let there = Bucket {
        refill_queue: "refill-there".into(),
        ..here.clone()
    };
    let url = vhost.amqp_url();
    let mut operators = [
        Running::start(&vhost),
        Running::start_as(
            &url.replacen("127.0.0.1", "localhost", 1),
            Running::options(),
        ),
    ];
    operators[0].engine.apply(here.clone(), 1);
    operators[1].engine.apply(there, 1);
    let [one, two] = &mut operators;
    join!(one.ready(1, 1), two.ready(1, 1));
    join!(takes_part(one, 5), takes_part(two, 5));
    let [one, two] = operators;
    join!(one.stop(), two.stop());
    Count::of(&vhost).await.is_exact_since(here.created);
}

/// Waits until it has carried out so many requests, or found that they were carried out.
async fn takes_part(operator: &mut Running, times: usize) {
    for _ in 0..times {
        let request = |outcome: &Outcome| {
            matches!(outcome, Outcome::Refilled { .. } | Outcome::Dropped { .. })
        };
        operator.until(request).await;
    }
}

#[tokio::test]
async fn an_operator_that_is_cut_off_and_comes_back_repeats_nothing() {
    let vhost = testbed().await.vhost().await;
    let bucket = each_second();
    let mut operators = Vec::new();
    for name in ["one", "two"] {
        let mut operator = Operator::start(&vhost, "same").await;
        let bucket = Bucket {
            refill_queue: format!("refill-{name}"),
            ..bucket.clone()
        };
        operator.apply(&bucket, 1);
        operator.running.ready(1, 1).await;
        operators.push(operator);
    }
    for round in 0..4 {
        // What it sends meanwhile arrives when it is back, or never.
        operators[round % 2].proxy.set(Network::Frozen);
        let later = Utc::now() + TimeDelta::seconds(2);
        operators[(round + 1) % 2].refills_after(later).await;
        operators[round % 2].proxy.set(Network::Good);
    }
    for operator in &mut operators {
        operator.drain();
        takes_part(&mut operator.running, 3).await;
    }
    for operator in operators {
        operator.running.stop().await;
    }
    Count::of(&vhost).await.is_exact_since(bucket.created);
}
