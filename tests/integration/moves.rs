//! A bucket whose connection names another broker moves there with its tokens: they are never at both, and nothing is
//! refilled or begun a second time.

use std::time::Duration;

use lapin::options::{BasicGetOptions, BasicNackOptions};
use serde_json::{Value, json};
use token_bucket_operator::api::TokenBucketStatus;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Buckets, Namespace, Network, Operator, Proxy, RARELY, Testbed, Vhost, event, eventually,
    reason, testbed,
};

const QUEUE: &str = "token_bucket_x";
const LEDGER: &str = "token_bucket_x.ledger";
/// A broker that does not answer has a minute.
const GIVEN_UP: Duration = Duration::from_secs(100);

fn at(secret: &str) -> Value {
    json!({"connection": {"secretRef": {"name": secret}}})
}

fn spec(policy: &str) -> Value {
    json!({"schedule": RARELY, "amount": 5, "maximum": 42, "initialTokens": 42, "deletionPolicy": policy,
           "connection": {"secretRef": {"name": "a"}}})
}

/// Two virtual hosts, which are two places, and the Secrets `a` and `b` that name them.
async fn two_brokers() -> (
    &'static Testbed,
    Namespace<'static>,
    Vhost<'static>,
    Vhost<'static>,
) {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let (a, b) = (testbed.vhost().await, testbed.vhost().await);
    namespace.create_secret("a", &a.amqp_url()).await;
    namespace.create_secret("b", &b.amqp_url()).await;
    (testbed, namespace, a, b)
}

