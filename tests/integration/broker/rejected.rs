use lapin::options::BasicGetOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection};
use token_bucket_operator::amqp::{Delivery, REJECTED_REASON};
use token_bucket_operator::bucket::Rejection;

use super::link::{Link, MARK};
use super::{REFILL, connect, consume, request, send};
use crate::support::testbed;

/// The queue of rejected requests.
const PARKED: &str = "token_buckets.refill.rejected";

#[tokio::test]
async fn a_rejected_request_is_kept_as_it_came_with_the_reason() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut consumer = consume(&broker).await;
    let mut headers = FieldTable::default();
    headers.insert("task".into(), AMQPValue::LongString("another.task".into()));
    // The broker would send copies there.
    headers.insert(
        "CC".into(),
        AMQPValue::FieldArray(vec![AMQPValue::LongString(REFILL.into())].into()),
    );
    let user = vhost
        .amqp_url()
        .split(['/', ':'])
        .nth(3)
        .unwrap()
        .to_owned();
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_content_type("text/plain".into())
        .with_user_id(user.as_str().into())
        .with_expiration("60000".into());
    vhost.publish(REFILL, b"something", properties).await;
    // Somebody tidies up.
    vhost
        .channel()
        .await
        .queue_delete(PARKED.into(), Default::default())
        .await
        .unwrap();

    let delivery = consumer.next(1).await.unwrap().remove(0);
    let rejection = delivery.request.clone().unwrap_err();
    assert_eq!(rejection, Rejection::OtherTask("another.task".into()));
    let acks = vec![delivery.tag];
    let forwards = vec![delivery.forward(PARKED, Some(&rejection.to_string()))];
    consumer.settle(acks, forwards).await.unwrap();

    assert_eq!(vhost.depth(PARKED).await, Some(1));
    let reader = vhost.channel().await;
    let kept = reader
        .basic_get(PARKED.into(), BasicGetOptions::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kept.data, b"something");
    assert_eq!(
        kept.properties.content_type().as_ref().unwrap().as_str(),
        "text/plain"
    );
    assert_eq!(
        (kept.properties.user_id(), kept.properties.expiration()),
        (&None, &None)
    );
    let headers = kept.properties.headers().as_ref().unwrap().inner();
    assert_eq!(
        headers["task"],
        AMQPValue::LongString("another.task".into())
    );
    assert_eq!(
        headers[REJECTED_REASON],
        AMQPValue::LongString(rejection.to_string().into())
    );
    consumer.release().await;
    assert_eq!(vhost.depth(REFILL).await, Some(0));
}

#[tokio::test]
async fn a_request_moves_to_another_refill_queue() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let (mut from, mut to) = (
        consume(&broker).await,
        broker
            .consume("other", Default::default(), 10)
            .await
            .unwrap(),
    );
    send(&broker, "b").await;
    let delivery = from.next(1).await.unwrap().remove(0);
    let acks = vec![delivery.tag];
    let forwards = vec![delivery.forward("other", None)];
    from.settle(acks, forwards).await.unwrap();
    let moved = to.next(1).await.unwrap().remove(0);
    assert_eq!(moved.request.unwrap().bucket, request("b").bucket);
    assert!(!moved.redelivered);
}

/// Properties that are not UTF-8, and others that the client library cannot be trusted with.
#[tokio::test]
async fn messages_that_cannot_be_read_are_parked_and_cost_no_connection() {
    let vhost = testbed().await.vhost().await;
    let link = Link::to(&vhost.amqp_url()).await;
    let sender = Connection::connect(&link.uri, Default::default())
        .await
        .unwrap();
    let sender = sender.create_channel().await.unwrap();
    link.corrupt();
    let broker = connect(&vhost).await;
    let mut consumer = consume(&broker).await;
    let named = |name: &str| BasicProperties::default().with_message_id(name.into());
    let mut nested = AMQPValue::Void;
    for _ in 0..100 {
        nested = AMQPValue::FieldArray(vec![nested].into());
    }
    let mut headers = FieldTable::default();
    headers.insert("n".into(), nested);
    let mut large = FieldTable::default();
    large.insert(
        "n".into(),
        AMQPValue::LongString("x".repeat(100_000).into()),
    );
    let messages = [
        (named("one"), 3),
        (named(MARK), 3),
        (named("two").with_headers(headers), 3),
        (named("three").with_headers(large), 3),
        (named("four"), 100_000),
        (named("five"), 3),
    ];
    let mut expected = Vec::new();
    for (number, (properties, size)) in messages.into_iter().enumerate() {
        let body = vec![b'x'; size];
        let options = Default::default();
        let sending = sender.basic_publish("".into(), REFILL.into(), options, &body, properties);
        sending.await.unwrap();
        // Three is large, and nothing else.
        expected.push([1, 2, 4].contains(&number));
    }
    let mut deliveries = Vec::new();
    while deliveries.len() < expected.len() {
        deliveries.extend(consumer.next(10).await.unwrap());
    }
    let is_unreadable =
        |delivery: &Delivery| matches!(delivery.request, Err(Rejection::Unreadable(_)));
    let unreadable: Vec<_> = deliveries.iter().map(is_unreadable).collect();
    assert_eq!(unreadable, expected);
    let acks = deliveries.iter().map(|delivery| delivery.tag).collect();
    let parked = |delivery: Delivery| {
        let reason = delivery.request.as_ref().unwrap_err().to_string();
        delivery.forward(PARKED, Some(&reason))
    };
    consumer
        .settle(acks, deliveries.into_iter().map(parked).collect())
        .await
        .unwrap();
    assert_eq!(vhost.depth(PARKED).await, Some(6));
    consumer.release().await;
    assert_eq!(vhost.depth(REFILL).await, Some(0));
}

