use lapin::BasicProperties;
use token_bucket_operator::amqp::BrokerError;
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::machine::Baton;

use super::link::Link;
use super::{
    BUCKET, KINDS, LEDGER, bucket, connect, connect_to, declare, delete, held, owed, refill, take,
    tokens, want,
};
use crate::support::testbed;

#[tokio::test]
async fn a_refill_of_25_000_tokens_takes_several_transactions() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 25_000).await;
        let mut channel = broker.transactions().await.unwrap();
        for (count, rest) in [(10_000, 15_000), (10_000, 5_000), (5_000, 0)] {
            let taken = take(&mut channel, kind, 0).await;
            let (tag, before) = held(&taken).unwrap();
            if before > 0 {
                assert_eq!(taken.tokens, 25_000 - before);
            }
            assert_eq!(channel.commit(refill(count, rest, tag)).await, Ok(vec![]));
            assert_eq!(broker.count(BUCKET).await, Ok(Some(25_000 - rest)));
        }
        channel.close().await;
        assert_eq!(owed(&broker, kind).await, 0);
        assert_eq!(vhost.depth(LEDGER).await, Some(1));
    }
}

#[tokio::test]
async fn nothing_of_a_transaction_remains_when_the_connection_breaks_before_its_end() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let observer = connect(&vhost).await;
    bucket(&observer, kind, 9_000).await;
    for bytes in [0, 1_000, 300_000] {
        let link = Link::to(&vhost.amqp_url()).await;
        let broker = connect_to(&link.uri).await;
        let mut channel = broker.transactions().await.unwrap();
        let (tag, _) = held(&take(&mut channel, kind, 0).await).unwrap();

        link.cut_after(bytes);
        let error = channel.commit(refill(9_000, 1, tag)).await.unwrap_err();
        assert!(error.is_connection_lost(), "{error}");
        assert!(broker.lost().await.is_connection_lost());

        assert_eq!(owed(&observer, kind).await, 0);
        assert_eq!(observer.count(BUCKET).await, Ok(Some(0)));
    }
}

#[tokio::test]
async fn what_is_taken_out_returns_unless_it_is_committed() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 700).await;
        let mut channel = broker.transactions().await.unwrap();
        let taken = take(&mut channel, kind, 5).await;
        assert_eq!((taken.tokens_out.len(), taken.tokens), (0, 0));
        let (tag, _) = held(&taken).unwrap();
        channel.commit(refill(700, 0, tag)).await.unwrap();

        let taken = take(&mut channel, kind, 600).await;
        assert_eq!((taken.tokens_out.len(), taken.tokens), (600, 100));
        channel.close().await;
        vhost.depth_becomes(BUCKET, 700).await;
        vhost.depth_becomes(LEDGER, 1).await;

        let mut channel = broker.transactions().await.unwrap();
        let mut taken = take(&mut channel, kind, 300).await;
        assert_eq!((taken.tokens_out.len(), taken.tokens), (300, 400));
        // Some of them go back after all.
        let nacks = taken.tokens_out.split_off(200);
        let (tag, _) = held(&taken).unwrap();
        let mut transaction = refill(0, 0, tag);
        transaction.acks.extend(taken.tokens_out);
        transaction.nacks = nacks;
        channel.commit(transaction).await.unwrap();
        vhost.depth_becomes(BUCKET, 500).await;
        let taken = take(&mut channel, kind, 999).await;
        assert_eq!((taken.tokens_out.len(), taken.tokens), (500, 0));
    }
}

#[tokio::test]
async fn no_token_is_taken_out_by_who_does_not_hold_the_ledger() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    bucket(&broker, kind, 9).await;
    declare(&broker, "none", kind, 9).await;
    let mut one = broker.transactions().await.unwrap();
    let (tag, _) = held(&take(&mut one, kind, 0).await).unwrap();
    let mut other = broker.transactions().await.unwrap();
    other.commit(tokens(9)).await.unwrap();

    let both = [want("b", kind, 5), want("none", kind, 5)];
    for taken in other.take(&both).await.unwrap() {
        assert_eq!((taken.baton, taken.tokens_out), (Baton::Absent, vec![]));
    }
    one.commit(refill(0, 0, tag)).await.unwrap();
    vhost
        .publish(LEDGER, b"{}", BasicProperties::default())
        .await;
    let taken = take(&mut other, kind, 5).await;
    assert!(matches!(taken.baton, Baton::Held { ledger: Err(_), .. }));
    assert_eq!((taken.tokens_out, taken.tokens), (vec![], 9));
}

#[tokio::test]
async fn a_missing_queue_is_named_and_nothing_is_held() {
    for kind in KINDS {
        let vhost = testbed().await.vhost().await;
        let broker = connect(&vhost).await;
        bucket(&broker, kind, 9).await;
        for tokens in [0, 1] {
            for missing in ["token_bucket_gone.ledger", "token_bucket_gone"] {
                let mut channel = broker.transactions().await.unwrap();
                let wanted = [
                    want("b", kind, tokens),
                    want("gone", kind, 0),
                    want("b", kind, 0),
                ];
                let error = channel.take(&wanted).await.unwrap_err();
                let queue = missing.to_owned();
                assert_eq!(error, BrokerError::NoQueue { queue });
                assert_eq!(owed(&broker, kind).await, 0);
                // Nothing more can be committed there.
                let error = channel.commit(super::tokens(3)).await.unwrap_err();
                assert_eq!(error.kind(), "ChannelClosed");
                channel.close().await;
                broker
                    .declare_ledger("token_bucket_gone.ledger", kind)
                    .await
                    .unwrap();
            }
            assert_eq!(broker.count(BUCKET).await, Ok(Some(0)));
            let always = token_bucket_operator::amqp::DeleteIf::Always;
            let ledger = "token_bucket_gone.ledger";
            broker.delete_queue(ledger, always).await.unwrap();
        }
        delete(&broker).await;
    }
}

/// The client library forgets what a channel has declared only with the channel.
#[tokio::test]
async fn a_channel_goes_on_after_thousands_of_counts() {
    let kind = QueueType::Classic;
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    bucket(&broker, kind, 100).await;
    let mut channel = broker.transactions().await.unwrap();
    let wanted: Vec<_> = (0..250).map(|_| want("b", kind, 0)).collect();
    for round in 0..40 {
        let taken = channel.take(&wanted).await.unwrap();
        assert_eq!(taken.len(), 250);
        assert!(taken[1..].iter().all(|taken| taken.baton == Baton::Absent));
        assert!(taken.iter().all(|taken| taken.tokens == round));
        let (tag, _) = held(&taken[0]).unwrap();
        channel.commit(refill(1, 0, tag)).await.unwrap();
    }
}
