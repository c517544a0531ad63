use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use lapin::options::BasicGetOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};
use serde_json::json;
use token_bucket_operator::amqp::{Declared, DeleteIf, Deleted};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::machine::Transaction;

use super::{BUCKET, KINDS, REFILL, connect, consume, kinds};
use crate::support::{Vhost, testbed};

fn arguments<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.into(), value);
    }
    table
}

#[tokio::test]
async fn queues_are_declared_by_the_wire_contract() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let new = Ok(Declared::Ok { tokens: 0 });
    assert_eq!(
        broker.declare_bucket("c", QueueType::Classic, 25).await,
        new
    );
    assert_eq!(broker.declare_bucket("q", QueueType::Quorum, 25).await, new);
    assert_eq!(
        broker.declare_ledger("c.ledger", QueueType::Classic).await,
        new
    );
    assert_eq!(
        broker.declare_ledger("q.ledger", QueueType::Quorum).await,
        new
    );
    broker
        .consume("c.refill", QueueType::Classic, 1)
        .await
        .unwrap()
        .release()
        .await;
    // As an operator on a newer broker would.
    let quorum = "quorum";
    if kinds(&broker).contains(&QueueType::Quorum) {
        let consumer = broker.consume("q.refill", QueueType::Quorum, 1).await;
        consumer.unwrap().release().await;
    } else {
        let kind = ("x-queue-type", AMQPValue::LongString(quorum.into()));
        let single = ("x-single-active-consumer", AMQPValue::Boolean(true));
        vhost.declare("q.refill", arguments([kind, single])).await;
        let parked = [("x-max-length", AMQPValue::LongInt(10_000))];
        vhost.declare("q.refill.rejected", arguments(parked)).await;
    }

    for (queue, kind, arguments) in [
        ("c", "classic", json!({"x-max-length": 25})),
        (
            "q",
            "quorum",
            json!({"x-max-length": 25, "x-queue-type": quorum}),
        ),
        ("c.ledger", "classic", json!({"x-max-length": 1})),
        (
            "q.ledger",
            "quorum",
            json!({"x-max-length": 1, "x-queue-type": quorum}),
        ),
        ("c.refill", "classic", json!({})),
        (
            "q.refill",
            "quorum",
            json!({"x-queue-type": quorum, "x-single-active-consumer": true}),
        ),
        (
            "c.refill.rejected",
            "classic",
            json!({"x-max-length": 10_000}),
        ),
        (
            "q.refill.rejected",
            "classic",
            json!({"x-max-length": 10_000}),
        ),
    ] {
        let it = vhost
            .queue(queue)
            .await
            .unwrap_or_else(|| panic!("no queue {queue}"));
        assert_eq!(it["arguments"], arguments, "{queue}");
        assert_eq!(
            (&it["type"], &it["durable"]),
            (&json!(kind), &json!(true)),
            "{queue}"
        );
        assert_eq!(
            (&it["auto_delete"], &it["exclusive"]),
            (&json!(false), &json!(false)),
            "{queue}"
        );
    }
    assert_eq!(vhost.queues().await.len(), 8);
    // And again, with what is there.
    assert_eq!(
        broker.declare_bucket("c", QueueType::Classic, 25).await,
        new
    );
    assert_eq!(
        broker.declare_ledger("q.ledger", QueueType::Quorum).await,
        new
    );
}

#[tokio::test]
async fn another_limit_is_told_from_another_kind_of_queue() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let int = AMQPValue::LongInt(7);
    vhost
        .declare("limited", arguments([("x-max-length", int.clone())]))
        .await;
    vhost.declare("unlimited", FieldTable::default()).await;
    let quorum = || ("x-queue-type", AMQPValue::LongString("quorum".into()));
    vhost
        .declare(
            "quorum",
            arguments([("x-max-length", int.clone()), quorum()]),
        )
        .await;
    let ttl = ("x-message-ttl", AMQPValue::LongInt(60_000));
    vhost
        .declare("short-lived", arguments([("x-max-length", int), ttl]))
        .await;

    let declare = async |queue: &str, kind, maximum| {
        broker.declare_bucket(queue, kind, maximum).await.unwrap()
    };
    use QueueType::{Classic, Quorum};
    // The width of the integer is not compared.
    assert_eq!(
        declare("limited", Classic, 7).await,
        Declared::Ok { tokens: 0 }
    );
    assert_eq!(
        declare("limited", Classic, 8).await,
        Declared::OtherLimit { current: Some(7) }
    );
    assert_eq!(
        declare("unlimited", Classic, 8).await,
        Declared::OtherLimit { current: None }
    );
    assert_eq!(
        declare("quorum", Quorum, 8).await,
        Declared::OtherLimit { current: Some(7) }
    );
    for (queue, kind, maximum, argument) in [
        ("quorum", Classic, 7, "x-queue-type"),
        ("quorum", Classic, 8, "x-queue-type"),
        ("limited", Quorum, 8, "x-queue-type"),
        ("short-lived", Classic, 7, "x-message-ttl"),
        ("short-lived", Classic, 8, "x-message-ttl"),
    ] {
        match declare(queue, kind, maximum).await {
            Declared::Different { message } => {
                assert!(message.contains(argument), "{queue}: {message}")
            }
            other => panic!("{queue}: {other:?}"),
        }
    }
    let ledger = broker.declare_ledger("limited", Classic).await.unwrap();
    assert!(matches!(ledger, Declared::Different { .. }), "{ledger:?}");
}

