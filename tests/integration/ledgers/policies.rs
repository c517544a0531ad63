//! Policies of the broker touch ledgers.

use chrono::Utc;
use futures::future::join_all;
use lapin::types::FieldTable;
use serde_json::{Value, json};
use token_bucket_operator::bucket::Bucket;

use super::{
    Count, LEDGER, Operator, each_second, goes_on_exactly_after_a_crash, no_tick_is_doubled, ticks,
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

/// A policy for ledgers, from before the bucket was created or from after it, never makes a tick count twice; without it
/// refills go on.
async fn with_policies(
    definitions: impl IntoIterator<Item = Value>,
) -> Vec<(Vhost<'static>, Bucket)> {
    let both = definitions
        .into_iter()
        .flat_map(|definition| [(definition.clone(), true), (definition, false)]);
    join_all(both.map(|(definition, first)| with_policy(definition, first))).await
}

async fn with_policy(definition: Value, first: bool) -> (Vhost<'static>, Bucket) {
    let vhost = testbed().await.vhost().await;
    vhost.declare("dead", FieldTable::default()).await;
    let set = async || {
        let ledgers = r"^token_bucket_.*\.ledger$";
        vhost.set_policy(ledgers, LEDGER, definition.clone()).await;
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

    vhost.delete_policy(LEDGER).await;
    operator.refills_after(Utc::now()).await;
    goes_on_exactly_after_a_crash(&vhost, operator, &bucket).await;
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
