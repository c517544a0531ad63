//! Refill queues that are somebody else's, or were made by somebody else.

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Buckets, Operator, SOON, Vhost, condition, eventually, reason, stage};

const REFILL: &str = "token_buckets.refill";
const PARKED: &str = "token_buckets.refill.rejected";
const TASKS: u64 = 3_000;
/// Messages that cannot be carried out.
const MANY: u64 = 12;

fn arguments<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.into(), value);
    }
    table
}

async fn purge(vhost: &Vhost<'_>, queue: &str) {
    let channel = vhost.channel().await;
    let purging = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
    purging.await.expect("purged");
}

/// Tasks of an application, as its Celery client sends them.
async fn send_tasks(vhost: &Vhost<'_>) {
    let headers = arguments([("task", AMQPValue::LongString("shop.tasks.send_mail".into()))]);
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    let channel = vhost.channel().await;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    confirms.await.expect("confirms");
    let mut sent = Vec::new();
    for _ in 0..TASKS {
        let options = BasicPublishOptions::default();
        let properties = properties.clone();
        let sending = channel.basic_publish("".into(), REFILL.into(), options, b"[]", properties);
        sent.push(sending.await.expect("sent"));
    }
    for confirm in sent {
        confirm.await.expect("confirmed");
    }
}

fn is_stalled(why: &str) -> impl Fn(&TokenBucketStatus) -> bool {
    move |status| condition(status, "Stalled") == "True" && reason(status, "Stalled") == why
}

fn said(status: &TokenBucketStatus) -> String {
    let ready = status.conditions.iter().find(|it| it.type_ == "Ready");
    ready.expect("a condition").message.clone()
}

fn is_refilled(status: &TokenBucketStatus) -> bool {
    condition(status, "Ready") == "True" && status.tokens_issued > Some(0)
}

fn spec() -> serde_json::Value {
    json!({"schedule": "* * * * * *", "amount": 1, "maximum": 100_000})
}

#[tokio::test]
async fn a_queue_of_an_applications_tasks_is_let_go_of() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    vhost.declare(REFILL, FieldTable::default()).await;
    send_tasks(&vhost).await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval=200ms"]).await;
    buckets.create("x", spec()).await;
    let stalled = is_stalled("ForeignTasks");
    let status = buckets
        .until("x", "the queue to be let go of", stalled)
        .await;
    for word in [REFILL, "shop.tasks.send_mail", PARKED] {
        assert!(said(&status).contains(word), "{}", said(&status));
    }
    vhost.depth_becomes(PARKED, 10).await;
    // A request of the operator's own may have been on its way.
    let left = async |all: u64| {
        eventually("the tasks", SOON, async || {
            match vhost.depth(REFILL).await {
                Some(depth) if (all..all + 3).contains(&depth) => Ok(()),
                depth => Err(format!("{depth:?}")),
            }
        })
        .await;
    };
    left(TASKS - 10).await;
    // Whoever they are for takes them.
    assert_eq!(vhost.take(REFILL, 1_000).await, 1_000);
    assert!(is_stalled("ForeignTasks")(&buckets.status("x").await));
    left(TASKS - 1_010).await;

    purge(&vhost, REFILL).await;
    buckets.until("x", "refills", is_refilled).await;
    // The next ones are not a mistake any more.
    send_tasks(&vhost).await;
    let stalled = is_stalled("ForeignTasks");
    buckets
        .until("x", "the queue to be let go of", stalled)
        .await;
    assert_eq!(vhost.depth(PARKED).await, Some(10));
    buckets
        .edit("x", json!({"refillQueue": "token_buckets.own"}))
        .await;
    buckets.until("x", "refills", is_refilled).await;
    // With requests of the operator's own that were on their way.
    eventually("the tasks to be untouched", SOON, async || {
        match vhost.depth(REFILL).await {
            Some(depth) if (TASKS..TASKS + 30).contains(&depth) => Ok(()),
            depth => Err(format!("{depth:?}")),
        }
    })
    .await;
}

/// Sends requests that nobody can carry out, more than can be parked, and waits until that is told.
async fn too_many_are_told(vhost: &Vhost<'_>, buckets: &Buckets, requests: u64) {
    for number in 0..requests {
        let body = format!("nonsense {number}");
        let nothing = BasicProperties::default();
        vhost.publish(REFILL, body.as_bytes(), nothing).await;
    }
    let full = is_stalled("ParkedQueueFull");
    let status = buckets.until("x", "it to be full", full).await;
    assert!(said(&status).contains(PARKED), "{}", said(&status));
}

#[tokio::test]
async fn a_full_queue_of_parked_requests_loses_none() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let limit = arguments([("x-max-length", AMQPValue::LongInt(5))]);
    vhost.declare(PARKED, limit).await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval=200ms"]).await;
    buckets.create("x", spec()).await;
    buckets.ready("x").await;
    too_many_are_told(&vhost, &buckets, 8).await;
    assert_eq!(vhost.take(PARKED, 9).await, 5);
    vhost.depth_becomes(PARKED, 3).await;
    buckets.until("x", "refills", is_refilled).await;
}