/// Takes tokens wherever they are, one now and then, until it is told to stop; answers how many it got.
async fn take_tokens(vhosts: [&Vhost<'_>; 2], stop: CancellationToken) -> u64 {
    let mut taken = 0;
    while !stop.is_cancelled() {
        for vhost in vhosts {
            // Where there is no queue that is an error, which closes the channel.
            let channel = vhost.channel().await;
            let options = BasicGetOptions { no_ack: true };
            let got = channel.basic_get(QUEUE.into(), options).await;
            taken += u64::from(matches!(got, Ok(Some(_))));
            let _ = channel.close(200, "done".into()).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    taken
}

#[tokio::test]
async fn the_tokens_move_with_their_bucket_while_workers_take_them() {
    let (testbed, namespace, a, b) = two_brokers().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("x", spec("Delete")).await;
    a.depth_becomes(QUEUE, 42).await;
    buckets.ready("x").await;

    let stop = CancellationToken::new();
    let moves = async {
        for (secret, from, to) in [("b", &a, &b), ("a", &b, &a), ("b", &a, &b)] {
            buckets.edit("x", at(secret)).await;
            let status = buckets.ready("x").await;
            assert_eq!(status.tokens_issued, Some(42));
            assert_eq!(from.queues().await, Vec::<String>::new());
            assert!(to.queues().await.contains(&LEDGER.to_owned()));
        }
        stop.cancel();
    };
    let (taken, ()) = tokio::join!(take_tokens([&a, &b], stop.clone()), moves);
    // What is left, and not one more.
    b.depth_becomes(QUEUE, 42 - taken).await;
    let moved = event(testbed, &namespace, "x", "BucketMoved").await;
    let note = moved.note.unwrap_or_default();
    assert!(note.contains("its queues there are deleted"), "{note}");

    // Its ledger has come along: a refill that was carried out is no news here, and new ones are.
    buckets.request_refill("x", "one").await;
    let level = (42 - taken + 5).min(42);
    b.depth_becomes(QUEUE, level).await;
    buckets.edit("x", at("a")).await;
    buckets.ready("x").await;
    a.depth_becomes(QUEUE, level).await;
    buckets.delete("x").await;
    assert_eq!(a.queues().await.len() + b.queues().await.len(), 0);
}

#[tokio::test]
async fn queues_that_stay_are_empty_and_are_gone_on_with_when_the_bucket_comes_back() {
    let (testbed, namespace, a, b) = two_brokers().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("x", spec("Retain")).await;
    buckets.ready("x").await;
    a.depth_becomes(QUEUE, 42).await;
    assert_eq!(a.take(QUEUE, 2).await, 2);

    for (secret, from, to) in [("b", &a, &b), ("a", &b, &a)] {
        buckets.edit("x", at(secret)).await;
        to.depth_becomes(QUEUE, 40).await;
        assert_eq!(from.depth(QUEUE).await, Some(0));
        assert_eq!(from.depth(LEDGER).await, Some(1));
    }
}

#[tokio::test]
async fn another_name_of_the_broker_is_no_move() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let a = testbed.vhost().await;
    let (_proxy, by_another_name) = Proxy::in_front_of(&a.amqp_url()).await;
    namespace.create_secret("a", &a.amqp_url()).await;
    namespace.create_secret("b", &by_another_name).await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("x", spec("Delete")).await;
    buckets.ready("x").await;
    a.depth_becomes(QUEUE, 42).await;
    let holder = a.channel().await;
    let got = holder
        .basic_get(QUEUE.into(), BasicGetOptions { no_ack: false })
        .await;
    let held = got.expect("an answer").expect("a token");

    buckets.edit("x", at("b")).await;
    buckets.ready("x").await;
    // A queue that was deleted would not take it back.
    let requeue = BasicNackOptions {
        requeue: true,
        ..Default::default()
    };
    held.nack(requeue).await.expect("it goes back");
    a.depth_becomes(QUEUE, 42).await;
}

#[tokio::test]
async fn a_broker_that_is_gone_keeps_no_bucket_and_what_stays_there_is_told() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let (a, b) = (testbed.vhost().await, testbed.vhost().await);
    let (proxy, by_proxy) = Proxy::in_front_of(&a.amqp_url()).await;
    namespace.create_secret("a", &by_proxy).await;
    namespace.create_secret("b", &b.amqp_url()).await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("x", spec("Delete")).await;
    buckets.ready("x").await;
    a.depth_becomes(QUEUE, 42).await;
    proxy.set(Network::Frozen);

    buckets.edit("x", at("b")).await;
    let moving = |status: &TokenBucketStatus| reason(status, "Ready") == "Moving";
    buckets.until("x", "the move", moving).await;
    eventually("the end of the wait", GIVEN_UP, async || {
        let status = buckets.status("x").await;
        if moving(&status) {
            Err("moving".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    let left = event(testbed, &namespace, "x", "QueuesLeftBehind").await;
    let note = left.note.unwrap_or_default();
    assert!(note.contains(QUEUE) && note.contains(LEDGER), "{note}");
    // Neither its initial tokens nor ticks of the past: they may have been added there.
    buckets.ready("x").await;
    assert_eq!(b.depth(QUEUE).await, Some(0));
    buckets.request_refill("x", "one").await;
    b.depth_becomes(QUEUE, 5).await;
    assert_eq!(a.depth(QUEUE).await, Some(42));
}

#[tokio::test]
async fn tokens_left_by_a_change_that_no_operator_has_seen_are_fetched_by_going_back_and_forth() {
    let (testbed, namespace, a, b) = two_brokers().await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let mut operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("x", spec("Delete")).await;
    buckets.ready("x").await;
    a.depth_becomes(QUEUE, 42).await;
    operator.terminate().await;
    buckets.edit("x", at("b")).await;

    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.ready("x").await;
    // Nothing is lost or minted; it is just not there.
    assert_eq!(b.depth(QUEUE).await, Some(0));
    assert_eq!(a.depth(QUEUE).await, Some(42));
    buckets.edit("x", at("a")).await;
    buckets.ready("x").await;
    assert_eq!(a.depth(QUEUE).await, Some(42));
    buckets.edit("x", at("b")).await;
    buckets.ready("x").await;
    b.depth_becomes(QUEUE, 42).await;
    assert_eq!(a.queues().await, Vec::<String>::new());
}
