use std::time::Duration;

use lapin::BasicProperties;
use token_bucket_operator::amqp::{Broker, BrokerError, Leaving};
use token_bucket_operator::api::{DeletionPolicy, QueueType};
use token_bucket_operator::bucket::machine::{Baton, Transaction};
use token_bucket_operator::bucket::{Ledger, Owner, Parting};

use super::{BUCKET, KINDS, LEDGER, bucket, connect, declare, held, owed, refill, take};
use crate::support::{SOON, testbed};

/// How long a ledger is absent before it is lost.
const LOST: Option<Duration> = Some(Duration::from_millis(500));
const POLICIES: [DeletionPolicy; 2] = [DeletionPolicy::Delete, DeletionPolicy::Retain];

async fn leave(
    broker: &Broker,
    uid: &str,
    policy: DeletionPolicy,
    established: bool,
    hold_limit: Option<Duration>,
) -> Result<Option<Parting>, BrokerError> {
    let leaving = Leaving {
        name: "b",
        uid,
        policy,
        moves: false,
        established,
    };
    let removed = broker.remove_bucket(leaving, hold_limit).await;
    removed.map(|removed| removed.map(|(parting, _)| parting))
}

#[tokio::test]
async fn a_bucket_is_deleted_with_its_ledger() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        let remove = async || leave(&broker, "uid", DeletionPolicy::Delete, true, LOST).await;
        assert_eq!(remove().await, Ok(Some(Parting::Delete)), "not there");
        bucket(&broker, kind, 9).await;
        vhost.publish(BUCKET, b"", BasicProperties::default()).await;
        assert_eq!(remove().await, Ok(Some(Parting::Delete)));
        assert_eq!(vhost.queues().await.len(), 0);
        // One of the two, and no ledger, or none that can be read.
        broker.declare_bucket(BUCKET, kind, 9).await.unwrap();
        assert_eq!(remove().await, Ok(Some(Parting::Delete)));
        broker.declare_ledger(LEDGER, kind).await.unwrap();
        assert_eq!(remove().await, Ok(Some(Parting::Delete)));
        declare(&broker, "b", kind, 9).await;
        vhost
            .publish(LEDGER, b"?", BasicProperties::default())
            .await;
        assert_eq!(remove().await, Ok(Some(Parting::Delete)));
        assert_eq!(vhost.queues().await.len(), 0);
    }
}

#[tokio::test]
async fn a_bucket_that_stays_belongs_to_nobody() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        let retain = DeletionPolicy::Retain;
        let remove = async |uid| leave(&broker, uid, retain, true, LOST).await;
        assert_eq!(
            remove("uid").await,
            Ok(Some(Parting::Keep(None))),
            "not there"
        );
        assert_eq!(vhost.queues().await.len(), 0);
        bucket(&broker, kind, 9).await;
        for _ in 0..2 {
            let removed = remove("uid").await;
            assert!(matches!(removed, Ok(Some(Parting::Keep(_)))), "{removed:?}");
            let mut channel = broker.transactions().await.unwrap();
            let taken = take(&mut channel, kind, 0).await;
            let Baton::Held { tag, ledger, .. } = taken.baton else {
                panic!("it is there")
            };
            let ledger = ledger.unwrap();
            assert_eq!((ledger.owner, &*ledger.schedule), (None, "* * * * *"));
            let back = Transaction {
                nacks: vec![tag],
                ..Transaction::default()
            };
            channel.commit(back).await.unwrap();
        }
        // Whoever comes next may have it, and delete it.
        let policy = DeletionPolicy::Delete;
        let removed = leave(&broker, "another", policy, true, LOST).await;
        assert_eq!(removed, Ok(Some(Parting::Delete)));
        // One that cannot be read stays as it is.
        declare(&broker, "b", kind, 9).await;
        vhost
            .publish(LEDGER, b"?", BasicProperties::default())
            .await;
        assert_eq!(remove("uid").await, Ok(Some(Parting::Keep(None))));
        vhost.depth_becomes(LEDGER, 1).await;
    }
}

#[tokio::test]
async fn what_belongs_to_another_resource_stays_as_it_is() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 9).await;
        vhost.publish(BUCKET, b"", BasicProperties::default()).await;
        for policy in POLICIES {
            let removed = leave(&broker, "another", policy, true, LOST).await;
            assert_eq!(removed, Ok(Some(Parting::NotOurs)));
            assert_eq!(vhost.depth(BUCKET).await, Some(1));
            assert_eq!(owed(&broker, kind).await, 0);
        }
    }
}

