//! Quorum queues, on a broker whose transactions on them are atomic. `make test` runs these on RabbitMQ 4.

use serde_json::json;
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::Bucket;

use crate::engine::waits_and_takes_over;
use crate::refills::survives_kills;
use crate::support::{RARELY, Running, asked, bucket, removal, testbed};

fn quorum(name: &str, schedule: &str, amount: u64, maximum: u64) -> Bucket {
    Bucket {
        queue_type: QueueType::Quorum,
        ..bucket(name, schedule, amount, maximum)
    }
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn a_quorum_bucket_is_filled_resized_and_removed() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::of_type(&vhost.amqp_url(), QueueType::Quorum);
    let bucket = quorum("x", RARELY, 400, 1_000);
    running.engine.apply(bucket.clone(), 1);
    running.ready(1, 1).await;
    for (value, tokens) in [("one", 400), ("two", 800), ("three", 1_000)] {
        running.engine.apply(asked(&bucket, value), 1);
        vhost.depth_becomes("token_bucket_x", tokens).await;
    }
    for (name, arguments) in [
        (
            "token_bucket_x",
            json!({"x-max-length": 1_000, "x-queue-type": "quorum"}),
        ),
        (
            "token_bucket_x.ledger",
            json!({"x-max-length": 1, "x-queue-type": "quorum"}),
        ),
        (
            "refill",
            json!({"x-queue-type": "quorum", "x-single-active-consumer": true}),
        ),
        ("refill.rejected", json!({"x-max-length": 10_000})),
    ] {
        let queue = vhost.queue(name).await.expect("the queue");
        assert_eq!(queue["arguments"], arguments, "{name}");
    }

    let larger = Bucket {
        maximum: 3_000,
        ..asked(&bucket, "three")
    };
    running.engine.apply(larger.clone(), 2);
    running.ready(1, 2).await;
    vhost.depth_becomes("token_bucket_x", 1_000).await;
    assert_eq!(vhost.take("token_bucket_x", 500).await, 500);
    running.engine.apply(asked(&larger, "now"), 3);
    vhost.depth_becomes("token_bucket_x", 900).await;

    running
        .engine
        .remove(removal(&bucket))
        .await
        .expect("it is removed");
    assert_eq!(vhost.queues().await, Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn kills_add_no_tick_of_a_quorum_bucket_twice_and_miss_none() {
    // Large enough to be killed in the middle of a transaction now and then.
    survives_kills("quorum", 3_000).await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn a_second_engine_waits_for_a_quorum_refill_queue_and_takes_over() {
    let vhost = testbed().await.vhost().await;
    waits_and_takes_over(&vhost, QueueType::Quorum).await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn a_ledger_outlives_the_delivery_limit_of_its_queue() {
    let vhost = testbed().await.vhost().await;
    let bucket = asked(&quorum("x", RARELY, 5, 1_000), "once");
    // RabbitMQ 4 drops a message at its 21st delivery, and each process reads the ledger once.
    for _ in 0..25 {
        let mut running = Running::of_type(&vhost.amqp_url(), QueueType::Quorum);
        running.engine.apply(bucket.clone(), 1);
        running.ready(1, 1).await;
        vhost.depth_becomes("token_bucket_x", 5).await;
        running.stop().await;
    }
    assert_eq!(vhost.depth("token_bucket_x").await, Some(5));
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn where_quorum_is_the_default_a_classic_bucket_is_classic() {
    let vhost = testbed().await.quorum_vhost().await;
    waits_and_takes_over(&vhost, QueueType::Classic).await;
    for queue in vhost.queues().await {
        let it = vhost.queue(&queue).await.expect("the queue");
        assert_eq!(it["type"], json!("classic"), "{queue}");
    }
}
