//! Ledgers that are contended for, lost, touched by policies or held by the dead: no tick is carried out twice. Tokens are
//! counted at the broker, and compared with the seconds that have passed.

mod lost;
mod policies;
mod rivals;

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};
use token_bucket_operator::api::MissedRefills;
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::engine::{ConnectionState, Options, Outcome};

use crate::broker::link::Link;
use crate::support::{Pace, Proxy, Running, SOON, Vhost, bucket, eventually, progressing, testbed};

const QUEUE: &str = "token_bucket_x";
const LEDGER: &str = "token_bucket_x.ledger";

/// An engine with a way of its own to the broker.
struct Operator {
    running: Running,
    proxy: Proxy,
}

impl Operator {
    async fn start(vhost: &Vhost<'_>, name: &str) -> Self {
        let (proxy, url) = Proxy::in_front_of(&impatient(vhost)).await;
        let running = Running::start_as(&url, options(name));
        Self { running, proxy }
    }

    fn apply(&self, bucket: &Bucket, revision: u64) {
        self.running.engine.apply(bucket.clone(), revision);
    }

    /// Waits until it has carried out a tick after `time`.
    async fn refills_after(&mut self, time: DateTime<Utc>) {
        let later = |outcome: &Outcome| match outcome {
            Outcome::Refilled { tick, .. } => tick.is_some_and(|tick| tick > time),
            _ => false,
        };
        self.running.until(later).await;
    }

    /// What it has told until now is of no interest.
    fn drain(&mut self) {
        while self.running.outcomes.try_recv().is_ok() {}
    }

    async fn crash(self) {
        self.proxy.cut();
        drop(self.proxy);
        self.running.abort().await;
    }
}

fn options(operator: &str) -> Options {
    Options {
        operator: operator.into(),
        ..Running::options()
    }
}

/// With the shortest heartbeat: what nobody gives back counts as lost after 8 s.
fn impatient(vhost: &Vhost<'_>) -> String {
    format!("{}?heartbeat=1", vhost.amqp_url())
}

/// One token a second, of which none is ever left out.
fn each_second() -> Bucket {
    Bucket {
        missed_refills: MissedRefills::All,
        ..bucket("x", "* * * * * *", 1, 1_000_000)
    }
}

/// What is at the broker while nobody refills.
#[derive(Debug)]
struct Count {
    tokens: u64,
    ledger: Value,
}

impl Count {
    async fn of(vhost: &Vhost<'_>) -> Self {
        let channel = vhost.channel().await;
        let ledger = eventually("the ledger", SOON, async || {
            let got = channel.basic_get(LEDGER.into(), BasicGetOptions::default());
            let message = got.await.expect("a queue").ok_or("it is empty")?;
            let requeue = BasicRejectOptions { requeue: true };
            message.reject(requeue).await.expect("it goes back");
            Ok(message.data.clone())
        })
        .await;
        Self {
            tokens: vhost.depth(QUEUE).await.expect("the bucket's queue"),
            ledger: serde_json::from_slice(&ledger).expect("JSON"),
        }
    }

    /// Panics unless each tick since then has added one token.
    fn is_exact_since(&self, created: DateTime<Utc>) {
        assert_eq!(self.tokens, ticks(created, self.tick()), "{self:?}");
    }

    /// The newest tick that was carried out.
    fn tick(&self) -> DateTime<Utc> {
        let tick = self.ledger["tick"].as_str().expect("a tick");
        tick.parse().expect("a time")
    }
}

/// Ticks that were due after `since` up to and with `last`.
fn ticks(since: DateTime<Utc>, last: DateTime<Utc>) -> u64 {
    Pace(1).ticks(since, last)
}

/// Panics if there are more tokens than ticks were due until now.
async fn no_tick_is_doubled(vhost: &Vhost<'_>, bucket: &Bucket) -> u64 {
    let tokens = vhost.depth(QUEUE).await.unwrap_or_default();
    let due = ticks(bucket.created, Utc::now());
    assert!(tokens <= due, "{tokens} tokens for {due} ticks");
    tokens
}

