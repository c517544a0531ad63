use lapin::BasicProperties;
use lapin::types::FieldTable;
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::bucket::machine::{Class, Inspection, QueueState};

use super::{BUCKET, LEDGER, connect, declare, kinds};
use crate::support::{self, testbed};

fn bucket(queue_type: QueueType, maximum: u64) -> Bucket {
    Bucket {
        queue_type,
        ..support::bucket("b", "* * * * *", 1, maximum)
    }
}

#[tokio::test]
async fn a_bucket_without_a_ledger_is_told_and_nothing_is_declared() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    for &kind in kinds(&broker) {
        let inspect = async || broker.inspect(&bucket(kind, 9), false).await.unwrap();
        let bucket_exists = false;
        assert_eq!(inspect().await, Inspection::NoLedger { bucket_exists });
        assert_eq!(vhost.queues().await.len(), 0);
        broker.declare_bucket(BUCKET, kind, 9).await.unwrap();
        let bucket_exists = true;
        assert_eq!(inspect().await, Inspection::NoLedger { bucket_exists });
        assert_eq!(vhost.queues().await, [BUCKET]);
        super::delete(&broker).await;
    }
}

#[tokio::test]
async fn a_queue_beside_a_ledger_is_declared_and_its_state_told() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    for &kind in kinds(&broker) {
        let inspect = async |maximum| broker.inspect(&bucket(kind, maximum), false).await.unwrap();
        let state = |tokens, limit| Inspection::Queues(QueueState { tokens, limit });
        broker.declare_ledger(LEDGER, kind).await.unwrap();
        assert_eq!(inspect(9).await, state(0, Some(9)));
        assert_eq!(vhost.queues().await, [BUCKET, LEDGER]);
        for _ in 0..2 {
            vhost.publish(BUCKET, b"", BasicProperties::default()).await;
        }
        assert_eq!(inspect(9).await, state(2, Some(9)));
        assert_eq!(inspect(10).await, state(2, Some(9)));
        super::delete(&broker).await;
    }
    broker
        .declare_ledger(LEDGER, QueueType::Classic)
        .await
        .unwrap();
    vhost.declare(BUCKET, FieldTable::default()).await;
    let limit = None;
    let found = broker.inspect(&bucket(QueueType::Classic, 9), false).await;
    assert_eq!(
        found,
        Ok(Inspection::Queues(QueueState { tokens: 0, limit }))
    );
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let classic = QueueType::Classic;
    for (wrong, right) in [(BUCKET, LEDGER), (LEDGER, BUCKET)] {
        declare(&broker, "b", classic, 1).await;
        super::delete(&broker).await;
        broker
            .declare_bucket(wrong, QueueType::Quorum, 1)
            .await
            .unwrap();
        broker.declare_bucket(right, classic, 1).await.unwrap();
        let found = broker.inspect(&bucket(classic, 1), false).await.unwrap();
        let Inspection::OtherArguments {
            queue,
            message,
            tokens: None,
        } = found
        else {
            panic!("{found:?}")
        };
        assert_eq!(queue, wrong);
        assert!(message.contains("x-queue-type"), "{message}");
        super::delete(&broker).await;
    }
}

#[tokio::test]
async fn quorum_buckets_are_refused_where_transactions_may_be_carried_out_in_part() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let found = broker.inspect(&bucket(QueueType::Quorum, 9), false).await;
    let consumer = broker.consume(super::REFILL, QueueType::Quorum, 1).await;
    if kinds(&broker).contains(&QueueType::Quorum) {
        assert!(found.is_ok() && consumer.is_ok());
        return;
    }
    for (error, instead) in [
        (found.unwrap_err(), "queueType: classic"),
        (consumer.unwrap_err(), "--refill-queue-type classic"),
    ] {
        assert_eq!(error.failure().reason, "UnsupportedBrokerVersion");
        assert_eq!(error.failure().class, Class::Person);
        assert!(error.to_string().contains(instead), "{error}");
    }
    assert_eq!(vhost.queues().await.len(), 0);
}