/// A policy limits the queue of parked requests to five, from before the operator starts or from after it, and many more come.
/// Answers how many there are in the end, when there are as many as there have to be.
async fn with_policy_for_parked(definition: serde_json::Value, first: bool, at_least: u64) -> u64 {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let pattern = r"\.rejected$";
    if first {
        vhost.set_policy(pattern, PARKED, definition.clone()).await;
    }
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval=200ms"]).await;
    buckets.create("x", spec()).await;
    buckets.ready("x").await;
    if !first {
        vhost.set_policy(pattern, PARKED, definition).await;
    }
    too_many_are_told(&vhost, &buckets, MANY).await;
    vhost.delete_policy(PARKED).await;
    let seen = vhost.take(PARKED, MANY).await;
    buckets.until("x", "refills", is_refilled).await;
    vhost.depth_becomes(REFILL, 0).await;
    eventually("the rest", SOON, async || {
        let left = vhost.depth(PARKED).await.unwrap_or_default();
        let all = seen + left;
        match all >= at_least {
            true => Ok(all),
            false => Err(format!("{all}")),
        }
    })
    .await
}

#[tokio::test]
async fn a_policy_that_refuses_parked_requests_is_told_and_loses_none() {
    for overflow in ["reject-publish", "reject-publish-dlx"] {
        for first in [true, false] {
            let definition = json!({"max-length": 5, "overflow": overflow});
            let all = with_policy_for_parked(definition, first, MANY).await;
            assert_eq!(all, MANY, "{overflow}");
        }
    }
}

#[tokio::test]
async fn a_policy_that_drops_parked_requests_is_told_and_loses_few() {
    for first in [true, false] {
        // It takes three to be sure.
        with_policy_for_parked(json!({"max-length": 5}), first, MANY - 3).await;
    }
}

#[tokio::test]
async fn a_refill_queue_with_other_arguments_serves_as_well() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let number = AMQPValue::LongInt;
    let is_new = std::env::var("TESTBED_BROKER").is_ok_and(|version| version == "4");
    for (name, other) in [
        ("prioritised", arguments([("x-max-priority", number(9))])),
        ("mortal", arguments([("x-message-ttl", number(60_000))])),
        ("limited", arguments([("x-max-length", number(1_000))])),
        ("replicated", arguments([("x-queue-type", text("quorum"))])),
        (
            "both",
            arguments([
                ("x-queue-type", text("quorum")),
                ("x-message-ttl", number(60_000)),
            ]),
        ),
        ("streamed", arguments([("x-queue-type", text("stream"))])),
    ] {
        if name == "both" && !is_new {
            continue;
        }
        let queue = format!("token_buckets.{name}");
        vhost.declare(&queue, other).await;
        let mut spec = spec();
        spec["refillQueue"] = json!(queue);
        buckets.create(name, spec).await;
    }
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval=200ms"]).await;
    for name in ["prioritised", "mortal", "limited"] {
        buckets.until(name, "refills", is_refilled).await;
    }
    for name in ["replicated", "both"] {
        if is_new {
            buckets.until(name, "refills", is_refilled).await;
        } else if name == "replicated" {
            let old = is_stalled("UnsupportedBrokerVersion");
            buckets.until(name, "it to be refused", old).await;
        }
    }
    let stalled = is_stalled("QueueArgumentsDiffer");
    let status = buckets.until("streamed", "it to be refused", stalled).await;
    assert!(!said(&status).contains("elete"), "{}", said(&status));
    // Who has made it may need it.
    buckets.delete("mortal").await;
    assert_eq!(vhost.depth("token_buckets.mortal").await, Some(0));
}

#[tokio::test]
async fn messages_with_large_headers_are_parked_and_counted_and_refills_go_on() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &["--status-interval=200ms"]).await;
    buckets.create("x", spec()).await;
    buckets.ready("x").await;
    let sizes = [12_000, 60_000, 120_000];
    for size in sizes {
        let large = AMQPValue::LongString("x".repeat(size).into());
        let properties = BasicProperties::default().with_headers(arguments([("baggage", large)]));
        vhost.publish(REFILL, b"[]", properties).await;
    }
    vhost.depth_becomes(PARKED, 3).await;
    let parked = r#"tokenbucket_requests_parked_total{reason="NotCelery"}"#;
    eventually("the metric to count them", SOON, async || {
        match operator.metric(parked).await? {
            Some(3.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let issued = buckets.status("x").await.tokens_issued;
    let more = |status: &TokenBucketStatus| status.tokens_issued > issued;
    buckets.until("x", "more refills", more).await;
    let channel = vhost.channel().await;
    for size in sizes {
        let get = channel.basic_get(PARKED.into(), Default::default()).await;
        let kept = get.expect("an answer").expect("a message").delivery;
        let headers = kept.properties.headers().as_ref().expect("headers");
        let AMQPValue::LongString(baggage) = &headers.inner()["baggage"] else {
            panic!("{headers:?}");
        };
        assert_eq!((baggage.as_bytes().len(), &*kept.data), (size, &b"[]"[..]));
    }
}
