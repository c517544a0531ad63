//! Buckets are declared, refilled on schedule, capped and reported.

use std::time::Duration;

use chrono::Utc;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use serde_json::json;
use token_bucket_operator::api::{Trigger, from_time};

use crate::support::{Account, Operator, Pace, RARELY, SOON, eventually, stage};

#[tokio::test]
async fn a_bucket_fills_on_schedule_up_to_its_maximum() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    buckets
        .create(
            "x",
            json!({"schedule": "* * * * * *", "amount": 10, "maximum": 25}),
        )
        .await;

    let mut seen = Vec::new();
    eventually("a full bucket", SOON, async || {
        let depth = vhost.depth("token_bucket_x").await.ok_or("no queue yet")?;
        if seen.last() != Some(&depth) {
            seen.push(depth);
        }
        if depth == 25 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    // Whoever counts in the middle of a commit sees a part of it.
    assert!(seen.is_sorted(), "{seen:?}");
    seen.retain(|depth| [10, 20, 25].contains(depth));
    assert_eq!(seen, [10, 20, 25]);

    let queue = vhost
        .queue("token_bucket_x")
        .await
        .expect("the bucket's queue");
    assert_eq!(queue["arguments"], json!({"x-max-length": 25}));
    assert_eq!(
        (&queue["durable"], &queue["type"]),
        (&json!(true), &json!("classic"))
    );
    let refill_queue = vhost
        .queue("token_buckets.refill")
        .await
        .expect("the refill queue");
    assert_eq!(
        (&refill_queue["arguments"], &refill_queue["durable"]),
        (&json!({}), &json!(true))
    );
    let mut queues = vhost.queues().await;
    queues.sort_unstable();
    let expected = [
        "token_bucket_x",
        "token_bucket_x.ledger",
        "token_buckets.refill",
        "token_buckets.refill.rejected",
    ];
    assert_eq!(queues, expected);

    let status = buckets
        .until("x", "the count in the status", |status| {
            status.available_tokens == Some(25)
        })
        .await;
    assert_eq!(status.maximum, Some(25));
    assert_eq!(status.queue_name.as_deref(), Some("token_bucket_x"));
    assert_eq!(status.tokens_issued, Some(25));
    let last = status.last_refill.expect("a last refill");
    assert_eq!(last.trigger, Trigger::Schedule);
    let next = from_time(&status.next_refill_time.expect("a next refill"));
    assert!(
        next > Utc::now() - Duration::from_secs(10) && next < Utc::now() + Duration::from_secs(2),
        "{next}"
    );

    let namespaced = ["--namespace", namespace.name()];
    let waited = testbed.kubectl(
        &[
            &["wait", "--for=condition=Ready", "tb/x", "--timeout=10s"][..],
            &namespaced[..],
        ]
        .concat(),
    );
    assert!(waited.status.success(), "{waited:?}");

    // What a worker takes comes back with the next tick.
    assert_eq!(vhost.take("token_bucket_x", 7).await, 7);
    vhost.depth_becomes("token_bucket_x", 25).await;

    let deleted =
        testbed.kubectl(&[&["delete", "tb/x", "--timeout=20s"][..], &namespaced[..]].concat());
    assert!(deleted.status.success(), "{deleted:?}");
    assert_eq!(vhost.queues().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_big_refill_arrives_whole() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets
        .create(
            "big",
            json!({"schedule": RARELY, "amount": 60_000, "maximum": 55_000}),
        )
        .await;
    buckets.ready("big").await;
    buckets.request_refill("big", "now").await;
    vhost.depth_becomes("token_bucket_big", 55_000).await;
    let handled = |status: &token_bucket_operator::api::TokenBucketStatus| {
        status.last_handled_refill_request.as_deref() == Some("now")
            && status.available_tokens == Some(55_000)
    };
    let status = buckets
        .until("big", "the refill in the status", handled)
        .await;
    let last = status.last_refill.expect("a last refill");
    assert_eq!((last.trigger, last.added), (Trigger::Manual, 55_000));
    assert_eq!(status.tokens_issued, Some(55_000));
}

#[tokio::test]
async fn initial_tokens_come_once() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 5, "maximum": 50, "initialTokens": 20});
    buckets.create("x", spec).await;
    let filled = |tokens| {
        move |status: &token_bucket_operator::api::TokenBucketStatus| {
            status.available_tokens == Some(tokens)
        }
    };
    let status = buckets.until("x", "the initial tokens", filled(20)).await;
    assert_eq!(
        status.last_refill.map(|refill| refill.trigger),
        Some(Trigger::Initial)
    );

    assert_eq!(vhost.take("token_bucket_x", 8).await, 8);
    operator.terminate().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets
        .until("x", "the rest after a restart", filled(12))
        .await;
}