/// The operator crashes, and a new one goes on where it has ended: each tick between two counts has added its token.
async fn goes_on_exactly_after_a_crash(vhost: &Vhost<'_>, operator: Operator, bucket: &Bucket) {
    operator.crash().await;
    let before = Count::of(vhost).await;
    let mut next = Operator::start(vhost, "next").await;
    next.apply(bucket, 1);
    next.refills_after(Utc::now()).await;
    next.running.stop().await;
    let after = Count::of(vhost).await;
    let added = ticks(before.tick(), after.tick());
    assert_eq!(after.tokens - before.tokens, added, "{before:?} {after:?}");
    no_tick_is_doubled(vhost, bucket).await;
}

/// Takes the ledger. It goes back with the channel.
async fn hold(vhost: &Vhost<'_>) -> Channel {
    let channel = vhost.channel().await;
    eventually("the ledger", SOON, async || {
        let got = channel.basic_get(LEDGER.into(), BasicGetOptions::default());
        let got = got.await.expect("a queue");
        got.map(drop).ok_or("it is empty".into())
    })
    .await;
    channel
}

#[tokio::test]
async fn a_ledger_of_format_version_1_is_carried_on_and_rewritten() {
    let vhost = testbed().await.vhost().await;
    let bucket = each_second();
    let last = bucket.created.trunc_subsecs(0) - TimeDelta::seconds(20);
    let bucket = Bucket {
        created: last - TimeDelta::seconds(100),
        ..bucket
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), 1.into());
    vhost.declare(LEDGER, arguments).await;
    let ledger = json!({
        "version": 1, "uid": *bucket.uid, "since": bucket.created, "schedule": bucket.timetable.fingerprint(),
        "writer": {"operator": "ops", "refillQueue": "refill"}, "tick": last, "request": "42", "owed": 3, "issued": 9,
        "lastRefill": {"completedTime": last, "added": 9, "trigger": "Schedule"},
    });
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let body = ledger.to_string();
    vhost.publish(LEDGER, body.as_bytes(), persistent).await;

    let mut operator = Operator::start(&vhost, "one").await;
    operator.apply(&bucket, 1);
    operator.refills_after(Utc::now()).await;
    operator.running.stop().await;
    let count = Count::of(&vhost).await;
    let due = ticks(last, count.tick());
    assert_eq!(count.tokens, 3 + due, "{count:?}");
    assert_eq!(count.ledger["version"], 2);
    assert_eq!(count.ledger["issued"], 9 + due);
    assert_eq!(count.ledger["owner"]["resource"], bucket.id.to_string());
}

#[tokio::test]
async fn a_ledger_that_somebody_holds_is_waited_for() {
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    operator.refills_after(bucket.created).await;
    let channel = hold(&vhost).await;
    let held = |outcome: &Outcome| progressing(outcome, "LedgerHeld");
    operator.running.until(held).await;
    channel.close(200, "done".into()).await.expect("it closes");
    operator.refills_after(Utc::now()).await;
    operator.running.stop().await;
    Count::of(&vhost).await.is_exact_since(bucket.created);
}

#[tokio::test]
async fn what_was_under_way_on_a_connection_that_breaks_is_carried_out_once() {
    const AMOUNT: u64 = 3;
    let vhost = testbed().await.vhost().await;
    let bucket = Bucket {
        amount: AMOUNT,
        ..each_second()
    };
    // Of what a refill sends: its request, the get, the count, the tokens, the ledger, the acknowledgements, the commit.
    for bytes in (0..1_600).step_by(80) {
        let link = Link::to(&vhost.amqp_url()).await;
        let quiet = Options {
            status_interval: Duration::from_secs(60),
            ..Running::options()
        };
        let mut running = Running::start_as(&link.uri, quiet);
        running.engine.apply(bucket.clone(), 1);
        running.ready(1, 1).await;
        link.cut_after(bytes);
        let cut = |outcome: &Outcome| {
            matches!(outcome, Outcome::Connection(ConnectionState::Down { .. }))
        };
        running.until(cut).await;
        running.abort().await;
    }
    let mut operator = Operator::start(&vhost, "one").await;
    operator.apply(&bucket, 1);
    operator.refills_after(Utc::now()).await;
    operator.running.stop().await;
    let count = Count::of(&vhost).await;
    let due = ticks(bucket.created, count.tick());
    assert_eq!(count.tokens, AMOUNT * due, "{count:?}");
}
