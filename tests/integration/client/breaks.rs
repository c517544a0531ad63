//! Under load while things break: an accountant counts what was issued, what callers got, and what is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use token_bucket_client::{Bucket, Client, Error};
use tokio::task::JoinSet;

use super::{QUEUE, add, bucket, declare};
use crate::support::{Operator, Proxy, RARELY, SOON, Vhost, Worker, eventually, stage, testbed};

/// Of [`Callers`], when a connection breaks: one for each who takes one, three for who takes three, and what all who wait for a
/// lease take together.
const MOST_UNDER_WAY: u64 = 2 + 2 * 3 + 2 + 2;

/// Callers that take without pause, in each way there is, until they are told to stop.
struct Callers {
    taken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Callers {
    /// Eight of them.
    fn start(client: &Client) -> Self {
        let bucket = client.bucket("x").expect("a name");
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
                    0 => bucket.try_acquire().await.expect("an answer"),
                    1 => bucket.try_acquire_many(3).await.expect("an answer"),
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
async fn a_raised_maximum_invents_no_token_and_fails_no_caller() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 400, "maximum": 1_000, "initialTokens": 1_000});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let client = super::client(&vhost).await;
    let callers = Callers::start(&client);
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
    let lost = issued - accounted(&vhost, taken, issued).await;
    // A token that comes back in the moment in which the queue is deleted: the broker confirms it all the same.
    assert!(lost <= 4, "{lost} of {issued} lost in four replacements");
}

#[tokio::test]
async fn connections_that_break_invent_no_token_and_fail_no_caller() {
    let vhost = bucket(0).await;
    let (proxy, url) = Proxy::in_front_of(&vhost.amqp_url()).await;
    let client = Client::connect(&url).await.unwrap();
    let callers = Callers::start(&client);
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
    let lost = issued - accounted(&vhost, taken, issued).await;
    assert!(lost <= cuts * MOST_UNDER_WAY, "{lost} lost in {cuts} cuts");
}

#[tokio::test]
async fn a_broker_that_is_restarted_invents_no_token_and_fails_no_caller() {
    let testbed = testbed().await.with_own_broker();
    let vhost = testbed.vhost().await;
    declare(&vhost, QUEUE, 10_000, false).await;
    let client = super::client(&vhost).await;
    let callers = Callers::start(&client);
    let mut issued = 0;
    for _ in 0..2 {
        let before = callers.taken();
        add(&vhost, QUEUE, 100).await;
        issued += 100;
        callers.take(before, 20).await;
        testbed.restart("rabbitmq", "TERM");
        vhost.reconnect().await;
    }
    let before = callers.taken();
    add(&vhost, QUEUE, 100).await;
    issued += 100;
    callers.take(before, 20).await;
    let taken = callers.stop(&client).await;
    let lost = issued - accounted(&vhost, taken, issued).await;
    assert!(lost <= 2 * MOST_UNDER_WAY, "{lost} lost in two restarts");
}

#[tokio::test]
async fn workers_that_are_killed_make_no_call_more_than_there_are_tokens() {
    let vhost = bucket(0).await;
    let (mut issued, mut calls, mut kills) = (0, 0, 0);
    for _ in 0..5 {
        let mut workers: Vec<_> = (0..3).map(|_| Worker::rust(&vhost, "x", 10_000)).collect();
        let all = |workers: &[Worker]| workers.iter().map(Worker::calls).sum::<usize>();
        add(&vhost, QUEUE, 60).await;
        issued += 60;
        eventually("some calls", SOON, async || match all(&workers) {
            20.. => Ok(()),
            calls => Err(format!("{calls}")),
        })
        .await;
        for worker in &mut workers {
            worker.kill().await;
            kills += 1;
        }
        calls += all(&workers) as u64;
    }
    let lost = issued - accounted(&vhost, calls, issued).await;
    assert!(lost <= kills, "{lost} lost in {kills} kills");
}

/// How many of the tokens that were issued are accounted for when all that was held is back; none was there twice.
async fn accounted(vhost: &Vhost<'_>, taken: u64, issued: u64) -> u64 {
    let left = eventually("what is held to come back", SOON, async || {
        let first = vhost.depth(QUEUE).await.expect("a queue");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let again = vhost.depth(QUEUE).await.expect("a queue");
        if first == again {
            Ok(first)
        } else {
            Err(format!("{first}, {again}"))
        }
    })
    .await;
    assert!(taken + left <= issued, "{taken} + {left} of {issued}");
    taken + left
}

#[tokio::test]
async fn a_queue_that_is_replaced_without_pause_fails_no_caller() {
    let vhost = bucket(0).await;
    let client = super::client(&vhost).await;
    let callers = Callers::start(&client);
    let channel = vhost.channel().await;
    for _ in 0..40 {
        let delete = channel.queue_delete(QUEUE.into(), Default::default());
        delete.await.unwrap();
        declare(&vhost, QUEUE, 10_000, false).await;
        add(&vhost, QUEUE, 5).await;
    }
    callers.stop(&client).await;
}