#[tokio::test]
async fn the_annotation_asks_for_one_refill() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets
        .create(
            "x",
            json!({"schedule": RARELY, "amount": 5, "maximum": 100, "suspend": true}),
        )
        .await;
    buckets.ready("x").await;
    for (value, tokens) in [("one", 5), ("two", 10)] {
        buckets.request_refill("x", value).await;
        let done = |status: &token_bucket_operator::api::TokenBucketStatus| {
            status.last_handled_refill_request.as_deref() == Some(value)
        };
        buckets
            .until("x", "the refill to be carried out", done)
            .await;
        assert_eq!(vhost.depth("token_bucket_x").await, Some(tokens));
    }
    // The annotation is still there after a restart; it was carried out.
    operator.kill().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    eventually("the operator to be back", SOON, async || {
        if operator.logs().contains("refill queue is ours") {
            Ok(())
        } else {
            Err(operator.logs())
        }
    })
    .await;
    buckets.request_refill("x", "three").await;
    let done = |status: &token_bucket_operator::api::TokenBucketStatus| {
        status.last_handled_refill_request.as_deref() == Some("three")
    };
    buckets.until("x", "the third refill", done).await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(15));
}

#[tokio::test]
async fn requests_of_others_are_carried_out_and_bad_ones_parked() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets
        .create(
            "x",
            json!({"schedule": RARELY, "amount": 5, "maximum": 100}),
        )
        .await;
    buckets.ready("x").await;

    let request = |id: &str, body: serde_json::Value| {
        let mut headers = FieldTable::default();
        let task = "django_celery_token_bucket.tasks.token_bucket_refill";
        headers.insert(
            "task".into(),
            lapin::types::AMQPValue::LongString(task.into()),
        );
        headers.insert("id".into(), lapin::types::AMQPValue::LongString(id.into()));
        headers.insert(
            "lang".into(),
            lapin::types::AMQPValue::LongString("py".into()),
        );
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into());
        (body.to_string().into_bytes(), properties)
    };
    let queue = "token_buckets.refill";
    for (id, body) in [
        ("1", json!([[], {"name": "x"}, {}])),
        ("2", json!([["x"], {}, {}])),
        ("2", json!([["x"], {}, {}])),
        ("3", json!([[], {"name": "nobody"}, {}])),
        ("4", json!([[], {}, {}])),
    ] {
        let (body, properties) = request(id, body);
        vhost.publish(queue, &body, properties).await;
    }
    vhost
        .publish(queue, b"\xff\x00 nonsense", BasicProperties::default())
        .await;
    let (body, properties) = request("5", json!([[], {"name": "x"}, {}]));
    vhost.publish(queue, &body, properties).await;

    vhost.depth_becomes("token_bucket_x", 15).await;
    vhost
        .depth_becomes("token_buckets.refill.rejected", 2)
        .await;
    assert_eq!(vhost.depth("token_bucket_x").await, Some(15));
    let status = buckets
        .until("x", "the refills in the status", |status| {
            status.tokens_issued == Some(15)
        })
        .await;
    assert_eq!(
        status.last_refill.map(|refill| refill.trigger),
        Some(Trigger::Request)
    );
}

#[tokio::test]
async fn kills_add_no_tick_twice_and_miss_none() {
    survives_kills("classic", 3).await;
}

/// Every tick adds `amount` tokens exactly once, though the operator is killed again and again.
pub async fn survives_kills(queue_type: &str, amount: u64) {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let arguments = [
        "--status-interval",
        "200ms",
        "--refill-queue-type",
        queue_type,
    ];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &arguments).await;
    let extra = json!({"queueType": queue_type});
    let limits = [amount, 1_000_000];
    let account = Account::open(&buckets, "x", Pace(1), limits, false, extra).await;
    buckets.ready("x").await;

    for round in 0..8_u32 {
        // Kills come at odd moments of the second, when ticks are requested, committed and acknowledged.
        tokio::time::sleep(Duration::from_millis(u64::from(round * 397 % 1_000) + 300)).await;
        account.count(vhost.take("token_bucket_x", 4).await);
        operator.kill().await;
        operator = Operator::start(testbed, &namespace, &vhost, &arguments).await;
    }
    account.check(&buckets, &vhost).await;
}

#[tokio::test]
async fn a_cut_connection_loses_nothing() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 40_000, "maximum": 1_000_000});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    for round in 1..=4 {
        buckets.request_refill("x", &round.to_string()).await;
        eventually("the refill to have begun", SOON, async || {
            match vhost.depth("token_bucket_x").await {
                Some(depth) if depth > (round - 1) * 40_000 => Ok(()),
                depth => Err(format!("{depth:?}")),
            }
        })
        .await;
        vhost.close_all_connections().await;
    }
    vhost.depth_becomes("token_bucket_x", 160_000).await;
    let status = buckets
        .until("x", "the sum in the status", |status| {
            status.available_tokens == Some(160_000)
        })
        .await;
    assert_eq!(status.tokens_issued, Some(160_000));
}
