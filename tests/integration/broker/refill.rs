use std::time::Duration;

use lapin::BasicProperties;
use token_bucket_operator::amqp::{Broker, BrokerError, Endpoint, LedgerRead, Transaction};
use token_bucket_operator::api::QueueType;

use super::link::Link;
use super::{KINDS, REFILL, connect, consume, ledger, send};
use crate::support::{Vhost, eventually, testbed};

fn tokens(count: u64) -> Transaction {
    Transaction {
        tokens: vec![("b".to_owned(), count)],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_refill_of_25_000_tokens_takes_several_transactions_and_one_acknowledgement() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        broker.declare_bucket("b", kind, 25_000).await.unwrap();
        broker.declare_ledger("l", kind).await.unwrap();
        let mut channel = consume(&broker).await;
        send(&broker, "b").await;
        let delivery = channel.next(10).await.unwrap().remove(0);
        assert_eq!(
            delivery
                .request
                .as_ref()
                .map(|request| request.bucket.as_str()),
            Ok("b")
        );
        for (count, owed) in [(10_000, 15_000), (10_000, 5_000), (5_000, 0)] {
            let acks = if owed == 0 {
                vec![delivery.tag]
            } else {
                vec![]
            };
            let ledgers = vec![("l".to_owned(), ledger(owed))];
            channel
                .commit(Transaction {
                    ledgers,
                    acks,
                    ..tokens(count)
                })
                .await
                .unwrap();
            assert_eq!(broker.count("b").await, Ok(Some(25_000 - owed)));
            let read = broker.read_ledger("l", kind).await.unwrap();
            assert!(matches!(read, LedgerRead::Ledger { ledger: it, .. } if it == ledger(owed)));
        }
        channel.release().await;
        assert_eq!(vhost.depth(REFILL).await, Some(0));
    }
}

#[tokio::test]
async fn nothing_of_a_transaction_remains_when_the_connection_breaks_before_its_end() {
    let vhost = testbed().await.vhost().await;
    let observer = connect(&vhost).await;
    observer
        .declare_bucket("b", QueueType::Classic, 9_000)
        .await
        .unwrap();
    observer
        .declare_ledger("l", QueueType::Classic)
        .await
        .unwrap();
    for bytes in [0, 1_000, 300_000] {
        let link = Link::to(&vhost.amqp_url()).await;
        let broker = Broker::connect(&Endpoint::parse(&link.uri).unwrap(), "test")
            .await
            .unwrap()
            .into();
        let mut channel = consume(&broker).await;
        send(&observer, "b").await;
        let delivery = channel.next(1).await.unwrap().remove(0);

        link.cut_after(bytes);
        let ledgers = vec![("l".to_owned(), ledger(1))];
        let transaction = Transaction {
            acks: vec![delivery.tag],
            ledgers,
            ..tokens(9_000)
        };
        assert!(transaction.len() > 9_000);
        let error = channel.commit(transaction).await.unwrap_err();
        assert!(error.is_connection_lost(), "{error}");
        assert!(broker.lost().await.is_connection_lost());

        assert_eq!(observer.count("b").await, Ok(Some(0)));
        assert_eq!(
            observer.read_ledger("l", QueueType::Classic).await,
            Ok(LedgerRead::None)
        );
        let mut next = takes_over(&observer, QueueType::Classic).await;
        let delivery = next.next(1).await.unwrap().remove(0);
        assert!(delivery.redelivered);
        let acks = vec![delivery.tag];
        next.commit(Transaction {
            acks,
            ..Default::default()
        })
        .await
        .unwrap();
        next.release().await;
    }
}

/// What goes back to a quorum queue is there after a moment.
async fn holds(vhost: &Vhost<'_>, tokens: u64) {
    eventually(
        "the tokens",
        Duration::from_secs(10),
        async || match vhost.depth("b").await {
            Some(depth) if depth == tokens => Ok(()),
            depth => Err(format!("{depth:?}")),
        },
    )
    .await
}

/// The broker notices after a moment that the holder is gone.
async fn takes_over(
    broker: &std::sync::Arc<Broker>,
    kind: QueueType,
) -> token_bucket_operator::amqp::RefillChannel {
    eventually(
        "the refill queue to be free",
        Duration::from_secs(10),
        async || {
            broker
                .consume_requests(REFILL, kind, 100)
                .await
                .map_err(|error| error.to_string())
        },
    )
    .await
}

