//! The Rust client takes what is there, once, and loses nothing: counted at real queues.

mod breaks;
mod lease;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use token_bucket_client::{Client, Error};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{SOON, Vhost, eventually, testbed};

const QUEUE: &str = "token_bucket_x";

/// A virtual host with the bucket `x`, as the operator declares it.
async fn bucket(tokens: usize) -> Vhost<'static> {
    let vhost = testbed().await.vhost().await;
    declare(&vhost, QUEUE, 10_000, false).await;
    add(&vhost, QUEUE, tokens).await;
    vhost
}

async fn declare(vhost: &Vhost<'_>, queue: &str, maximum: i64, is_quorum: bool) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(maximum));
    if is_quorum {
        let quorum = AMQPValue::LongString("quorum".into());
        arguments.insert("x-queue-type".into(), quorum);
    }
    vhost.declare(queue, arguments).await;
}

async fn add(vhost: &Vhost<'_>, queue: &str, tokens: usize) {
    for _ in 0..tokens {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        vhost.publish(queue, b"{}", persistent).await;
    }
}

async fn client(vhost: &Vhost<'_>) -> Client {
    Client::connect(&vhost.amqp_url()).await.expect("connected")
}

#[tokio::test]
async fn as_many_takes_succeed_as_there_are_tokens() {
    let vhost = bucket(3).await;
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    assert_eq!(bucket.available().await, Ok(3));
    let mut takes = JoinSet::new();
    for _ in 0..20 {
        let bucket = bucket.clone();
        takes.spawn(async move { bucket.try_acquire().await.unwrap().is_some() });
    }
    let taken = takes.join_all().await;
    assert_eq!(taken.into_iter().filter(|taken| *taken).count(), 3);
    assert_eq!(bucket.available().await, Ok(0));
}

#[tokio::test]
async fn who_waits_is_served_in_the_order_of_waiting() {
    let vhost = bucket(0).await;
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..5 {
        let (bucket, order) = (bucket.clone(), order.clone());
        let mut wait = Box::pin(async move {
            bucket.acquire().await.map(drop).unwrap();
            order.send(number).unwrap();
        });
        // In line before the next one comes.
        let in_line = timeout(Duration::from_millis(300), &mut wait).await;
        assert!(in_line.is_err(), "there is no token");
        tokio::spawn(wait);
    }
    for number in 0..5 {
        add(&vhost, QUEUE, 1).await;
        assert_eq!(served.recv().await, Some(number));
    }
    // Who has what it waited for leaves nothing behind at the broker.
    vhost.consumers_become(QUEUE, 0).await;
    assert_eq!(vhost.depth(QUEUE).await, Some(0));
}

