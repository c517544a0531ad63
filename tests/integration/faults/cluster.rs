use chrono::Utc;
use serde_json::json;
use token_bucket_operator::api::from_time;

use super::books;
use crate::support::{
    Buckets, Network, Operator, RARELY, SOON, Testbed, condition, eventually, stage, testbed,
};

#[tokio::test]
async fn a_leader_that_was_stopped_past_its_lease_doubles_nothing() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let elected = namespace.elected();
    let first = Operator::start(testbed, &namespace, &vhost, &elected).await;
    let (account, accountant) = books(&buckets, &vhost).await;
    let second = Operator::start(testbed, &namespace, &vhost, &elected).await;
    first.signal("STOP").await;
    second.becomes_leader().await;
    first.signal("CONT").await;
    // Both believe in their leadership for a moment; then there is one.
    eventually("the first to have noticed", SOON, async || {
        match first.leads().await {
            Ok(true) => Err("it leads".into()),
            Ok(false) | Err(_) => Ok(()),
        }
    })
    .await;
    accountant.stop().await;
    account.check(&buckets, &vhost).await;
}

#[tokio::test]
async fn refills_go_on_without_the_api_server_and_the_status_catches_up() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let api = testbed.proxy_of_api_server(&kubeconfig).await;
    // With election, for the lease cannot be renewed either.
    let arguments = [&namespace.elected()[..], &["--status-interval=200ms"]].concat();
    let url = vhost.amqp_url();
    let _operator = Operator::start_with(&kubeconfig, &namespace, Some(&url), &arguments);
    let (account, accountant) = books(&buckets, &vhost).await;
    api.set(Network::Frozen);
    let taken = account.taken();
    // Twenty seconds of refills, longer than the lease.
    eventually("refills without the API server", SOON, async || {
        match account.taken() - taken {
            60.. => Ok(()),
            few => Err(format!("{few} tokens")),
        }
    })
    .await;
    let back = Utc::now();
    api.set(Network::Good);
    buckets
        .until("x", "the status to catch up", |status| {
            status.observed_at.as_ref().map(from_time) > Some(back)
        })
        .await;
    accountant.stop().await;
    account.check(&buckets, &vhost).await;
}

#[tokio::test]
async fn what_changed_behind_an_expired_watch_is_seen() {
    let shared = testbed().await;
    let own = Testbed::of_own();
    let (namespace, vhost) = (own.namespace().await, shared.vhost().await);
    let buckets = Buckets::of(&own, &namespace).await;
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let api = own.proxy_of_api_server(&kubeconfig).await;
    let operator = Operator::start_with(&kubeconfig, &namespace, Some(&vhost.amqp_url()), &[]);
    let (account, accountant) = books(&buckets, &vhost).await;
    buckets
        .create(
            "gone",
            json!({"schedule": RARELY, "amount": 1, "maximum": 1}),
        )
        .await;
    buckets.ready("gone").await;

    // What it does not get to see is older than what the API server remembers. Another maximum would replace the queue
    // that the accountant takes from.
    api.set(Network::Frozen);
    buckets
        .edit("x", json!({"startingDeadlineSeconds": 3_600}))
        .await;
    buckets.edit("gone", json!({"suspend": true})).await;
    own.restart("kube-apiserver", "KILL");
    api.cut();
    api.set(Network::Good);
    let in_force = |status: &_| condition(status, "Ready") == "True";
    buckets
        .until("gone", "the suspension", |status| {
            status.next_refill_time.is_none() && in_force(status)
        })
        .await;
    eventually("the watch to have expired", SOON, async || {
        let logs = operator.logs();
        if logs.contains("too old resource version") {
            Ok(())
        } else {
            Err(logs)
        }
    })
    .await;
    accountant.stop().await;
    account.check(&buckets, &vhost).await;
}
