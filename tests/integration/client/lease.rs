//! Lease mode: many tokens in hand, none lost.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{QUEUE, add, bucket, client, declare};
use crate::support::testbed;

#[tokio::test]
async fn a_lease_gives_out_each_token_once() {
    let vhost = bucket(200).await;
    let leases = [client(&vhost).await, client(&vhost).await]
        .map(|client| client.bucket("x").unwrap().with_prefetch(20));
    let mut takers = JoinSet::new();
    for number in 0..16 {
        let lease = leases[number % 2].clone();
        takers.spawn(async move {
            let mut taken = 0;
            let patience = Duration::from_millis(1_500);
            while lease.acquire_timeout(patience).await.is_ok() {
                taken += 1;
            }
            taken
        });
    }
    let taken: u32 = takers.join_all().await.into_iter().sum();
    assert_eq!(taken, 200);
    assert_eq!(vhost.depth(QUEUE).await, Some(0));
}

#[tokio::test]
async fn what_nobody_asks_for_comes_back() {
    for is_quorum in [false, true] {
        let vhost = testbed().await.vhost().await;
        declare(&vhost, QUEUE, 100, is_quorum).await;
        add(&vhost, QUEUE, 30).await;
        // Again and again: a quorum queue drops what is given back too often.
        for taken in 1..=3 {
            let client = client(&vhost).await;
            let lease = client.bucket("x").unwrap().with_prefetch(10);
            drop(lease.acquire().await.unwrap());
            vhost.consumers_become(QUEUE, 1).await;
            if taken == 1 {
                // By itself, after a while.
                vhost.consumers_become(QUEUE, 0).await;
            }
            client.close().await;
            vhost.depth_becomes(QUEUE, 30 - taken).await;
        }
    }
}

#[tokio::test]
async fn a_lease_of_a_client_that_dies_comes_back() {
    let vhost = bucket(30).await;
    let client = client(&vhost).await;
    let lease = client.bucket("x").unwrap().with_prefetch(10);
    drop(lease.acquire().await.unwrap());
    vhost.depth_becomes(QUEUE, 19).await;
    vhost.close_all_connections().await;
    vhost.depth_becomes(QUEUE, 29).await;
    // The client goes on.
    drop(lease.acquire().await.unwrap());
}

#[tokio::test]
async fn who_does_not_wait_gets_what_is_in_hand_or_in_the_queue() {
    let vhost = bucket(12).await;
    let client = client(&vhost).await;
    let lease = client.bucket("x").unwrap().with_prefetch(5);
    let mut taken = 0;
    while lease.try_acquire().await.unwrap().is_some() {
        taken += 1;
    }
    // What the broker has sent and has not come yet is in neither; it is there the next time.
    while lease.acquire_timeout(Duration::from_secs(1)).await.is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 12);
}

#[tokio::test]
async fn a_queue_that_is_deleted_leaves_its_lease_to_the_client() {
    let vhost = bucket(10).await;
    let client = client(&vhost).await;
    let lease = client.bucket("x").unwrap().with_prefetch(10);
    drop(lease.acquire().await.unwrap());
    vhost.depth_becomes(QUEUE, 0).await;
    let channel = vhost.channel().await;
    // As the operator replaces a queue: what is in it is counted, and what clients hold is not.
    let delete = channel.queue_delete(QUEUE.into(), Default::default());
    delete.await.unwrap();
    declare(&vhost, QUEUE, 20, false).await;
    for _ in 0..9 {
        drop(lease.acquire_timeout(Duration::from_secs(5)).await.unwrap());
    }
    assert!(lease.acquire_timeout(Duration::from_secs(1)).await.is_err());
}
