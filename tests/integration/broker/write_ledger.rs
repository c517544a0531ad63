use std::time::Duration;

use futures::{StreamExt, stream};
use lapin::options::QueueDeclareOptions;
use token_bucket_operator::amqp::{Broker, BrokerError, DeleteIf};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::machine::{Absence, Class};

use super::{BUCKET, KINDS, LEDGER, connect, held, ledger, owed, take, write};
use crate::support::{SOON, eventually, testbed};

const LOCK: &str = "token_bucket_b.ledger.lock";

/// Tries until nobody else is at it.
async fn write_first(broker: &Broker, name: &str, kind: QueueType, owed: u64) -> bool {
    write_where(Absence::NoQueue, broker, name, kind, owed).await
}

async fn write_where(
    absence: Absence,
    broker: &Broker,
    name: &str,
    kind: QueueType,
    owed: u64,
) -> bool {
    loop {
        match broker
            .write_ledger(name, kind, &ledger(owed), absence)
            .await
        {
            Err(error) if error.failure().class == Class::InUse => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            written => return written.unwrap(),
        }
    }
}

/// The client library can use the number of a channel no more that the broker has closed, and a connection has 2,047.
#[tokio::test]
async fn first_ledgers_cost_the_connection_nothing() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let names: Vec<_> = (0..1_600).map(|number| format!("b{number}")).collect();
    let kind = QueueType::Classic;
    let first = Absence::NoQueues;
    stream::iter(&names)
        .map(async |name| write_where(first, &broker, name, kind, 0).await)
        .buffer_unordered(16)
        .for_each(async |written| assert!(written))
        .await;
}

#[tokio::test]
async fn of_those_who_write_a_first_ledger_at_once_the_ledger_of_one_remains() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let (one, other) = (connect(&vhost).await, connect(&vhost).await);
        for round in 0..20 {
            let name = format!("b{round}");
            // The first two share a connection.
            let absence = [Absence::NoQueue, Absence::NoQueues][round % 2];
            let written = tokio::join!(
                write_where(absence, &one, &name, kind, 1),
                write_where(absence, &one, &name, kind, 2),
                write_where(absence, &other, &name, kind, 3),
            );
            let written = [written.0, written.1, written.2];
            assert!(written.contains(&true), "{kind:?} {round}: {written:?}");
            let mut channel = one.transactions().await.unwrap();
            one.declare_bucket(&format!("token_bucket_{name}"), kind, 1)
                .await
                .unwrap();
            let wanted = [super::want(&name, kind, 0)];
            let taken = channel.take(&wanted).await.unwrap().remove(0);
            let (_, owed) = held(&taken).expect("it is there when they are done");
            assert!(written[owed as usize - 1], "{owed} of {written:?}");
        }
    }
}

#[tokio::test]
async fn a_ledger_that_is_there_stays_and_no_lock_remains() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        broker.declare_bucket(super::BUCKET, kind, 9).await.unwrap();
        assert!(write_first(&broker, "b", kind, 1).await);
        for _ in 0..3 {
            assert!(!write_first(&broker, "b", kind, 2).await);
            assert_eq!(write(&broker, "b", kind, 2).await, Ok(false));
            assert_eq!(owed(&broker, kind).await, 1);
            assert_eq!(vhost.depth(LOCK).await, None);
        }
    }
}

/// Whoever found neither queue, and is slow: somebody else has refilled the bucket meanwhile, and the ledger is lost.
#[tokio::test]
async fn a_first_ledger_is_not_written_for_a_bucket_that_is_there_by_then() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        assert!(write_where(Absence::NoQueues, &broker, "b", kind, 1).await);
        assert_eq!(vhost.queues().await, [LEDGER]);
        broker.declare_bucket(BUCKET, kind, 9).await.unwrap();
        broker.delete_queue(LEDGER, DeleteIf::Always).await.unwrap();
        assert!(!write_where(Absence::NoQueues, &broker, "b", kind, 2).await);
        assert_eq!(vhost.queues().await, [BUCKET]);
        assert!(write_first(&broker, "b", kind, 3).await);
        assert_eq!(owed(&broker, kind).await, 3);
    }
}