#[tokio::test]
async fn waiting_clients_share_what_comes() {
    let vhost = bucket(0).await;
    let mut waits = JoinSet::new();
    for _ in 0..4 {
        let bucket = client(&vhost).await.bucket("x").unwrap();
        for _ in 0..25 {
            let bucket = bucket.clone();
            waits.spawn(async move { bucket.acquire().await.map(drop) });
        }
    }
    vhost.consumers_become(QUEUE, 4).await;
    add(&vhost, QUEUE, 100).await;
    while let Some(waited) = waits.join_next().await {
        waited.unwrap().unwrap();
    }
    vhost.depth_becomes(QUEUE, 0).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_no_token_with_it() {
    let vhost = bucket(0).await;
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    let kept = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for number in 0..150_u64 {
        let (bucket, kept) = (bucket.clone(), kept.clone());
        callers.spawn(async move {
            let patience = Duration::from_millis(number * 7 % 400);
            let token = match number % 3 {
                0 => timeout(patience, bucket.acquire())
                    .await
                    .ok()
                    .map(Result::unwrap),
                1 => bucket.acquire_timeout(patience).await.ok(),
                _ => {
                    let mut taken = None;
                    while taken.is_none() {
                        let patience = match number % 2 {
                            0 => Duration::from_micros(number * 13 % 900),
                            _ => Duration::from_millis(20),
                        };
                        match timeout(patience, bucket.try_acquire()).await {
                            Ok(token) => taken = token.unwrap(),
                            Err(_) if number % 2 == 0 => break,
                            Err(_) => {}
                        }
                    }
                    taken
                }
            };
            if token.is_some() {
                kept.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    let issued = 120;
    add(&vhost, QUEUE, issued).await;
    // Those who will not be served either way end as well.
    let rest = tokio::spawn(async move { callers.join_all().await });
    eventually("the callers to end", SOON, async || {
        if rest.is_finished() {
            return Ok(());
        }
        match vhost.depth(QUEUE).await {
            Some(0) => {
                let taken = kept.load(std::sync::atomic::Ordering::Relaxed);
                Err(format!("{taken} taken and none left"))
            }
            left => Err(format!("{left:?} left")),
        }
    })
    .await;
    client.close().await;
    let kept = kept.load(std::sync::atomic::Ordering::Relaxed);
    vhost.depth_becomes(QUEUE, issued as u64 - kept).await;
}

#[tokio::test]
async fn several_tokens_are_taken_together_or_not_at_all() {
    let vhost = bucket(5).await;
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    assert!(bucket.try_acquire_many(6).await.unwrap().is_none());
    assert_eq!(vhost.depth(QUEUE).await, Some(5));
    let token = bucket
        .try_acquire_many(4)
        .await
        .unwrap()
        .expect("four of five");
    assert_eq!(token.count(), 4);
    assert!(bucket.try_acquire_many(2).await.unwrap().is_none());
    assert_eq!(vhost.depth(QUEUE).await, Some(1));
    let wait = {
        let bucket = bucket.clone();
        tokio::spawn(async move { bucket.acquire_many(3).await.map(|token| token.count()) })
    };
    token.refund().await.unwrap();
    assert_eq!(wait.await.unwrap(), Ok(3));
    vhost.depth_becomes(QUEUE, 2).await;
    for wrong in [0, 10_001] {
        let refused = bucket.try_acquire_many(wrong).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("{wrong} tokens at one time: ask for 1 to 10000")
        );
    }
}

#[tokio::test]
async fn several_buckets_are_taken_from_together_or_not_at_all() {
    let vhost = bucket(8).await;
    declare(&vhost, "token_bucket_day", 100, false).await;
    add(&vhost, "token_bucket_day", 3).await;
    let client = client(&vhost).await;
    let both = [("x", 2), ("day", 1)];
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let client = client.clone();
        callers.spawn(async move { client.try_acquire_all(both).await.unwrap().is_some() });
    }
    let taken = callers
        .join_all()
        .await
        .into_iter()
        .filter(|it| *it)
        .count();
    assert!((1..=3).contains(&taken), "{taken}");
    let left = |tokens: usize| tokens as u64;
    vhost.depth_becomes(QUEUE, left(8 - 2 * taken)).await;
    vhost
        .depth_becomes("token_bucket_day", left(3 - taken))
        .await;
    // One who waits for both holds nothing of the one that is there.
    let wait = {
        let client = client.clone();
        tokio::spawn(async move { client.acquire_all([("day", 4), ("x", 1)]).await })
    };
    add(&vhost, "token_bucket_day", 1 + taken).await;
    let token = wait.await.unwrap().unwrap();
    let mut parts: Vec<_> = token.buckets().collect();
    parts.sort_unstable();
    assert_eq!(parts, [("day", 4), ("x", 1)]);
    token.refund().await.unwrap();
    vhost.depth_becomes(QUEUE, left(8 - 2 * taken)).await;
    vhost.depth_becomes("token_bucket_day", 4).await;
}

#[tokio::test]
async fn a_token_that_is_given_back_is_there_again() {
    let vhost = bucket(1).await;
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    let token = bucket.try_acquire().await.unwrap().expect("a token");
    assert_eq!(vhost.depth(QUEUE).await, Some(0));
    token.refund().await.unwrap();
    assert_eq!(vhost.depth(QUEUE).await, Some(1));
    let token = bucket.acquire().await.unwrap();
    let channel = vhost.channel().await;
    channel
        .queue_delete(QUEUE.into(), Default::default())
        .await
        .unwrap();
    let error = token.refund().await.unwrap_err();
    assert_eq!(
        error,
        Error::NoQueue {
            bucket: "x".into(),
            queue: QUEUE.into()
        }
    );
}

#[tokio::test]
async fn nothing_is_dropped_from_a_quorum_queue_however_often_it_is_given_back() {
    let vhost = testbed().await.vhost().await;
    declare(&vhost, QUEUE, 100, true).await;
    declare(&vhost, "token_bucket_y", 100, true).await;
    add(&vhost, QUEUE, 40).await;
    add(&vhost, "token_bucket_y", 1).await;
    let client = client(&vhost).await;
    for _ in 0..40 {
        // All find enough of both, and one gets it.
        let callers = (0..10).map(|_| client.try_acquire_all([("x", 4), ("y", 1)]));
        let taken = join_all(callers).await.into_iter().map(Result::unwrap);
        for token in taken.flatten() {
            token.refund().await.unwrap();
        }
    }
    client.close().await;
    vhost.depth_becomes(QUEUE, 40).await;
    vhost.depth_becomes("token_bucket_y", 1).await;
}

#[tokio::test]
async fn a_worker_needs_no_right_but_to_read_and_is_told_of_others() {
    let vhost = bucket(3).await;
    vhost.permit(["^$", "^$", "^token_bucket_"]).await;
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    let token = bucket.try_acquire().await.unwrap().expect("a token");
    drop(bucket.acquire().await.unwrap());
    assert!(bucket.try_acquire_many(2).await.unwrap().is_none());
    assert_eq!(bucket.available().await, Ok(1));
    let error = token.refund().await.unwrap_err().to_string();
    assert!(
        error.contains("to give tokens back takes write permission"),
        "{error}"
    );
    vhost.permit(["^$", "^$", "^$"]).await;
    let other = self::client(&vhost).await;
    let bucket = other.bucket("x").unwrap();
    for error in [
        bucket.try_acquire().await.unwrap_err(),
        bucket.acquire().await.unwrap_err(),
        bucket.with_prefetch(5).acquire().await.unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("bucket x (queue token_bucket_x)"), "{error}");
        assert!(
            error.contains("takes read permission on the queue"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn where_nobody_may_consume_it_is_asked_again_and_again() {
    let vhost = bucket(0).await;
    let channel = vhost.channel().await;
    channel
        .basic_qos(1, BasicQosOptions::default())
        .await
        .unwrap();
    let exclusive = BasicConsumeOptions {
        exclusive: true,
        ..Default::default()
    };
    let consume = channel.basic_consume(QUEUE.into(), "".into(), exclusive, FieldTable::default());
    let _consumer = consume.await.unwrap();
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    let waits: Vec<_> = (0..3)
        .map(|_| {
            let bucket = bucket.clone();
            tokio::spawn(async move { bucket.acquire().await.map(drop) })
        })
        .collect();
    // The first one goes to who consumes.
    add(&vhost, QUEUE, 4).await;
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_missing_queue_is_waited_for_and_then_named() {
    let vhost = testbed().await.vhost().await;
    let client = client(&vhost).await;
    let bucket = client.bucket("x").unwrap();
    for error in [
        bucket.try_acquire().await.unwrap_err(),
        bucket.acquire().await.unwrap_err(),
        bucket.with_prefetch(5).acquire().await.unwrap_err(),
        bucket.try_acquire_many(3).await.unwrap_err(),
        bucket.available().await.unwrap_err(),
    ] {
        assert!(
            error
                .to_string()
                .starts_with("bucket x has no queue token_bucket_x: is there a TokenBucket"),
            "{error}"
        );
        assert!(error.is_temporary());
    }
    let wait = tokio::spawn(async move { bucket.acquire().await.map(drop) });
    declare(&vhost, QUEUE, 10, false).await;
    add(&vhost, QUEUE, 1).await;
    wait.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_the_broker_is_told_at_once() {
    let vhost = bucket(1).await;
    let good = vhost.amqp_url();
    let secret = "wr0ng-passw0rd";
    let (user, rest) = good.rsplit_once('@').unwrap();
    let (user, _) = user.rsplit_once(':').unwrap();
    let error = Client::connect(&format!("{user}:{secret}@{rest}"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::AuthenticationRefused { .. }),
        "{error}"
    );
    assert!(!error.to_string().contains(secret));
    let (server, _) = good.rsplit_once('/').unwrap();
    let error = Client::connect(&format!("{server}/none"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::VhostRefused { .. }), "{error}");
    let error = Client::connect("http://rabbitmq:15672").await.unwrap_err();
    assert!(error.to_string().contains("amqp://"), "{error}");
    let hurried = Client::builder().patience(Duration::from_millis(300));
    let error = hurried.connect("amqp://127.0.0.1:1/").await.unwrap_err();
    assert!(
        error.to_string().contains("amqp://guest@127.0.0.1:1/"),
        "{error}"
    );
}

#[tokio::test]
async fn a_new_password_in_a_mounted_secret_needs_no_restart() {
    let vhost = bucket(2).await;
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().join("uri");
    let error = Client::builder()
        .connect_with_secret(folder.path())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("has no key host or uri"),
        "{error}"
    );
    std::fs::write(&uri, vhost.amqp_url()).unwrap();
    let client = Client::builder()
        .connect_with_secret(folder.path())
        .await
        .unwrap();
    let bucket = client.bucket("x").unwrap();
    assert!(bucket.try_acquire().await.unwrap().is_some());
    std::fs::write(&uri, vhost.amqp_url_of_another_user().await).unwrap();
    vhost.close_all_connections().await;
    assert!(bucket.try_acquire().await.unwrap().is_some());
}
