use chrono::Utc;
use serde_json::json;

use crate::support::{Account, Buckets, Operator, Pace, last_tick, reason, testbed};

#[tokio::test]
async fn refills_resume_after_a_broker_was_restarted_killed_or_short_of_memory() {
    let shared = testbed().await;
    let testbed = shared.with_own_broker();
    let (namespace, vhost) = (shared.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(shared, &namespace).await;
    let mut operator =
        Operator::start(shared, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let full = json!({"schedule": "* * * * * *", "amount": 20, "maximum": 50});
    buckets.create("full", full).await;
    let limits = [3, 1_000_000];
    let account = Account::open(&buckets, "x", Pace(1), limits, false, json!({})).await;
    buckets.ready("x").await;
    buckets.ready("full").await;

    // Whoever publishes has to wait.
    let watermark = "set_vm_memory_high_watermark";
    testbed.rabbitmqctl(&[watermark, "0"]).await;
    let blocked = |status: &_| reason(status, "Ready") == "BrokerBlocked";
    for name in ["x", "full"] {
        buckets
            .until(name, "the alarm in the status", blocked)
            .await;
    }
    testbed.rabbitmqctl(&[watermark, "0.4"]).await;
    buckets.ready("x").await;
    // A broker that lives loses nothing.
    account.check(&buckets, &vhost).await;
    buckets.edit("x", json!({"suspend": false})).await;

    for signal in ["TERM", "KILL"] {
        testbed.restart("rabbitmq", signal);
        let back = Utc::now();
        for name in ["x", "full"] {
            buckets
                .until(name, "refills again", |status| {
                    last_tick(status) > Some(back)
                })
                .await;
        }
        vhost.depth_becomes("token_bucket_full", 50).await;
    }
    assert_eq!(operator.ended(), None, "it needs no restart");
}
