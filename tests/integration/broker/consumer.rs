use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use token_bucket_operator::amqp::{Broker, BrokerError, RefillConsumer};
use token_bucket_operator::api::QueueType;

use super::{REFILL, connect, consume, kinds, send};
use crate::support::{eventually, testbed};

/// The broker notices after a moment that a consumer is gone.
async fn takes_over(broker: &Arc<Broker>, kind: QueueType) -> RefillConsumer {
    let what = "the refill queue to be free";
    eventually(what, Duration::from_secs(10), async || {
        let consumer = broker.consume(REFILL, kind, 100).await;
        consumer.map_err(|error| error.to_string())
    })
    .await
}

#[tokio::test]
async fn a_refill_queue_has_one_consumer() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    for &kind in kinds(&broker) {
        let vhost = testbed().await.vhost().await;
        let (one, other) = (connect(&vhost).await, connect(&vhost).await);
        let mut consumer = one.consume(REFILL, kind, 10).await.unwrap();
        for broker in [&one, &other] {
            let error = broker.consume(REFILL, kind, 10).await.unwrap_err();
            let queue = REFILL.to_owned();
            assert_eq!(error, BrokerError::InUse { queue });
            assert!(error.needs_person() && !error.is_connection_lost());
        }
        // A request that was delivered and not acknowledged goes to the next one.
        send(&one, "b").await;
        assert!(!consumer.next(1).await.unwrap()[0].redelivered);
        consumer.release().await;
        let mut consumer = takes_over(&other, kind).await;
        assert!(consumer.next(1).await.unwrap()[0].redelivered);
        // Gone without a word, as after SIGKILL.
        drop((consumer, other));
        let mut consumer = takes_over(&one, kind).await;
        assert!(consumer.next(1).await.unwrap()[0].redelivered);
        let parked = format!("{REFILL}.rejected");
        assert_eq!(vhost.queues().await, [REFILL, &parked]);
    }
}

#[tokio::test]
async fn of_two_that_come_at_the_same_moment_at_most_one_gets_requests() {
    let vhost = testbed().await.vhost().await;
    let (one, other) = (connect(&vhost).await, connect(&vhost).await);
    for &kind in kinds(&one) {
        for round in 0..10 {
            let queue = format!("{kind:?}.{round}");
            let (first, second) =
                tokio::join!(one.consume(&queue, kind, 1), other.consume(&queue, kind, 1));
            let consumers = [first, second].into_iter().filter_map(|held| match held {
                Ok(consumer) => Some(consumer),
                Err(BrokerError::InUse { .. }) => None,
                Err(error) => panic!("{error}"),
            });
            let mut consumers: Vec<_> = consumers.collect();
            assert!(consumers.len() < 2 || kind == QueueType::Quorum, "{round}");
            for _ in 0..2 {
                let nothing = BasicProperties::default();
                vhost.publish(&queue, b"", nothing).await;
            }
            let mut got = Vec::new();
            for consumer in &mut consumers {
                consumer.waiting().await.unwrap();
                got.extend(consumer.ready(9).unwrap());
            }
            assert_eq!(got.len(), consumers.len().min(1), "{kind:?} {round}");
        }
    }
}

#[tokio::test]
async fn a_refill_queue_with_another_limit_is_consumed_and_a_stream_is_refused() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    broker
        .declare_bucket(REFILL, QueueType::Classic, 5)
        .await
        .unwrap();
    let consumer = consume(&broker).await;
    assert!(!consumer.is_ours());
    consumer.release().await;
    let mut arguments = FieldTable::default();
    let stream = AMQPValue::LongString("stream".into());
    arguments.insert("x-queue-type".into(), stream);
    vhost.declare("stream", arguments).await;
    let error = broker
        .consume("stream", QueueType::Classic, 10)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), "QueueArgumentsDiffer");
    assert!(error.needs_person());
    assert_eq!(vhost.depth("stream.rejected").await, None);
}

