//! Brokers that allow few channels: the operator makes do with them.

use futures::future::join_all;
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::engine::{ConnectionState, Outcome, Removal};

use crate::support::{RARELY, Running, SOON, Vhost, asked, bucket, eventually, removal, testbed};

/// More buckets than channels.
const MANY: usize = 30;

/// Buckets are created, refilled and given more room, and they leave, half of them with what they have.
async fn buckets_live(vhost: &Vhost<'_>, running: &mut Running) {
    let buckets: Vec<_> = (0..MANY)
        .map(|number| bucket(&format!("b{number}"), RARELY, 3, 5))
        .collect();
    let all_are = async |running: &mut Running, revision, edit: &dyn Fn(&Bucket) -> Bucket| {
        for bucket in &buckets {
            running.engine.apply(edit(bucket), revision);
        }
        running.ready(MANY, revision).await;
    };
    let hold = async |tokens| {
        for bucket in &buckets {
            vhost.depth_becomes(&bucket.queue(), tokens).await;
        }
    };
    all_are(running, 1, &Bucket::clone).await;
    all_are(running, 2, &|bucket| asked(bucket, "now")).await;
    hold(3).await;
    let more = |bucket: &Bucket| Bucket {
        maximum: 9,
        ..asked(bucket, "now")
    };
    all_are(running, 3, &more).await;
    let again = |bucket: &Bucket| Bucket {
        maximum: 9,
        ..asked(bucket, "again")
    };
    all_are(running, 4, &again).await;
    hold(6).await;
    // Ticks, many at one time.
    let each_second = |it: &Bucket| Bucket {
        maximum: 9,
        timetable: bucket("x", "* * * * * *", 1, 1).timetable,
        ..asked(it, "again")
    };
    all_are(running, 5, &each_second).await;
    hold(9).await;
    let removals = buckets.iter().enumerate().map(|(number, bucket)| Removal {
        moves: number % 2 == 0,
        ..removal(bucket)
    });
    let engine = &running.engine;
    // As the controller does: on a busy machine one connection may get a channel less than another.
    join_all(removals.map(async |removal| {
        eventually("the removal", SOON, async || {
            let removed = engine.remove(removal.clone()).await;
            removed.map_err(|error| error.to_string())
        })
        .await;
    }))
    .await;
    assert_eq!(vhost.queues().await, Vec::<String>::new());
}

/// The operator's user, which nobody else is.
async fn limited(vhost: &Vhost<'_>, channels: u64) -> (String, String) {
    let url = vhost.amqp_url_of_another_user().await;
    let user = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once(':'));
    let user = user.expect("a user").0.to_owned();
    limit(&user, channels).await;
    (url, user)
}

async fn limit(user: &str, channels: u64) {
    let limit = format!(r#"{{"max-channels": {channels}}}"#);
    let setting = ["set_user_limits", user, &limit];
    testbed().await.rabbitmqctl(&setting).await;
}

#[tokio::test]
async fn five_channels_of_a_user_do_for_any_number_of_buckets() {
    let vhost = testbed().await.vhost().await;
    let (url, _) = limited(&vhost, 5).await;
    let mut running = Running::start_as(&url, Running::options());
    buckets_live(&vhost, &mut running).await;
    running.stop().await;
}

#[tokio::test]
async fn too_few_channels_are_told_and_work_goes_on_when_there_are_more() {
    let vhost = testbed().await.vhost().await;
    let (url, user) = limited(&vhost, 2).await;
    let mut running = Running::start_as(&url, Running::options());
    let bucket = bucket("x", RARELY, 1, 9);
    running.engine.apply(bucket.clone(), 1);
    let told = |outcome: &Outcome| match outcome {
        Outcome::Connection(ConnectionState::Down { reason, message }) => {
            *reason == "BrokerLimit" && message.contains("four channels")
        }
        _ => false,
    };
    running.until(told).await;
    limit(&user, 5).await;
    running.ready(1, 1).await;
    let removed = running.engine.remove(removal(&bucket)).await;
    removed.expect("it is removed");
    buckets_live(&vhost, &mut running).await;
    running.stop().await;
}

#[tokio::test]
async fn five_channels_on_a_connection_do_for_any_number_of_buckets() {
    let testbed = testbed().await.with_own_broker();
    let few = "application:set_env(rabbit, channel_max, 5).";
    testbed.rabbitmqctl(&["eval", few]).await;
    let vhost = testbed.vhost().await;
    let mut running = Running::start(&vhost);
    buckets_live(&vhost, &mut running).await;
    running.stop().await;
}
