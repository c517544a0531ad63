use std::time::Duration;

use lapin::options::BasicGetOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection};
use token_bucket_operator::amqp::{BrokerError, REJECTED_REASON};
use token_bucket_operator::bucket::Rejection;

use super::link::{Link, MARK};
use super::{REFILL, connect, consume, request, send};
use crate::support::{eventually, testbed};

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

/// Each of them ends the connection of whoever receives it.
#[tokio::test]
async fn messages_that_cannot_be_parsed_do_not_block_a_refill_queue() {
    let vhost = testbed().await.vhost().await;
    let link = Link::to(&vhost.amqp_url()).await;
    let sender = Connection::connect(&link.uri, Default::default())
        .await
        .unwrap();
    let sender = sender.create_channel().await.unwrap();
    link.corrupt();
    let mut broker = connect(&vhost).await;
    broker
        .consume(REFILL, Default::default(), 10)
        .await
        .unwrap()
        .release()
        .await;
    for name in ["one", MARK, "two", "three", MARK] {
        let properties = BasicProperties::default().with_message_id(name.into());
        sender
            .basic_publish(
                "".into(),
                REFILL.into(),
                Default::default(),
                name.as_bytes(),
                properties,
            )
            .await
            .unwrap();
    }
    eventually(
        "the messages",
        Duration::from_secs(10),
        async || match vhost.depth(REFILL).await {
            Some(5) => Ok(()),
            depth => Err(format!("{depth:?}")),
        },
    )
    .await;

    for _ in 0..2 {
        let error = match broker.consume(REFILL, Default::default(), 10).await {
            Err(error) => error,
            Ok(mut consumer) => loop {
                if let Err(error) = consumer.next(1).await {
                    break error;
                }
            },
        };
        assert_eq!(error, BrokerError::UnreadableMessage);
        assert!(error.is_connection_lost());
        broker.close().await;
        broker = connect(&vhost).await;
    }
    let mut consumer = consume(&broker).await;
    let mut left = Vec::new();
    while left.len() < 3 {
        left.extend(consumer.next(1).await.unwrap());
    }
    consumer.release().await;
    assert_eq!(vhost.depth(REFILL).await, Some(3));
}