#[tokio::test]
async fn waiting_for_requests_can_be_given_up_at_any_time() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut consumer = broker
        .consume(REFILL, QueueType::Classic, 1_000)
        .await
        .unwrap();
    assert!(consumer.ready(9).unwrap().is_empty());
    let publisher = broker.publisher().await.unwrap();
    let requests: Vec<_> = (0..500)
        .map(|n| (REFILL.to_owned(), super::request(&n.to_string())))
        .collect();
    let mut names = Vec::new();
    let receive = async {
        while names.len() < 500 {
            // Dropped again and again, sometimes while a delivery is coming in.
            if let Ok(deliveries) =
                tokio::time::timeout(Duration::from_micros(50), consumer.next(7)).await
            {
                let deliveries = deliveries.unwrap();
                assert!((1..=7).contains(&deliveries.len()));
                names.extend(
                    deliveries
                        .into_iter()
                        .map(|delivery| delivery.request.unwrap().bucket),
                );
            }
        }
    };
    let (results, ()) = tokio::join!(publisher.publish(&requests), receive);
    assert!(results.iter().all(Result::is_ok));
    let sent: Vec<_> = requests
        .iter()
        .map(|(_, request)| request.bucket.clone())
        .collect();
    assert_eq!(names, sent);
}

#[tokio::test]
async fn a_deleted_refill_queue_ends_its_consumer() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut consumer = consume(&broker).await;
    let deleter = vhost.channel().await;
    deleter
        .queue_delete(REFILL.into(), Default::default())
        .await
        .unwrap();
    assert_eq!(
        consumer.next(1).await.unwrap_err(),
        BrokerError::NoQueue {
            queue: REFILL.into()
        }
    );
}

#[tokio::test]
async fn what_is_settled_does_not_come_back_and_the_rest_does() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    for &kind in kinds(&broker) {
        let mut consumer = broker.consume(REFILL, kind, 100).await.unwrap();
        for name in ["a", "b", "c"] {
            send(&broker, name).await;
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < 3 {
            deliveries.extend(consumer.next(9).await.unwrap());
        }
        consumer.settle(vec![], vec![]).await.unwrap();
        let acks = vec![deliveries[0].tag, deliveries[2].tag];
        consumer.settle(acks, vec![]).await.unwrap();
        consumer.release().await;
        let mut consumer = takes_over(&broker, kind).await;
        let left = consumer.next(9).await.unwrap().remove(0);
        assert_eq!(left.request.unwrap().bucket, "b");
        consumer.settle(vec![left.tag], vec![]).await.unwrap();
        assert_eq!(consumer.waiting().await, Ok(0));
        assert!(consumer.ready(9).unwrap().is_empty());
        consumer.release().await;
        let deleter = vhost.channel().await;
        deleter
            .queue_delete(REFILL.into(), Default::default())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn who_counts_what_waits_has_all_that_was_handed_out() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    for &kind in kinds(&broker) {
        let queue = format!("{kind:?}");
        let mut consumer = broker.consume(&queue, kind, 50).await.unwrap();
        assert_eq!(consumer.waiting().await, Ok(0));
        assert!(consumer.ready(9).unwrap().is_empty());
        for total in [30, 60, 90] {
            for _ in 0..30 {
                let nothing = BasicProperties::default();
                vhost.publish(&queue, b"", nothing).await;
            }
            let left = total - 50_u64.min(total);
            assert_eq!(consumer.waiting().await, Ok(left));
        }
        let first = consumer.ready(999).unwrap();
        assert_eq!(first.len(), 50);
        let acks = first.iter().map(|delivery| delivery.tag).collect();
        consumer.settle(acks, vec![]).await.unwrap();
        let mut second = Vec::new();
        while consumer.waiting().await.unwrap() > 0 {}
        second.extend(consumer.ready(999).unwrap());
        assert_eq!(second.len(), 40);
    }
}
