use std::time::Duration;

use super::{REFILL_QUEUE, Scene};
use crate::support::{Network, SOON, condition, eventually};

#[tokio::test]
async fn connections_that_are_cut_lose_no_tick() {
    let scene = Scene::set().await;
    for pause in [130, 710, 390] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        scene.broker.cut();
    }
    scene.adds_up().await;
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_noticed_and_no_tick_is_lost() {
    let scene = Scene::set().await;
    scene.broker.set(Network::Frozen);
    let away = |status: &_| condition(status, "BrokerConnected") == "False";
    scene
        .buckets
        .until("x", "the broker to be missed", away)
        .await;
    scene.broker.set(Network::Good);
    scene.buckets.ready("x").await;
    scene.adds_up().await;
}

#[tokio::test]
async fn a_slow_broker_delays_refills_and_loses_none() {
    let scene = Scene::set().await;
    scene.broker.set(Network::Slow);
    let taken = scene.account.taken();
    eventually("tokens over a slow way", SOON, async || {
        match scene.account.taken() - taken {
            20.. => Ok(()),
            few => Err(format!("{few} tokens")),
        }
    })
    .await;
    scene.broker.set(Network::Good);
    scene.adds_up().await;
}

#[tokio::test]
async fn a_refill_queue_that_somebody_deletes_comes_back_and_no_tick_is_lost() {
    let scene = Scene::set().await;
    for pause in [30, 990, 510, 250] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let channel = scene.vhost.channel().await;
        let deleted = channel.queue_delete(REFILL_QUEUE.into(), Default::default());
        deleted.await.expect("anybody may delete it");
        eventually("the queue to be back", SOON, async || {
            match scene.vhost.depth(REFILL_QUEUE).await {
                Some(_) => Ok(()),
                None => Err(scene.operator.logs()),
            }
        })
        .await;
    }
    scene.adds_up().await;
}