/// A content header cannot be split into frames, and its reason is added to it when it is parked.
#[tokio::test]
async fn headers_of_any_size_are_parked_as_they_came() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut consumer = consume(&broker).await;
    let reader = vhost.channel().await;
    // Around the frames of the client library, and up to the largest header that the broker takes.
    let sizes = (7_600..8_300)
        .step_by(50)
        .chain([12_000, 60_000, 120_000, 130_700]);
    let task = "another.".repeat(25);
    for size in sizes {
        let mut headers = FieldTable::default();
        headers.insert("task".into(), AMQPValue::LongString(task.as_str().into()));
        headers.insert("n".into(), AMQPValue::LongString("x".repeat(size).into()));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_message_id("m".into());
        vhost
            .publish(REFILL, b"something", properties.clone())
            .await;
        let delivery = consumer.next(1).await.unwrap().remove(0);
        let rejection = delivery.request.clone().unwrap_err();
        assert_eq!(rejection.kind(), "OtherTask", "{size}");
        let acks = vec![delivery.tag];
        let forwards = vec![delivery.forward(PARKED, Some(&rejection.to_string()))];
        let settled = consumer.settle(acks, forwards).await;
        settled.unwrap_or_else(|error| panic!("{size} octets: {error}"));
        let kept = reader.basic_get(PARKED.into(), BasicGetOptions { no_ack: true });
        let kept = kept.await.unwrap().unwrap();
        assert_eq!(kept.data, b"something");
        let mut headers = properties.headers().clone().unwrap();
        let all = kept.properties.headers().clone().unwrap();
        let reason = &all.inner()[REJECTED_REASON];
        assert!(
            matches!(reason, AMQPValue::LongString(it) if it.to_string().starts_with("it is")),
            "{reason:?}"
        );
        headers.insert(REJECTED_REASON.into(), reason.clone());
        let expected = properties.with_headers(headers).with_delivery_mode(2);
        assert!(kept.properties == expected, "{size}");
    }
    consumer.release().await;
    assert_eq!(vhost.depth(REFILL).await, Some(0));
}

#[tokio::test]
async fn more_large_messages_than_are_kept_in_memory_are_all_parked() {
    const MESSAGES: u64 = 200;
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    consume(&broker).await.release().await;
    let mut headers = FieldTable::default();
    headers.insert(
        "n".into(),
        AMQPValue::LongString("x".repeat(120_000).into()),
    );
    let properties = BasicProperties::default().with_headers(headers);
    for _ in 0..MESSAGES {
        vhost
            .publish(REFILL, b"something", properties.clone())
            .await;
    }
    let mut consumer = broker
        .consume(REFILL, Default::default(), 2_000)
        .await
        .unwrap();
    let (mut waiting, mut rounds) = (Vec::new(), 0);
    while vhost.depth(PARKED).await != Some(MESSAGES) {
        waiting.extend(consumer.next(2_000).await.unwrap());
        if rounds == 0 && waiting.len() < 200 {
            continue;
        }
        rounds += 1;
        let acks = waiting.iter().map(|delivery: &Delivery| delivery.tag);
        let acks = acks.collect();
        let forward = |delivery: Delivery| delivery.forward(PARKED, Some("why"));
        let forwards = waiting.drain(..).map(forward).collect();
        consumer.settle(acks, forwards).await.unwrap();
    }
    assert!(rounds > 1, "all were in memory at one time");
    consumer.release().await;
    assert_eq!(vhost.depth(REFILL).await, Some(0));
}
