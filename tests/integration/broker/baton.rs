//! Who holds the ledger of a bucket is the only one who refills it.

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use serde_json::json;
use token_bucket_operator::amqp::{Broker, DeleteIf};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::machine::{Baton, Transaction};

use super::{
    BUCKET, KINDS, LEDGER, bucket, connect, delete, held, ledger, owed, refill, take, tokens, want,
};
use crate::support::{eventually, testbed};

#[tokio::test]
async fn a_held_ledger_is_absent_for_others_and_returns_when_the_connection_of_its_holder_is_cut() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let (holder, other) = (connect(&vhost).await, connect(&vhost).await);
        bucket(&other, kind, 9).await;
        let mut channel = holder.transactions().await.unwrap();
        let taken = take(&mut channel, kind, 0).await;
        assert_eq!(held(&taken).map(|(_, owed)| owed), Some(0));
        let mut rival = other.transactions().await.unwrap();
        for _ in 0..3 {
            assert_eq!(take(&mut rival, kind, 0).await.baton, Baton::Absent);
        }
        // Gone without a word, as after SIGKILL.
        drop((channel, holder));
        assert_eq!(owed(&other, kind).await, 0);
    }
}

#[tokio::test]
async fn a_new_ledger_stays_when_the_old_one_returns() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let (holder, other) = (connect(&vhost).await, connect(&vhost).await);
        bucket(&other, kind, 9).await;
        let mut channel = holder.transactions().await.unwrap();
        assert!(held(&take(&mut channel, kind, 0).await).is_some());
        let ledgers = vec![("b".into(), Box::new(ledger(7)))];
        let write = Transaction {
            ledgers,
            ..Transaction::default()
        };
        channel.commit(write).await.unwrap();
        drop((channel, holder));
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(owed(&other, kind).await, 7, "{kind:?}");
        }
        vhost.depth_becomes(LEDGER, 1).await;
    }
}

#[tokio::test]
async fn a_ledger_that_is_given_back_is_there_once_that_is_committed() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 9).await;
        let (mut one, mut other) = (
            broker.transactions().await.unwrap(),
            broker.transactions().await.unwrap(),
        );
        for round in 0..5 {
            let taken = take(&mut one, kind, 0).await;
            let (tag, _) = held(&taken).unwrap();
            assert_eq!(take(&mut other, kind, 0).await.baton, Baton::Absent);
            let back = Transaction {
                nacks: vec![tag],
                ..tokens(1)
            };
            assert_eq!(one.commit(back).await, Ok(vec![]));
            let taken = take(&mut other, kind, 0).await;
            let (tag, _) = held(&taken).expect("it is there at once");
            assert_eq!(taken.tokens, round + 1);
            let nacks = vec![tag];
            let back = Transaction {
                nacks,
                ..Transaction::default()
            };
            other.commit(back).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_ledger_whose_queue_is_deleted_while_it_is_held_comes_back_and_the_rest_is_done() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 9).await;
        super::declare(&broker, "c", kind, 9).await;
        super::write(&broker, "c", kind, 1).await.unwrap();
        let mut channel = broker.transactions().await.unwrap();
        let wanted = [want("b", kind, 0), want("c", kind, 0)];
        let taken = channel.take(&wanted).await.unwrap();
        let tags: Vec<_> = taken.iter().map(|taken| held(taken).unwrap().0).collect();
        broker.delete_queue(LEDGER, DeleteIf::Always).await.unwrap();
        let transaction = Transaction {
            tokens: vec![("b".into(), 3), ("c".into(), 4)],
            ledgers: ["b", "c"]
                .map(|name| (name.into(), Box::new(ledger(5))))
                .into(),
            acks: tags,
            nacks: vec![],
        };
        assert_eq!(channel.commit(transaction).await, Ok(vec!["b".into()]));
        assert_eq!(vhost.depth(BUCKET).await, Some(3));
        assert_eq!(vhost.depth("token_bucket_c").await, Some(4));
        // The channel goes on, and what came back is told once.
        let taken = channel.take(&[want("c", kind, 0)]).await.unwrap().remove(0);
        let (tag, owed) = held(&taken).unwrap();
        assert_eq!(owed, 5);
        let back = Transaction {
            nacks: vec![tag],
            ..Transaction::default()
        };
        assert_eq!(channel.commit(back).await, Ok(vec![]));
        assert_eq!(super::write(&broker, "b", kind, 5).await, Ok(true));
        delete(&broker).await;
    }
}

