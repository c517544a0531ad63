//! What somebody does to the queues of a bucket is told and put right.

use futures::future::{join, join_all};
use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Operator, RARELY, SOON, Vhost, condition, event, eventually, reason, stage};

const EVERY_SECOND: [&str; 1] = ["--status-interval=1s"];
const REPAIRS: &str = "tokenbucket_queue_repairs_total";

fn spec() -> serde_json::Value {
    json!({"schedule": RARELY, "amount": 1, "maximum": 5, "initialTokens": 5})
}

async fn is_ours_again(vhost: &Vhost<'_>, queue: &str) {
    eventually("the operator's queue", SOON, async || {
        let found = vhost.queue(queue).await.ok_or("none")?;
        let of = |name: &str| found[name].as_bool() == Some(true);
        let is_ours = found["arguments"] == json!({"x-max-length": 5})
            && of("durable")
            && !of("auto_delete")
            && !of("exclusive");
        is_ours.then_some(()).ok_or_else(|| found.to_string())
    })
    .await;
}

async fn repairs(operator: &Operator, number: f64) {
    eventually("the metric to count them", SOON, async || {
        match operator.metric(REPAIRS).await? {
            Some(repairs) if repairs == number => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_somebody_deletes_is_declared_again_and_told_of() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &EVERY_SECOND).await;
    buckets.create("x", spec()).await;
    buckets.ready("x").await;
    let channel = vhost.channel().await;
    let deleting = channel.queue_delete("token_bucket_x".into(), QueueDeleteOptions::default());
    deleting.await.expect("deleted");
    let told = event(testbed, &namespace, "x", "QueueMissing").await;
    assert_eq!(told.type_.as_deref(), Some("Warning"));
    is_ours_again(&vhost, "token_bucket_x").await;
    repairs(&operator, 1.0).await;
    buckets.request_refill("x", "now").await;
    vhost.depth_becomes("token_bucket_x", 1).await;
}

/// How somebody declares a queue of a bucket anew.
struct Anew {
    bucket: &'static str,
    options: QueueDeclareOptions,
    argument: Option<(&'static str, AMQPValue)>,
    says: &'static str,
}

fn others() -> [Anew; 6] {
    let durable = QueueDeclareOptions::durable();
    let with = |bucket, says, value| Anew {
        bucket,
        options: durable,
        argument: Some((says, value)),
        says,
    };
    let without = |bucket, says, options| Anew {
        bucket,
        options,
        argument: None,
        says,
    };
    let auto_delete = QueueDeclareOptions {
        auto_delete: true,
        ..durable
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    [
        with("mortal", "x-message-ttl", 3_600_000.into()),
        with("expiring", "x-expires", 3_600_000.into()),
        with("refusing", "x-overflow", text("reject-publish")),
        with("bounded", "x-max-length-bytes", 100.into()),
        without("forgetful", "auto_delete", auto_delete),
        without("volatile", "durable", QueueDeclareOptions::default()),
    ]
}

/// In place of the queue that is there.
async fn declare_anew(vhost: &Vhost<'_>, anew: &Anew) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), 5.into());
    if let Some((name, value)) = &anew.argument {
        arguments.insert((*name).into(), value.clone());
    }
    let queue = format!("token_bucket_{}", anew.bucket);
    let channel = vhost.channel().await;
    let (deleted, declared) = join(
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()),
        channel.queue_declare(queue.as_str().into(), anew.options, arguments),
    )
    .await;
    deleted.expect("deleted");
    declared.expect("declared");
}

#[tokio::test]
async fn an_empty_queue_with_other_arguments_is_told_of_and_declared_anew() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &EVERY_SECOND).await;
    let others = others();
    join_all(others.iter().map(async |anew| {
        buckets.create(anew.bucket, spec()).await;
        buckets.ready(anew.bucket).await;
        let queue = format!("token_bucket_{}", anew.bucket);
        vhost.depth_becomes(&queue, 5).await;
        declare_anew(&vhost, anew).await;
        let told = event(testbed, &namespace, anew.bucket, "QueueReplaced").await;
        let note = told.note.unwrap_or_default();
        assert!(note.contains(anew.says), "{}: {note}", anew.bucket);
        is_ours_again(&vhost, &queue).await;
        buckets.request_refill(anew.bucket, "now").await;
        vhost.depth_becomes(&queue, 1).await;
    }))
    .await;
    repairs(&operator, 6.0).await;
}

#[tokio::test]
async fn messages_in_a_queue_with_other_arguments_stay_until_somebody_takes_them() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &EVERY_SECOND).await;
    buckets.create("mortal", spec()).await;
    buckets.ready("mortal").await;
    let queue = "token_bucket_mortal";
    let [mortal, ..] = others();
    // The operator may be quicker to declare it again.
    eventually("messages in a queue of our own", SOON, async || {
        declare_anew(&vhost, &mortal).await;
        for _ in 0..2 {
            vhost.publish(queue, b"", BasicProperties::default()).await;
        }
        let status = buckets.status("mortal").await;
        match reason(&status, "Stalled") {
            "QueueArgumentsDiffer" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    let status = buckets.status("mortal").await;
    let ready = status.conditions.iter().find(|it| it.type_ == "Ready");
    let told = &ready.expect("a condition").message;
    for words in ["x-message-ttl", "its messages stay", queue] {
        assert!(told.contains(words), "{told}");
    }
    assert!(!told.contains("elete"), "{told}");
    assert_eq!(vhost.take(queue, 5).await, 2);
    event(testbed, &namespace, "mortal", "QueueReplaced").await;
    is_ours_again(&vhost, queue).await;
    let is_ready = |status: &TokenBucketStatus| condition(status, "Ready") == "True";
    buckets.until("mortal", "it to be ready", is_ready).await;
}
