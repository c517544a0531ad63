use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use serde_json::json;
use token_bucket_operator::amqp::{LedgerRead, RefillChannel, Transaction};
use token_bucket_operator::api::QueueType;

use super::{KINDS, connect, consume, ledger};
use crate::support::testbed;

async fn write(channel: &mut RefillChannel, owed: u64) {
    let ledgers = vec![("l".to_owned(), ledger(owed))];
    channel
        .commit(Transaction {
            ledgers,
            ..Default::default()
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_ledger_is_read_and_stays_where_it_is() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        assert_eq!(broker.read_ledger("l", kind).await, Ok(LedgerRead::NoQueue));
        broker.declare_ledger("l", kind).await.unwrap();
        assert_eq!(broker.read_ledger("l", kind).await, Ok(LedgerRead::None));
        let mut channel = consume(&broker).await;
        for owed in [1, 2] {
            write(&mut channel, owed).await;
            for before in 0..3 {
                let deliveries = if kind == QueueType::Quorum { before } else { 0 };
                let read = LedgerRead::Ledger {
                    ledger: ledger(owed),
                    deliveries,
                };
                assert_eq!(broker.read_ledger("l", kind).await, Ok(read));
            }
        }
        // It is on disk with the rest: whoever comes next reads it.
        drop((channel, broker));
        let broker = connect(&vhost).await;
        let read = broker.read_ledger("l", kind).await.unwrap();
        assert!(matches!(read, LedgerRead::Ledger { ledger: it, .. } if it == ledger(2)));
    }
}

/// Of quorum queues this is not true: there the old one comes back and the new one is dropped. Hence the rule that
/// nobody reads who does not hold the refill channel.
#[tokio::test]
async fn a_ledger_written_while_the_old_one_is_read_takes_its_place_in_a_classic_queue() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    broker.declare_ledger("l", kind).await.unwrap();
    let mut channel = consume(&broker).await;
    write(&mut channel, 1).await;

    let reader = vhost.channel().await;
    let old = reader
        .basic_get("l".into(), BasicGetOptions::default())
        .await
        .unwrap()
        .unwrap();
    write(&mut channel, 2).await;
    old.reject(BasicRejectOptions { requeue: true })
        .await
        .unwrap();
    reader.close(200, "".into()).await.unwrap();

    let read = broker.read_ledger("l", kind).await.unwrap();
    assert!(
        matches!(&read, LedgerRead::Ledger { ledger: it, .. } if *it == ledger(2)),
        "{read:?}"
    );
    assert_eq!(broker.count("l").await, Ok(Some(1)));
}

#[tokio::test]
async fn a_ledger_can_be_written_and_read_right_after_it_was_read() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        broker.declare_ledger("l", kind).await.unwrap();
        let mut channel = consume(&broker).await;
        for owed in 1..=100 {
            write(&mut channel, owed).await;
            for _ in 0..2 {
                let read = broker.read_ledger("l", kind).await.unwrap();
                let newest =
                    matches!(&read, LedgerRead::Ledger { ledger: it, .. } if *it == ledger(owed));
                assert!(newest, "{kind:?} {owed}: {read:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_ledger_is_told_and_kept() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    broker
        .declare_ledger("l", QueueType::Classic)
        .await
        .unwrap();
    let mut newer = serde_json::to_value(ledger(0)).unwrap();
    newer["version"] = json!(2);
    for (body, reason) in [
        (b"\xff\x00".to_vec(), "not a ledger"),
        (b"{}".to_vec(), "not a ledger"),
        (br#"{"version": 1}"#.to_vec(), "damaged"),
        (br#"{"version": 2}"#.to_vec(), "format version 2"),
        (newer.to_string().into_bytes(), "format version 2"),
    ] {
        vhost.publish("l", &body, BasicProperties::default()).await;
        match broker.read_ledger("l", QueueType::Classic).await.unwrap() {
            LedgerRead::Unreadable(text) => assert!(text.contains(reason), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(vhost.depth("l").await, Some(1));
    }
}