#[tokio::test]
async fn somebody_elses_lock_keeps_from_writing_as_long_as_its_connection_lives() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let options = QueueDeclareOptions::exclusive();
    let channel = vhost.channel().await;
    channel
        .queue_declare(LOCK.into(), options, Default::default())
        .await
        .unwrap();
    for _ in 0..3 {
        let error = write(&broker, "b", kind, 1).await.unwrap_err();
        let queue = LOCK.to_owned();
        assert_eq!(error, BrokerError::InUse { queue });
        assert_eq!(broker.count(LEDGER).await, Ok(None));
    }
    vhost.close_all_connections().await;
    let broker = connect(&vhost).await;
    assert_eq!(write(&broker, "b", kind, 1).await, Ok(true));
}

#[tokio::test]
async fn a_ledgers_queue_of_another_kind_is_told_and_no_lock_remains() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let kind = QueueType::Classic;
    broker.declare_bucket(LEDGER, kind, 5).await.unwrap();
    let error = write(&broker, "b", kind, 1).await.unwrap_err();
    assert_eq!(error.kind(), "QueueArgumentsDiffer");
    assert!(error.to_string().contains(LEDGER), "{error}");
    assert_eq!(vhost.queues().await, [LEDGER]);
    assert_eq!(vhost.depth(LEDGER).await, Some(0));
}

#[tokio::test]
async fn a_ledger_that_is_held_is_seen_as_soon_as_another_takes_its_place() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let (holder, other) = (connect(&vhost).await, connect(&vhost).await);
        super::bucket(&other, kind, 9).await;
        let mut channel = holder.transactions().await.unwrap();
        let (tag, _) = held(&take(&mut channel, kind, 0).await).unwrap();
        assert!(!write_first(&other, "b", kind, 9).await);
        let nine = ledger(9);
        let writing = other.write_ledger("b", kind, &nine, Absence::Unseen(SOON));
        let committing = async {
            eventually("the ledger to be waited for", SOON, async || {
                let queue = vhost.queue(LEDGER).await.ok_or("no queue")?;
                match queue["consumer_details"].as_array().map(Vec::len) {
                    Some(1) => Ok(()),
                    consumers => Err(format!("{consumers:?}")),
                }
            })
            .await;
            channel.commit(super::refill(1, 4, tag)).await
        };
        let (written, committed) = tokio::join!(writing, committing);
        assert_eq!((written, committed), (Ok(false), Ok(vec![])));
        assert_eq!(owed(&other, kind).await, 4);
        vhost.depth_becomes(LEDGER, 1).await;
    }
}

#[tokio::test]
async fn a_ledger_that_is_lost_is_written_when_nobody_has_come_with_it() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        super::declare(&broker, "b", kind, 9).await;
        assert!(!write_first(&broker, "b", kind, 1).await);
        assert_eq!(write(&broker, "b", kind, 2).await, Ok(true));
        assert_eq!(owed(&broker, kind).await, 2);
    }
}

#[tokio::test]
async fn an_alarm_that_lasts_longer_than_a_ledger_is_held_makes_no_second_one() {
    let kind = QueueType::Classic;
    let shared = testbed().await;
    let testbed = shared.with_own_broker();
    let vhost = testbed.vhost().await;
    let (holder, other) = (connect(&vhost).await, connect(&vhost).await);
    super::bucket(&holder, kind, 9).await;
    let mut channel = holder.transactions().await.unwrap();
    let (tag, _) = held(&take(&mut channel, kind, 0).await).unwrap();
    let watermark = "set_vm_memory_high_watermark";
    testbed.rabbitmqctl(&[watermark, "0"]).await;

    let committing = channel.commit(super::refill(3, 7, tag));
    let nine = ledger(9);
    let absence = Absence::Unseen(Duration::from_millis(500));
    let writing = other.write_ledger("b", kind, &nine, absence);
    let ending = async {
        // Who has published nothing is not told of it; the one that waits is, when its time is over.
        eventually("the alarm", Duration::from_secs(30), async || {
            let told = holder.blocked() && other.blocked();
            told.then_some(()).ok_or_else(|| "no alarm".to_owned())
        })
        .await;
        testbed.rabbitmqctl(&[watermark, "0.4"]).await;
    };
    let (committed, written, ()) = tokio::join!(committing, writing, ending);
    assert_eq!((committed, written), (Ok(vec![]), Ok(false)));
    assert_eq!(owed(&other, kind).await, 7);
    assert_eq!(vhost.depth(BUCKET).await, Some(3));
}
