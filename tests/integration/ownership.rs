//! Whose a queue is decides the broker: its ledger and its name for itself, not how somebody spells a host.

use serde_json::{Value, json};
use std::time::Duration;

use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Buckets, Operator, Proxy, RARELY, condition, reason, testbed};

const QUEUE: &str = "token_bucket_same";

fn spec(secret: &str) -> Value {
    // Each connection has a refill queue of its own.
    json!({"name": "same", "schedule": RARELY, "amount": 3, "maximum": 50, "initialTokens": 2,
           "refillQueue": format!("refill.{secret}"), "connection": {"secretRef": {"name": secret}}})
}

fn conflict(status: &TokenBucketStatus) -> bool {
    reason(status, "Stalled") == "NameConflict"
}

/// Creation times have whole seconds; beyond that the UID decides, which nobody can foresee.
async fn next_second() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn a_resource_that_spells_the_broker_otherwise_takes_nothing_and_deletes_nothing() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let vhost = testbed.vhost().await;
    let (_proxy, by_another_name) = Proxy::in_front_of(&vhost.amqp_url()).await;
    namespace.create_secret("one", &vhost.amqp_url()).await;
    namespace.create_secret("other", &by_another_name).await;
    let mut operator = Operator::start_at(testbed, &namespace, None, &[]).await;

    buckets.create("owner", spec("one")).await;
    buckets.ready("owner").await;
    next_second().await;
    buckets.create("intruder", spec("other")).await;
    buckets.until("intruder", "the conflict", conflict).await;
    buckets.delete("intruder").await;
    assert_eq!(vhost.depth(QUEUE).await, Some(2));
    buckets.request_refill("owner", "one").await;
    vhost.depth_becomes(QUEUE, 5).await;

    // Not by being there first after a restart either, and when the owner goes, it is its turn.
    buckets.create("intruder", spec("other")).await;
    buckets
        .until("intruder", "the conflict again", conflict)
        .await;
    operator.kill().await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.request_refill("owner", "two").await;
    vhost.depth_becomes(QUEUE, 8).await;
    assert!(conflict(&buckets.status("intruder").await));
    buckets.delete("owner").await;
    buckets.ready("intruder").await;
    vhost.depth_becomes(QUEUE, 2).await;
}

#[tokio::test]
async fn an_older_resource_with_a_wrong_password_takes_nothing() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let vhost = testbed.vhost().await;
    let uri = vhost.amqp_url();
    let (userinfo, rest) = uri.split_once('@').expect("a user");
    namespace.create_secret("right", &uri).await;
    namespace
        .create_secret("wrong", &format!("{userinfo}x@{rest}"))
        .await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("older", spec("wrong")).await;
    let away = |status: &TokenBucketStatus| condition(status, "BrokerConnected") == "False";
    buckets
        .until("older", "its broker to refuse it", away)
        .await;
    next_second().await;
    buckets.create("younger", spec("right")).await;
    buckets.ready("younger").await;

    // Nor does it when its password is right.
    namespace.change_secret("wrong", &uri).await;
    buckets.until("older", "the conflict", conflict).await;
    buckets.request_refill("younger", "one").await;
    vhost.depth_becomes(QUEUE, 5).await;
    buckets.delete("older").await;
    assert_eq!(vhost.depth(QUEUE).await, Some(5));
    buckets.ready("younger").await;
}

#[tokio::test]
async fn an_older_resource_that_moves_in_takes_nothing_from_the_one_that_is_there() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let (here, there) = (testbed.vhost().await, testbed.vhost().await);
    namespace.create_secret("here", &here.amqp_url()).await;
    namespace.create_secret("there", &there.amqp_url()).await;
    let mut operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("older", spec("there")).await;
    buckets.ready("older").await;
    next_second().await;
    buckets.create("younger", spec("here")).await;
    buckets.ready("younger").await;
    buckets
        .edit(
            "older",
            json!({"connection": {"secretRef": {"name": "here"}}}),
        )
        .await;
    buckets.until("older", "the conflict", conflict).await;
    buckets.request_refill("younger", "one").await;
    here.depth_becomes(QUEUE, 5).await;

    // It does not depend on who was reconciled first.
    operator.kill().await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.request_refill("younger", "two").await;
    here.depth_becomes(QUEUE, 8).await;
    buckets.until("older", "the conflict still", conflict).await;

    // Back where it was, it has its tokens; a mistake of the one that is there gives nothing away.
    buckets
        .edit(
            "older",
            json!({"connection": {"secretRef": {"name": "there"}}}),
        )
        .await;
    buckets.ready("older").await;
    buckets
        .edit("younger", json!({"timeZone": "Europe/Atlantis"}))
        .await;
    let stalled = |status: &TokenBucketStatus| reason(status, "Stalled") == "InvalidTimeZone";
    buckets.until("younger", "the mistake", stalled).await;
    buckets
        .edit(
            "older",
            json!({"connection": {"secretRef": {"name": "here"}}}),
        )
        .await;
    buckets
        .until("older", "the conflict once more", conflict)
        .await;
    buckets.delete("older").await;
    buckets
        .edit("younger", json!({"timeZone": "Etc/UTC"}))
        .await;
    buckets.ready("younger").await;
    assert_eq!(here.depth(QUEUE).await, Some(8));
}
