//! The workers of examples/workers: no token is lost, and none is taken for nothing.

use lapin::BasicProperties;
use lapin::types::FieldTable;
use serde_json::json;

use super::{all_end_well, begin, workers};
use crate::support::{RARELY, Vhost, Worker, calls_become, condition, stage, testbed};

const BUCKET: &str = "token_bucket_x";

#[tokio::test]
async fn workers_make_as_many_calls_as_there_are_tokens_and_go_on_after_a_refill() {
    let stage = stage().await;
    let (_, _, vhost, buckets) = &stage;
    let spec = json!({"schedule": RARELY, "amount": 10, "maximum": 10, "initialTokens": 10});
    buckets.create("x", spec).await;
    let _operator = begin(&stage, &["x"]).await;
    vhost.depth_becomes(BUCKET, 10).await;

    let mut workers = workers(vhost, "x", 5);
    calls_become(&workers, 10).await;
    buckets.request_refill("x", "ten more").await;
    all_end_well(&mut workers).await;
    assert_eq!(workers.iter().map(Worker::calls).sum::<usize>(), 20);
    assert_eq!(vhost.depth(BUCKET).await, Some(0));
}

#[tokio::test]
async fn a_worker_that_loses_its_connection_loses_no_token() {
    let stage = stage().await;
    let (_, _, vhost, buckets) = &stage;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 1});
    for name in ["x", "y"] {
        buckets.create(name, spec.clone()).await;
    }
    let _operator = begin(&stage, &["x", "y"]).await;
    let mut workers = [Worker::go(vhost, &["x"], 2), Worker::node(vhost, "y", 2)];
    calls_become(&workers, 2).await;

    vhost.close_all_connections().await;
    for worker in &workers {
        worker.says("connecting again").await;
    }
    for name in ["x", "y"] {
        buckets.request_refill(name, "one more").await;
    }
    all_end_well(&mut workers).await;
    for queue in [BUCKET, "token_bucket_y"] {
        assert_eq!(vhost.depth(queue).await, Some(0));
    }
}

#[tokio::test]
async fn no_worker_fails_while_the_maximum_is_raised() {
    let stage = stage().await;
    let (_, _, vhost, buckets) = &stage;
    let spec = json!({"schedule": RARELY, "amount": 1000, "maximum": 3000, "initialTokens": 3000});
    buckets.create("x", spec).await;
    let _operator = begin(&stage, &["x"]).await;
    vhost.depth_becomes(BUCKET, 3000).await;

    let mut workers = workers(vhost, "x", 1000);
    for maximum in 3001..=3006 {
        buckets.edit("x", json!({ "maximum": maximum })).await;
        let raised = |status: &_| condition(status, "Ready") == "True";
        let status = buckets.until("x", "the larger queue", raised).await;
        assert_eq!(status.maximum, Some(maximum));
    }
    calls_become(&workers, 3000).await;
    buckets.request_refill("x", "the rest").await;
    all_end_well(&mut workers).await;
    assert_eq!(vhost.depth(BUCKET).await, Some(0));
}

#[tokio::test]
async fn a_worker_without_a_bucket_names_it_and_ends() {
    let vhost = testbed().await.vhost().await;
    for mut worker in [
        Worker::go(&vhost, &["nowhere"], 1),
        Worker::node(&vhost, "nowhere", 1),
    ] {
        assert!(!worker.end().await.success());
        let log = worker.log();
        assert!(log.contains("bucket nowhere: "), "{log}");
        assert!(log.contains("404"), "{log}");
        assert_eq!(worker.calls(), 0);
    }
}

/// Whether a worker that finds no queue takes a token from the one that is there after some milliseconds.
async fn finds_its_queue(vhost: &Vhost<'_>, worker: &mut Worker) -> bool {
    worker.says("no queue at the moment").await;
    vhost.declare(BUCKET, FieldTable::default()).await;
    vhost.publish(BUCKET, b"", BasicProperties::default()).await;
    worker.end().await.success()
}

#[tokio::test]
async fn a_queue_that_is_missing_for_a_moment_fails_no_worker() {
    let testbed = testbed().await;
    let worker_of = [
        |vhost: &Vhost<'_>| Worker::go(vhost, &["x"], 1),
        |vhost: &Vhost<'_>| Worker::node(vhost, "x", 1),
    ];
    for worker in worker_of {
        // It looks for two seconds, in which this process may get no turn.
        let mut tries = 0;
        loop {
            let vhost = testbed.vhost().await;
            let mut worker = worker(&vhost);
            if finds_its_queue(&vhost, &mut worker).await {
                break;
            }
            tries += 1;
            assert!(tries < 5, "{}", worker.log());
        }
    }
}
