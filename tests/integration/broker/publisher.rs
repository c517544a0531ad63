use chrono::{DateTime, Utc};
use token_bucket_operator::amqp::BrokerError;
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::{Origin, RefillRequest};

use super::{REFILL, connect, consume};
use crate::support::testbed;

fn tick(bucket: &str, seconds: i64) -> RefillRequest {
    let since = DateTime::<Utc>::UNIX_EPOCH;
    let tick = DateTime::from_timestamp_secs(seconds).unwrap();
    RefillRequest {
        bucket: bucket.into(),
        origin: Origin::Schedule {
            uid: "uid".into(),
            since,
            tick,
            ticks: 2,
        },
    }
}

#[tokio::test]
async fn requests_arrive_as_they_were_sent() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut consumer = broker
        .consume(REFILL, QueueType::Classic, 2_000)
        .await
        .unwrap();
    let requests: Vec<_> = (1..=1_000)
        .map(|n| (REFILL.to_owned(), tick("b", n)))
        .collect();
    let results = broker.publisher().await.unwrap().publish(&requests).await;
    assert_eq!(results, vec![Ok(()); 1_000]);
    let mut received = Vec::new();
    while received.len() < 1_000 {
        let deliveries = consumer.next(1_000).await.unwrap();
        received.extend(
            deliveries
                .into_iter()
                .map(|delivery| (REFILL.to_owned(), delivery.request.unwrap())),
        );
    }
    assert_eq!(received, requests);
}

#[tokio::test]
async fn only_the_requests_for_a_missing_queue_are_told_to_be_missing() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    consume(&broker).await.release().await;
    let publisher = broker.publisher().await.unwrap();
    for round in 0..20 {
        let queue = |n: i64| if n % 3 == 1 { "gone" } else { REFILL };
        let requests: Vec<_> = (1..=50)
            .map(|n| (queue(n).to_owned(), tick("b", round * 100 + n)))
            .collect();
        let results = publisher.publish(&requests).await;
        for ((queue, _), result) in requests.iter().zip(results) {
            let missing = Err(BrokerError::NoQueue {
                queue: "gone".into(),
            });
            assert_eq!(result, if queue == REFILL { Ok(()) } else { missing });
        }
    }
    assert_eq!(vhost.depth(REFILL).await, Some(20 * 34 - 20));
}