#[tokio::test]
async fn what_another_resource_refills_at_that_moment_stays_as_well() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let (holder, broker) = (connect(&vhost).await, connect(&vhost).await);
    bucket(&broker, kind, 9).await;
    let mut channel = holder.transactions().await.unwrap();
    for policy in POLICIES {
        let (tag, _) = held(&take(&mut channel, kind, 0).await).unwrap();
        let refilling = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            channel.commit(refill(1, 0, tag)).await
        };
        let removing = leave(&broker, "another", policy, true, LOST);
        let (refilled, removed) = tokio::join!(refilling, removing);
        assert_eq!(refilled, Ok(vec![]));
        assert_eq!(removed, Ok(Some(Parting::NotOurs)));
    }
    assert_eq!(vhost.depth(BUCKET).await, Some(2));
}

#[tokio::test]
async fn what_somebody_holds_the_ledger_of_is_not_removed_before_it_comes_back_or_is_lost() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let (holder, broker) = (connect(&vhost).await, connect(&vhost).await);
    bucket(&broker, kind, 9).await;
    let mut channel = holder.transactions().await.unwrap();
    held(&take(&mut channel, kind, 0).await).unwrap();
    let policy = DeletionPolicy::Delete;
    let first_look = leave(&broker, "uid", policy, true, None).await;
    assert_eq!(first_look, Ok(None));
    let removing = leave(&broker, "uid", policy, true, Some(SOON));
    tokio::pin!(removing);
    let moment = Duration::from_secs(1);
    let waits = tokio::time::timeout(moment, &mut removing).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(channel);
    assert_eq!(removing.await, Ok(Some(Parting::Delete)));
    assert_eq!(vhost.queues().await.len(), 0);
}

#[tokio::test]
async fn what_nothing_says_to_be_its_own_stays_as_well() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        let remove = async || {
            let policy = DeletionPolicy::Delete;
            leave(&broker, "uid", policy, false, LOST).await
        };
        // Somebody's queue, as the Python library declares it.
        broker.declare_bucket(BUCKET, kind, 9).await.unwrap();
        vhost.publish(BUCKET, b"", BasicProperties::default()).await;
        assert_eq!(remove().await, Ok(Some(Parting::NotOurs)));
        declare(&broker, "b", kind, 9).await;
        vhost
            .publish(LEDGER, b"?", BasicProperties::default())
            .await;
        assert_eq!(remove().await, Ok(Some(Parting::NotOurs)));
        vhost.depth_becomes(LEDGER, 1).await;
        assert_eq!(vhost.depth(BUCKET).await, Some(1));
    }
}

#[tokio::test]
async fn what_was_taken_over_from_an_older_resource_is_handed_back() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 9).await;
        vhost.publish(BUCKET, b"", BasicProperties::default()).await;
        let mut channel = broker.transactions().await.unwrap();
        let mut rewrite = async |change: &dyn Fn(&mut Ledger)| {
            let Baton::Held { tag, ledger } = take(&mut channel, kind, 0).await.baton else {
                panic!("it is there")
            };
            let mut ledger = ledger.unwrap();
            let before = ledger.clone();
            change(&mut ledger);
            let written = Transaction {
                ledgers: vec![("b".into(), ledger)],
                acks: vec![tag],
                ..Transaction::default()
            };
            channel.commit(written).await.unwrap();
            before
        };
        let older = |ledger: &mut Ledger| {
            let owner = ledger.owner.clone().unwrap();
            // Of the same second: the smaller UID is the older one.
            let uid = "older".into();
            ledger.rival = Some(Box::new(Owner { uid, ..*owner }));
        };
        rewrite(&older).await;
        let policy = DeletionPolicy::Delete;
        let removed = leave(&broker, "uid", policy, true, LOST).await;
        assert!(
            matches!(removed, Ok(Some(Parting::HandBack(_)))),
            "{removed:?}"
        );
        assert_eq!(vhost.depth(BUCKET).await, Some(1));
        let left = rewrite(&|_| {}).await;
        let uid = |owner: Option<Box<Owner>>| owner.map(|owner| owner.uid);
        let uids = (uid(left.owner), uid(left.rival));
        assert_eq!(uids, (Some("older".into()), Some("uid".into())));
        let removed = leave(&broker, "older", policy, true, LOST).await;
        assert_eq!(removed, Ok(Some(Parting::Delete)));
    }
}
