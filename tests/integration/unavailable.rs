//! Queues that are there, and that the operator cannot use: what they hold is not lost, and other buckets do not wait for them.

use chrono::Utc;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use token_bucket_operator::bucket::machine::Phase;
use token_bucket_operator::bucket::{Bucket, BucketId};
use token_bucket_operator::engine::{ConnectionState, Outcome};

use crate::support::{RARELY, Running, SOON, Vhost, asked, bucket, eventually, removal, testbed};

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

/// One of the queues of bucket x crashes, and is deleted when that was told; afterwards a refill is carried out.
async fn a_crash_is_waited_out(queue: &str, given_up: impl Fn(&Outcome) -> bool) {
    let vhost = testbed().await.vhost().await;
    let (mut running, bucket) = two(&vhost).await;
    crash(&vhost, queue).await;
    running.engine.apply(asked(&bucket, "now"), 2);
    let unavailable = |outcome: &Outcome| why(outcome) == Some("QueueUnavailable");
    is_told(&mut running, unavailable).await;
    give_up(&vhost, queue).await;
    running.until(given_up).await;
    running.until(is_ready).await;
    vhost.depth_becomes(QUEUE, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_queue_whose_process_has_crashed_is_waited_for_and_not_taken_for_missing() {
    a_crash_is_waited_out(QUEUE, |outcome| {
        assert!(!matches!(outcome, Outcome::LedgerLost(_)), "{outcome:?}");
        matches!(outcome, Outcome::QueueMissing(_))
    })
    .await;
}

#[tokio::test]
async fn a_ledger_whose_queue_has_crashed_is_not_lost() {
    a_crash_is_waited_out(LEDGER, |outcome| matches!(outcome, Outcome::LedgerLost(_))).await;
}

/// What the broker takes a queue for. Whoever uses one of a type that does not exist makes it end the connection with
/// INTERNAL_ERROR.
async fn set_type(vhost: &Vhost<'_>, queue: &str, kind: &str) {
    let set = format!(
        "Queue = rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>),
         {{ok, Before}} = rabbit_amqqueue:lookup(Queue),
         Type = amqqueue:get_type(Before),
         Changed = fun(It) ->
             list_to_tuple([case Part of Type -> {kind}; _ -> Part end || Part <- tuple_to_list(It)])
         end,
         Update = fun() -> rabbit_amqqueue:update(Queue, Changed) end,
         case catch mnesia:transaction(Update) of
             {{atomic, _}} -> ok;
             _ -> Update()
         end,
         {{ok, After}} = rabbit_amqqueue:lookup(Queue),
         {kind} = amqqueue:get_type(After).",
        vhost.name()
    );
    testbed().await.rabbitmqctl(&["eval", &set]).await;
}

const BROKEN: &str = "no_such_type";
const WHOLE: &str = "rabbit_classic_queue";

/// Waits until the other bucket is refilled so many times without a loss of the connection in between. It may be lost as often
/// as it takes to find out why.
async fn the_other_is_refilled(running: &mut Running, times: usize) {
    let (mut refills, mut losses) = (0, 0);
    while refills < times {
        match running.until(|_| true).await {
            Outcome::Refilled { bucket, .. } if bucket == of("other") => refills += 1,
            Outcome::Connection(ConnectionState::Down { .. }) => {
                (refills, losses) = (0, losses + 1);
                assert!(losses < 3, "nothing was found");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_queue_that_makes_the_broker_end_the_connection_is_found_and_left_alone() {
    let vhost = testbed().await.vhost().await;
    let (mut running, bucket) = two(&vhost).await;
    set_type(&vhost, QUEUE, BROKEN).await;
    let found = |outcome: &Outcome| why(outcome) == Some("BrokerInternalError");
    running.until(found).await;
    the_other_is_refilled(&mut running, 8).await;
    // Its removal is refused without another try.
    let removed = running.engine.remove(removal(&bucket)).await;
    let refused = removed.expect_err("its queue cannot be used");
    assert_eq!(refused.reason(), "BrokerInternalError");
    the_other_is_refilled(&mut running, 3).await;
    running.engine.apply(bucket.clone(), 2);
    set_type(&vhost, QUEUE, WHOLE).await;
    running.until(is_ready).await;
    running.engine.apply(asked(&bucket, "now"), 3);
    vhost.depth_becomes(QUEUE, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_refill_queue_that_makes_the_broker_end_the_connection_is_found_and_left_alone() {
    let vhost = testbed().await.vhost().await;
    vhost.declare("broken", FieldTable::default()).await;
    set_type(&vhost, "broken", BROKEN).await;
    let (mut running, bucket) = two(&vhost).await;
    let elsewhere = Bucket {
        refill_queue: "broken".into(),
        ..bucket
    };
    running.engine.apply(elsewhere.clone(), 2);
    let found = |outcome: &Outcome| why(outcome) == Some("BrokerInternalError");
    running.until(found).await;
    the_other_is_refilled(&mut running, 8).await;
    set_type(&vhost, "broken", WHOLE).await;
    running.until(is_ready).await;
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
