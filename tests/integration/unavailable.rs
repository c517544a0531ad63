//! Queues that are there, and that the operator cannot use: what they hold is not lost, and other buckets do not wait for them.

use chrono::Utc;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use token_bucket_operator::bucket::machine::Phase;
use token_bucket_operator::bucket::{Bucket, BucketId};
use token_bucket_operator::engine::{ConnectionState, Outcome};

use crate::support::{RARELY, Running, SOON, Vhost, asked, bucket, eventually, testbed};

const QUEUE: &str = "token_bucket_x";
const LEDGER: &str = "token_bucket_x.ledger";

/// A bucket that something happens to, and one that is refilled each second.
async fn two(vhost: &Vhost<'_>) -> (Running, Bucket) {
    let mut running = Running::start(vhost);
    let bucket = bucket("x", RARELY, 1, 10);
    running.engine.apply(bucket.clone(), 1);
    let other = crate::support::bucket("other", "* * * * * *", 1, 1_000_000);
    running.engine.apply(other, 1);
    running.ready(2, 1).await;
    (running, bucket)
}

fn of(name: &str) -> BucketId {
    BucketId::new("test", name)
}

/// The reason why bucket x is not ready, if that is told.
fn why(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Bucket(id, state) if *id == of("x") => match state.phase {
            Phase::Ready => None,
            Phase::Progressing { reason, .. } | Phase::Stalled { reason, .. } => Some(reason),
        },
        _ => None,
    }
}

/// Waits until something is told of bucket x, and panics if its ledger counts as lost or the connection goes before. Refills of the other one do
/// not wait for that.
async fn is_told(running: &mut Running, wanted: impl Fn(&Outcome) -> bool) {
    let telling = async {
        loop {
            let outcome = running.until(|_| true).await;
            let harms = matches!(
                outcome,
                Outcome::LedgerLost(_) | Outcome::Connection(ConnectionState::Down { .. })
            );
            assert!(!harms, "{outcome:?}");
            if wanted(&outcome) {
                return;
            }
        }
    };
    let told = tokio::time::timeout(SOON, telling).await;
    told.expect("it is told");
    let now = Utc::now();
    let goes_on = |outcome: &Outcome| match outcome {
        Outcome::Refilled { bucket, tick, .. } => *bucket == of("other") && *tick > Some(now),
        _ => false,
    };
    running.until(goes_on).await;
}

fn is_ready(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Bucket(id, state) if *id == of("x") && state.phase == Phase::Ready)
}

/// Kills the process of a queue until the broker starts it no more.
async fn crash(vhost: &Vhost<'_>, queue: &str) {
    let kill = format!(
        "Queue = rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>),
         Kill = fun() ->
             {{ok, It}} = rabbit_amqqueue:lookup(Queue),
             exit(amqqueue:get_pid(It), kill),
             timer:sleep(150)
         end,
         [Kill() || _ <- lists:seq(1, 12)], ok.",
        vhost.name()
    );
    testbed().await.rabbitmqctl(&["eval", &kill]).await;
}

/// As a person does when it does not come back.
async fn give_up(vhost: &Vhost<'_>, queue: &str) {
    let deleting = ["delete_queue", "--vhost", &vhost.name(), queue];
    testbed().await.rabbitmqctl(&deleting).await;
}

#[tokio::test]
async fn a_queue_whose_process_has_crashed_is_waited_for_and_not_taken_for_missing() {
    let vhost = testbed().await.vhost().await;
    let (mut running, bucket) = two(&vhost).await;
    crash(&vhost, QUEUE).await;
    running.engine.apply(asked(&bucket, "now"), 2);
    let unavailable = |outcome: &Outcome| why(outcome) == Some("QueueUnavailable");
    is_told(&mut running, unavailable).await;
    give_up(&vhost, QUEUE).await;
    is_told(&mut running, is_ready).await;
    vhost.depth_becomes(QUEUE, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_ledger_whose_queue_has_crashed_is_not_lost() {
    let vhost = testbed().await.vhost().await;
    let (mut running, bucket) = two(&vhost).await;
    crash(&vhost, LEDGER).await;
    running.engine.apply(asked(&bucket, "now"), 2);
    let unavailable = |outcome: &Outcome| why(outcome) == Some("QueueUnavailable");
    is_told(&mut running, unavailable).await;
    give_up(&vhost, LEDGER).await;
    let lost = |outcome: &Outcome| matches!(outcome, Outcome::LedgerLost(_));
    running.until(lost).await;
    running.until(is_ready).await;
    vhost.depth_becomes(QUEUE, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_queue_that_belongs_to_another_connection_is_told_and_waited_for() {
    let vhost = testbed().await.vhost().await;
    let (mut running, bucket) = two(&vhost).await;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    // The operator may be quicker to declare it again.
    eventually("an exclusive queue", SOON, async || {
        let channel = vhost.channel().await;
        let deleting = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
        deleting.await.expect("deleted");
        let declaring = channel.queue_declare(QUEUE.into(), exclusive, FieldTable::default());
        declaring.await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let locked = |outcome: &Outcome| why(outcome) == Some("QueueLocked");
    is_told(&mut running, locked).await;
    let channel = vhost.channel().await;
    let deleting = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
    deleting.await.expect("deleted");
    is_told(&mut running, is_ready).await;
    running.engine.apply(asked(&bucket, "now"), 1);
    vhost.depth_becomes(QUEUE, 1).await;
    running.stop().await;
}
