//! Of several replicas one works, and hands over.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::{Operator, SOON, eventually, stage};

#[tokio::test]
async fn a_second_replica_takes_over_from_the_leader() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let elected = namespace.elected();
    let mut first = Operator::start(testbed, &namespace, &vhost, &elected).await;
    let spec = json!({"schedule": "* * * * * *", "amount": 1, "maximum": 1_000_000, "missedRefills": "All"});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let _second = Operator::start(testbed, &namespace, &vhost, &elected).await;
    // A clean end hands the lease over at once.
    assert!(first.terminate().await.success());
    let before = buckets.status("x").await.tokens_issued;
    buckets
        .until("x", "refills by the other replica", |status| {
            status.tokens_issued > before
        })
        .await;
}

#[tokio::test]
async fn a_leader_whose_lease_is_taken_stops_and_stands_by() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let elected = namespace.elected();
    let operator = Operator::start(testbed, &namespace, &vhost, &elected).await;
    let spec = json!({"schedule": "* * * * * *", "amount": 1, "maximum": 1_000_000});
    buckets.create("x", spec).await;
    buckets.ready("x").await;

    let leases: Api<Lease> = Api::namespaced(testbed.client().await, namespace.name());
    let thief = json!({"spec": {"holderIdentity": "thief"}});
    leases
        .patch(
            "token-bucket-operator",
            &PatchParams::default(),
            &Patch::Merge(thief),
        )
        .await
        .expect("the lease is there");
    eventually("the leader to stop", SOON, async || {
        match operator.leads().await? {
            true => Err("it leads".into()),
            false => Ok(()),
        }
    })
    .await;
    // Its consumer has let go of the queue.
    let channel = vhost.channel().await;
    let exclusive = lapin::options::BasicConsumeOptions {
        exclusive: true,
        ..Default::default()
    };
    let consumer = channel.basic_consume(
        "token_buckets.refill".into(),
        "".into(),
        exclusive,
        Default::default(),
    );
    consumer.await.expect("nobody else consumes");
    channel
        .close(200, "done".into())
        .await
        .expect("it can be closed");
    // A standby is ready too, once it has read who leads.
    eventually("the standby to be ready", SOON, async || {
        operator.http("/readyz").await.map(drop)
    })
    .await;

    // The thief never renews what it took.
    operator.becomes_leader().await;
    let before = buckets.status("x").await.tokens_issued;
    buckets
        .until("x", "refills again", |status| status.tokens_issued > before)
        .await;
}
