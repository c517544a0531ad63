//! Policies of the broker touch ledgers.

use std::panic::AssertUnwindSafe;

use chrono::Utc;
use futures::future::{FutureExt, join_all};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::bucket::machine::Phase;
use token_bucket_operator::engine::Outcome;

use super::{
    Count, LEDGER, Operator, QUEUE, each_second, goes_on_exactly_after_a_crash, no_tick_is_doubled,
    ticks,
};
use crate::support::{SOON, Vhost, eventually, testbed};

#[tokio::test]
async fn policies_that_lose_ledgers_mint_nothing() {
    with_policies([
        json!({"message-ttl": 100}),
        json!({"expires": 500}),
        json!({"max-length": 0}),
    ])
    .await;
}

#[tokio::test]
async fn policies_for_what_is_too_much_or_dead_concern_no_ledger() {
    let policies = [
        json!({"overflow": "reject-publish", "max-length": 1}),
        json!({"dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
    ];
    for (vhost, bucket) in with_policies(policies).await {
        Count::of(&vhost).await.is_exact_since(bucket.created);
        assert_eq!(vhost.depth("dead").await, Some(0));
    }
}

/// Queues of a policy: their pattern, and one of them.
type Queues = [&'static str; 2];
const LEDGERS: Queues = [r"^token_bucket_.*\.ledger$", LEDGER];
const BUCKETS: Queues = [r"^token_bucket_x$", QUEUE];
const ALL: Queues = [".*", QUEUE];

#[tokio::test]
async fn policies_for_tokens_and_for_everything_double_no_tick_and_block_no_refill() {
    let definitions = [
        json!({"max-length": 3}),
        json!({"max-length": 3, "overflow": "reject-publish"}),
        json!({"max-length": 3, "overflow": "reject-publish-dlx", "dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
        json!({"message-ttl": 300}),
        json!({"dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
        // That of Amazon MQ.
        json!({"overflow": "reject-publish", "max-length": 8_000_000, "queue-mode": "lazy"}),
    ];
    let all = definitions.into_iter().flat_map(|definition| {
        [BUCKETS, ALL].into_iter().flat_map(move |queues| {
            let definition = definition.clone();
            [true, false].map(move |first| (queues, definition.clone(), first))
        })
    });
    let tried = all.map(|(queues, definition, first)| async move {
        let name = format!("{} {definition} {first}", queues[0]);
        let tried = AssertUnwindSafe(with_policy(queues, definition, first));
        tried.catch_unwind().await.map(drop).map_err(|_| name)
    });
    let failed: Vec<_> = join_all(tried)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A policy for ledgers, from before the bucket was created or from after it, never makes a tick count twice; without it
/// refills go on.
async fn with_policies(
    definitions: impl IntoIterator<Item = Value>,
) -> Vec<(Vhost<'static>, Bucket)> {
    let both = definitions
        .into_iter()
        .flat_map(|definition| [(definition.clone(), true), (definition, false)]);
    join_all(both.map(|(definition, first)| with_policy(LEDGERS, definition, first))).await
}

async fn with_policy(
    [pattern, queue]: Queues,
    definition: Value,
    first: bool,
) -> (Vhost<'static>, Bucket) {
    let vhost = testbed().await.vhost().await;
    vhost.declare("dead", FieldTable::default()).await;
    let set = async || {
        vhost.set_policy(pattern, queue, definition.clone()).await;
    };
    if first {
        set().await;
    }
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    if !first {
        operator.refills_after(bucket.created).await;
        set().await;
    }
    // Long enough for a lost ledger to be written anew.
    pass(&vhost, &bucket, 11).await;
    operator.crash().await;
    let mut operator = Operator::start(&vhost, "one").await;
    operator.apply(&bucket, 1);
    pass(&vhost, &bucket, 6).await;

    vhost.delete_policy(queue).await;
    operator.refills_after(Utc::now()).await;
    if queue == QUEUE && definition.get("message-ttl").is_some() {
        // Tokens of that time are still going.
        no_tick_is_doubled(&vhost, &bucket).await;
    } else {
        goes_on_exactly_after_a_crash(&vhost, operator, &bucket).await;
    }
    (vhost, bucket)
}

/// So many ticks pass, and none is doubled.
async fn pass(vhost: &Vhost<'_>, bucket: &Bucket, number: u64) {
    let since = Utc::now();
    eventually("time to pass", SOON, async || {
        no_tick_is_doubled(vhost, bucket).await;
        let passed = ticks(since, Utc::now());
        (passed >= number)
            .then_some(())
            .ok_or(format!("{passed} ticks"))
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_refuses_tokens_is_told_and_that_a_policy_does_it() {
    let vhost = testbed().await.vhost().await;
    let definition = json!({"max-length": 3, "overflow": "reject-publish"});
    let [pattern, queue] = BUCKETS;
    vhost.set_policy(pattern, queue, definition).await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    let refused = |outcome: &Outcome| stalled(outcome, "MessageRefused");
    let outcome = operator.running.until(|it| refused(it).is_some()).await;
    let told = refused(&outcome).unwrap_or_default();
    assert!(
        told.contains("a policy") && !told.contains("elete"),
        "{told}"
    );
    assert_eq!(vhost.depth(queue).await, Some(3));
    operator.running.stop().await;
}

/// Why a bucket waits for a person, if that is for this reason.
fn stalled(outcome: &Outcome, why: &str) -> Option<String> {
    match outcome {
        Outcome::Bucket(_, state) => match &state.phase {
            Phase::Stalled { reason, message } if *reason == why => Some(message.to_string()),
            _ => None,
        },
        _ => None,
    }
}