/// The ledger says here how many tokens there are: whoever holds it has to find exactly these. A classic queue answers a
/// count ahead of the messages that it has not taken in yet, hence so many of them.
#[tokio::test]
async fn a_count_in_the_flight_of_its_get_misses_nothing_that_a_rival_added() {
    const STEP: u64 = 100;
    async fn rival(broker: Arc<Broker>, kind: QueueType) -> u64 {
        let mut channel = broker.transactions().await.unwrap();
        let mut refills = 0;
        while refills < 50 {
            let taken = take(&mut channel, kind, 0).await;
            if let Some((tag, owed)) = held(&taken) {
                assert_eq!(taken.tokens, owed, "{kind:?}");
                let transaction = refill(STEP, owed + STEP, tag);
                channel.commit(transaction).await.unwrap();
                refills += 1;
            }
        }
        refills
    }
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 1_000_000).await;
        let mut rivals = tokio::task::JoinSet::new();
        for _ in 0..3 {
            rivals.spawn(rival(connect(&vhost).await, kind));
        }
        // On the connection of another one, too.
        rivals.spawn(rival(Arc::clone(&broker), kind));
        rivals.spawn(rival(Arc::clone(&broker), kind));
        assert_eq!(rivals.join_all().await, [50; 5]);
        assert_eq!(vhost.depth(BUCKET).await, Some(5 * 50 * STEP));
        assert_eq!(owed(&broker, kind).await, 5 * 50 * STEP);
    }
}

#[tokio::test]
async fn what_is_no_ledger_is_told_and_kept() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    super::declare(&broker, "b", kind, 9).await;
    let mut newer = serde_json::to_value(ledger(0)).unwrap();
    newer["version"] = json!(1_000);
    let mut channel = broker.transactions().await.unwrap();
    for (body, reason) in [
        (b"\xff\x00".to_vec(), "not a ledger"),
        (b"{}".to_vec(), "not a ledger"),
        (br#"{"version": 1}"#.to_vec(), "damaged"),
        (br#"{"version": 1000}"#.to_vec(), "format version 1000"),
        (newer.to_string().into_bytes(), "format version 1000"),
    ] {
        vhost
            .publish(LEDGER, &body, BasicProperties::default())
            .await;
        let Baton::Held { tag, ledger, .. } = take(&mut channel, kind, 0).await.baton else {
            panic!("it is there")
        };
        let text = ledger.unwrap_err();
        assert!(text.contains(reason), "{text}");
        let back = Transaction {
            nacks: vec![tag],
            ..Transaction::default()
        };
        channel.commit(back).await.unwrap();
        assert_eq!(vhost.depth(LEDGER).await, Some(1));
    }
}

#[tokio::test]
async fn a_ledger_is_on_disk_with_the_rest() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 9).await;
        let mut channel = broker.transactions().await.unwrap();
        let (tag, _) = held(&take(&mut channel, kind, 0).await).unwrap();
        channel.commit(refill(2, 2, tag)).await.unwrap();
        let reader = vhost.channel().await;
        for queue in [BUCKET, LEDGER] {
            let what = "the message";
            let message = eventually(what, Duration::from_secs(5), async || {
                let got = reader.basic_get(queue.into(), Default::default()).await;
                got.unwrap().ok_or_else(|| "none".to_owned())
            });
            let properties = message.await.delivery.properties;
            assert_eq!(properties.delivery_mode(), &Some(2), "{queue}");
            let json = (queue == LEDGER).then_some("application/json");
            let kind = properties.content_type().as_ref();
            assert_eq!(kind.map(|kind| kind.as_str()), json);
        }
    }
}
