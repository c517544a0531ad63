//! Under load while things break: an accountant counts what was issued, what callers got, and what is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use token_bucket_client::{Bucket, Client, Error};
use tokio::task::JoinSet;

use super::{QUEUE, add, bucket, declare};
use crate::support::{Operator, Proxy, RARELY, SOON, eventually, stage};

/// Callers that take without pause, in each way there is, until they are told to stop.
struct Callers {
    taken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Callers {
    /// Eight of them.
    async fn start(client: &Client) -> Self {
        let bucket = client.bucket("x").unwrap();
        let lease = bucket.with_prefetch(20);
        let mut callers = Self {
            taken: Arc::default(),
            stop: Arc::default(),
            callers: JoinSet::new(),
        };
        for number in 0..8 {
            let bucket = if number % 4 == 3 { &lease } else { &bucket };
            callers.add(bucket.clone(), number % 4);
        }
        callers
    }

    fn add(&mut self, bucket: Bucket, way: u32) {
        let (taken, stop) = (self.taken.clone(), self.stop.clone());
        self.callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let patience = Duration::from_millis(500);
                let token = match way {
                    0 => bucket.try_acquire().await.unwrap(),
                    1 => bucket.try_acquire_many(3).await.unwrap(),
                    _ => match bucket.acquire_timeout(patience).await {
                        Ok(token) => Some(token),
                        Err(Error::Timeout { .. }) => None,
                        Err(error) => panic!("{error}"),
                    },
                };
                match token {
                    Some(token) => {
                        taken.fetch_add(token.count().into(), Ordering::Relaxed);
                    }
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Waits until so many were taken after `before`.
    async fn take(&self, before: u64, more: u64) {
        eventually("the callers to go on", SOON, async || {
            let taken = self.taken() - before;
            if taken >= more {
                Ok(())
            } else {
                Err(format!("{taken} of {more}"))
            }
        })
        .await;
    }

    /// What all have taken. None of them has failed.
    async fn stop(mut self, client: &Client) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("no caller fails");
        }
        client.close().await;
        self.taken.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_raised_maximum_loses_no_token_and_fails_no_caller() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 400, "maximum": 1_000, "initialTokens": 1_000});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let client = super::client(&vhost).await;
    let callers = Callers::start(&client).await;
    for (round, maximum) in [1_500, 2_000, 3_000, 5_000].into_iter().enumerate() {
        let before = callers.taken();
        buckets.request_refill("x", &format!("round {round}")).await;
        callers.take(before, 50).await;
        buckets.edit("x", json!({"maximum": maximum})).await;
        buckets
            .until("x", "the new limit", |status| {
                status.maximum == Some(maximum)
            })
            .await;
    }
    let taken = callers.stop(&client).await;
    let issued = buckets
        .until("x", "the last refill", |status| {
            status.last_handled_refill_request.as_deref() == Some("round 3")
        })
        .await
        .tokens_issued
        .expect("issued");
    vhost.depth_becomes(QUEUE, issued - taken).await;
}

#[tokio::test]
async fn connections_that_break_invent_no_token_and_fail_no_caller() {
    let vhost = bucket(0).await;
    let (proxy, url) = Proxy::in_front_of(&vhost.amqp_url()).await;
    let client = Client::connect(&url).await.unwrap();
    let callers = Callers::start(&client).await;
    let (mut issued, mut cuts) = (0, 0);
    for _ in 0..12 {
        let before = callers.taken();
        let adding = add(&vhost, QUEUE, 100);
        // In the middle of it.
        tokio::join!(adding, async {
            callers.take(before, 20).await;
            proxy.cut();
        });
        issued += 100;
        cuts += 1;
    }
    let taken = callers.stop(&client).await;
    let left = eventually("what is held to come back", SOON, async || {
        let first = vhost.depth(QUEUE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let again = vhost.depth(QUEUE).await.unwrap();
        if first == again {
            Ok(first)
        } else {
            Err(format!("{first}, {again}"))
        }
    })
    .await;
    assert!(taken + left <= issued, "{taken} + {left} of {issued}");
    // Of what was under way when a connection broke: one for each who takes one, three for who takes three, and what all
    // who wait for a lease take together.
    let most = cuts * (2 + 2 * 3 + 2 + 2);
    assert!(
        issued - taken - left <= most,
        "{taken} + {left} of {issued}, {cuts} cuts"
    );
    println!("lost {} of {issued} in {cuts} cuts", issued - taken - left);
}

#[tokio::test]
async fn a_queue_that_is_replaced_without_pause_fails_no_caller() {
    let vhost = bucket(0).await;
    let client = super::client(&vhost).await;
    let callers = Callers::start(&client).await;
    let channel = vhost.channel().await;
    for _ in 0..40 {
        let delete = channel.queue_delete(QUEUE.into(), Default::default());
        delete.await.unwrap();
        declare(&vhost, QUEUE, 10_000, false).await;
        add(&vhost, QUEUE, 5).await;
    }
    callers.stop(&client).await;
}