#[tokio::test]
async fn a_count_is_of_ready_messages() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    assert_eq!(broker.count("b").await, Ok(None));
    for kind in KINDS {
        broker.declare_bucket("b", kind, 3).await.unwrap();
        for _ in 0..5 {
            vhost.publish("b", b"", BasicProperties::default()).await;
        }
        assert_eq!(broker.count("b").await, Ok(Some(3)));
        assert_eq!(
            broker.declare_bucket("b", kind, 3).await,
            Ok(Declared::Ok { tokens: 3 })
        );
        broker.delete_queue("b", DeleteIf::Always).await.unwrap();
    }
}

#[tokio::test]
async fn queues_are_counted_together_though_one_is_missing() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let names = ["a", "b", "c"].map(String::from);
    for (name, tokens) in [("a", 1), ("c", 2)] {
        broker
            .declare_bucket(name, QueueType::Classic, 3)
            .await
            .unwrap();
        for _ in 0..tokens {
            vhost.publish(name, b"", BasicProperties::default()).await;
        }
    }
    // Twice: the missing one costs a channel, and nothing else.
    for _ in 0..2 {
        let counts = broker.counts(&names).collect::<Vec<_>>().await;
        assert_eq!(counts, [Ok(Some(1)), Ok(None), Ok(Some(2))]);
    }
    let there = [names[2].clone(), names[0].clone()];
    let counts = broker.counts(&there).collect::<Vec<_>>().await;
    assert_eq!(counts, [Ok(Some(2)), Ok(Some(1))]);
    assert_eq!(broker.counts(&[]).count().await, 0);
}

#[tokio::test]
async fn a_queue_is_deleted_under_its_condition() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    for only_if in [DeleteIf::Always, DeleteIf::Empty, DeleteIf::EmptyAndUnused] {
        let absent = broker.delete_queue("q", only_if).await;
        assert_eq!(absent, Ok(Deleted::Gone { messages: 0 }));
        for kind in KINDS {
            broker.declare_bucket("q", kind, 9).await.unwrap();
            assert_eq!(
                broker.delete_queue("q", only_if).await,
                Ok(Deleted::Gone { messages: 0 }),
                "{kind:?}"
            );
        }
    }
    for kind in KINDS {
        broker.declare_bucket("q", kind, 9).await.unwrap();
        vhost.publish("q", b"", BasicProperties::default()).await;
        for only_if in [DeleteIf::Empty, DeleteIf::EmptyAndUnused] {
            let kept = broker.delete_queue("q", only_if).await.unwrap();
            assert!(matches!(kept, Deleted::Kept(_)), "{kept:?}");
        }
        assert_eq!(
            broker.delete_queue("q", DeleteIf::Always).await,
            Ok(Deleted::Gone { messages: 1 })
        );
    }
    let consumer = consume(&broker).await;
    let kept = broker
        .delete_queue(REFILL, DeleteIf::EmptyAndUnused)
        .await
        .unwrap();
    assert!(
        matches!(&kept, Deleted::Kept(reason) if reason.contains("consumer")),
        "{kept:?}"
    );
    consumer.release().await;
    assert_eq!(
        broker.delete_queue(REFILL, DeleteIf::EmptyAndUnused).await,
        Ok(Deleted::Gone { messages: 0 })
    );
}

/// RabbitMQ 3.10 sometimes closes the connection of who takes from a quorum queue that is being replaced; on one that
/// workers share, it would take what the others have just received.
async fn worker_channel(vhost: &Vhost<'_>) -> (Connection, Channel) {
    let connection = Connection::connect(&vhost.amqp_url(), Default::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Every token is either taken by a worker, or in the count that the replacement answers, or still there.
#[tokio::test]
async fn replacing_a_queue_under_workers_loses_no_count() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut refill = broker.transactions().await.unwrap();
    for kind in KINDS {
        broker.declare_bucket(BUCKET, kind, 1_000).await.unwrap();
        let stop = AtomicBool::new(false);
        let worker = async || {
            let (mut own, mut taken) = (worker_channel(&vhost).await, 0);
            while !stop.load(Ordering::SeqCst) {
                let get = own
                    .1
                    .basic_get(BUCKET.into(), BasicGetOptions { no_ack: true });
                match get.await {
                    Ok(message) => taken += u64::from(message.is_some()),
                    Err(_) => own = worker_channel(&vhost).await,
                }
            }
            taken
        };
        let replacements = async {
            let mut carried = 0;
            for round in 1..=10 {
                let tokens = vec![("b".into(), 1_000)];
                let transaction = Transaction {
                    tokens,
                    ..Transaction::default()
                };
                refill.commit(transaction).await.unwrap();
                carried += broker
                    .replace_bucket(BUCKET, kind, 1_000 + round)
                    .await
                    .unwrap();
            }
            stop.store(true, Ordering::SeqCst);
            carried
        };
        let (carried, one, two, three) = tokio::join!(replacements, worker(), worker(), worker());
        let left = broker.count(BUCKET).await.unwrap().unwrap();
        let all = carried + one + two + three + left;
        match kind {
            QueueType::Classic => assert_eq!(all, 10_000),
            QueueType::Quorum => assert!(all >= 10_000, "{all}"),
        }
        assert!(carried > 0 && one > 0 && two > 0 && three > 0, "{kind:?}");
        let limit = broker.declare_bucket(BUCKET, kind, 1).await.unwrap();
        assert_eq!(
            limit,
            Declared::OtherLimit {
                current: Some(1_010)
            }
        );
        broker.delete_queue(BUCKET, DeleteIf::Always).await.unwrap();
    }
}
