use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use token_bucket_operator::bucket::REFILL_TASK;

use super::{REFILL_QUEUE, Scene};
use crate::support::{RARELY, SOON, eventually};

/// A Celery message for `task`, as it would come from somebody else.
fn message(task: &str, id: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [("task", task), ("id", id), ("lang", "py")] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    BasicProperties::default()
        .with_headers(headers)
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
}

#[tokio::test]
async fn a_flood_of_bad_requests_holds_up_no_refill() {
    let scene = Scene::set().await;
    // So large that only a few such refills share a transaction.
    let spec = json!({"schedule": RARELY, "amount": 5_000, "maximum": 100_000});
    scene.buckets.create("asked", spec).await;
    scene.buckets.ready("asked").await;

    let channel = scene.vhost.channel().await;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    let unknown = json!([[], {"name": "nobody"}, {}]).to_string();
    let asked = json!([[], {"name": "asked"}, {}]).to_string();
    let mut confirms = Vec::new();
    for number in 0..100_000 {
        let (body, properties) = match number % 4 {
            // More than can be parked would wait for a person.
            0 if number % 12 == 0 => ("\u{0} nonsense", BasicProperties::default()),
            0 | 1 => (unknown.as_str(), message(REFILL_TASK, "unknown")),
            2 if number % 20_000 == 2 => ("[]", message("somebody.elses.task", "foreign")),
            // All with one id: they are one request.
            _ => (asked.as_str(), message(REFILL_TASK, "again and again")),
        };
        let sent = channel.basic_publish(
            "".into(),
            REFILL_QUEUE.into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            properties,
        );
        confirms.push(sent.await.expect("sent"));
    }
    for confirm in confirms {
        confirm.await.expect("confirmed");
    }
    eventually("the flood to be over", SOON, async || {
        match scene.vhost.depth(REFILL_QUEUE).await {
            Some(0..10) => Ok(()),
            depth => Err(format!("{depth:?} requests")),
        }
    })
    .await;
    scene.vhost.depth_becomes("token_bucket_asked", 5_000).await;
    scene
        .vhost
        .depth_becomes("token_buckets.refill.rejected", 8_334 + 5)
        .await;
    let memory = scene.operator.memory()[1];
    assert!(memory < 150, "{memory} MiB");
    scene.adds_up().await;
}