#[tokio::test]
async fn a_refill_queue_has_one_consumer() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let (one, other) = (connect(&vhost).await, connect(&vhost).await);
        let channel = one.consume_requests(REFILL, kind, 10).await.unwrap();
        for broker in [&one, &other] {
            let error = broker.consume_requests(REFILL, kind, 10).await.unwrap_err();
            assert_eq!(
                error,
                BrokerError::InUse {
                    queue: REFILL.into()
                }
            );
            assert!(error.needs_person() && !error.is_connection_lost());
        }
        // A request that was delivered and not acknowledged goes to the next one.
        send(&one, "b").await;
        let mut channel = channel;
        assert!(!channel.next(1).await.unwrap()[0].redelivered);
        channel.release().await;
        let mut channel = takes_over(&other, kind).await;
        assert!(channel.next(1).await.unwrap()[0].redelivered);
        // Gone without a word, as after SIGKILL.
        drop((channel, other));
        let mut channel = takes_over(&one, kind).await;
        assert!(channel.next(1).await.unwrap()[0].redelivered);
    }
}

#[tokio::test]
async fn a_refill_queue_of_another_kind_is_refused_and_nothing_is_left_behind() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    broker
        .declare_bucket(REFILL, QueueType::Classic, 5)
        .await
        .unwrap();
    let error = broker
        .consume_requests(REFILL, QueueType::Classic, 10)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), "QueueArgumentsDiffer");
    assert!(error.needs_person());
    assert_eq!(vhost.queues().await, [REFILL]);
}

#[tokio::test]
async fn waiting_for_requests_can_be_given_up_at_any_time() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut channel = broker
        .consume_requests(REFILL, QueueType::Classic, 1_000)
        .await
        .unwrap();
    assert!(channel.ready(9).unwrap().is_empty());
    let publisher = broker.publisher().await.unwrap();
    let requests: Vec<_> = (0..500)
        .map(|n| (REFILL.to_owned(), super::request(&n.to_string())))
        .collect();
    let mut names = Vec::new();
    let receive = async {
        while names.len() < 500 {
            // Dropped again and again, sometimes while a delivery is coming in.
            if let Ok(deliveries) =
                tokio::time::timeout(Duration::from_micros(50), channel.next(7)).await
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
    let mut channel = consume(&broker).await;
    let deleter = vhost.channel().await;
    deleter
        .queue_delete(REFILL.into(), Default::default())
        .await
        .unwrap();
    assert_eq!(
        channel.next(1).await.unwrap_err(),
        BrokerError::NoQueue {
            queue: REFILL.into()
        }
    );
}

#[tokio::test]
async fn what_is_taken_out_returns_unless_it_is_committed() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        broker.declare_bucket("b", kind, 700).await.unwrap();
        let mut channel = consume(&broker).await;
        assert_eq!(channel.take_out("b", 5).await, Ok(vec![]));
        channel.commit(tokens(700)).await.unwrap();

        assert_eq!(channel.take_out("b", 600).await.unwrap().len(), 600);
        assert_eq!(broker.count("b").await, Ok(Some(100)));
        channel.release().await;
        holds(&vhost, 700).await;

        let mut channel = consume(&broker).await;
        let acks = channel.take_out("b", 300).await.unwrap();
        assert_eq!(acks.len(), 300);
        channel
            .commit(Transaction {
                acks,
                ..Default::default()
            })
            .await
            .unwrap();
        assert_eq!(channel.take_out("b", 999).await.unwrap().len(), 400);
        channel.release().await;
        holds(&vhost, 400).await;
    }
}

#[tokio::test]
async fn a_lost_channel_commits_nothing_more() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    broker
        .declare_bucket("b", QueueType::Classic, 9)
        .await
        .unwrap();
    let mut channel = consume(&broker).await;
    // A queue that is not there closes the channel, and with it the consumer.
    assert_eq!(
        channel.take_out("nowhere", 1).await,
        Err(BrokerError::NoQueue {
            queue: "nowhere".into()
        })
    );
    assert_eq!(
        channel.commit(tokens(1)).await.unwrap_err().kind(),
        "ChannelClosed"
    );
    assert_eq!(channel.next(1).await.unwrap_err().kind(), "ChannelClosed");
    assert_eq!(broker.count("b").await, Ok(Some(0)));
    vhost.publish("b", b"", BasicProperties::default()).await;
    assert_eq!(vhost.take("b", 9).await, 1);
}
