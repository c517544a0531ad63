//! Many buckets that are due in the same second.

use std::time::{Duration, Instant};

use chrono::{DurationRound, TimeDelta, Utc};
use futures::{StreamExt, stream};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use token_bucket_operator::bucket::Bucket;

use crate::engine::{Measured, bucket, once, percentile};
use crate::raw::{self, Raw};
use crate::report::{Goal, Report};
use crate::support::{RARELY, Vhost, testbed};

/// Tokens that each bucket gets.
const AMOUNTS: [u64; 3] = [1, 10, 100];
/// As the operator has it.
const TRANSACTION: usize = 10_000;
const MOST_REQUESTS: u16 = 2_000;
const REFILL: &str = "token_buckets.refill";
/// Enough channels to keep the broker busy with declarations.
const CHANNELS: usize = 16;
/// More tokens than this need half a minute: one round has to do.
const MANY: u64 = 500_000;
/// Octets of a request and of a ledger as the operator writes them.
const REQUEST: [u8; 600] = [b'x'; 600];
const LEDGER: [u8; 300] = [b'x'; 300];

/// Measures `count` buckets, `rounds` times.
pub async fn run(report: &mut Report, count: usize, rounds: usize) {
    let testbed = testbed().await;
    let (ours, limit) = (testbed.vhost().await, testbed.vhost().await);
    let mut engine = Measured::start(&ours);
    // Their queues are there before the first round.
    engine.apply(&buckets(count, RARELY, 1)).await;
    let mut raw = prepare(&limit, count).await;
    for amount in AMOUNTS {
        let rounds = match count as u64 * amount {
            MANY.. => 1,
            _ => rounds,
        };
        let (mut last, mut p50, mut p99, mut limits) = (vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            let lags = tick(&mut engine, count, amount).await;
            last.push(percentile(&lags, 100));
            p50.push(percentile(&lags, 50));
            p99.push(percentile(&lags, 99));
            let seconds;
            (raw, seconds) = tokio::task::spawn_blocking(move || by_raw(raw, count, amount))
                .await
                .expect("the broker is as expected");
            limits.push(seconds);
        }
        let goal = match (count, amount) {
            (1_000, 10) => Some(Goal::AtMost(1.0)),
            (10_000, 1) => Some(Goal::AtMost(2.5)),
            _ => None,
        };
        let ratio = last.iter().zip(&limits).map(|(ours, raw)| ours / raw);
        let ratio = ratio.collect();
        let each = last.iter().map(|last| 1e6 * last / count as f64).collect();
        let mut add = |what: &str, unit, values, goal| {
            let buckets = format!("{count} × {amount} tokens: {what}");
            report.add(buckets, unit, values, goal);
        };
        add("operator ÷ the same messages raw", "×", ratio, None);
        add("the same messages raw", "s", limits, None);
        add("from due to the last commit", "s", last, goal);
        add("p50 of the buckets", "s", p50, None);
        add("p99 of the buckets", "s", p99, None);
        add("for each bucket", "µs", each, None);
    }
    engine.stop().await;
}

/// Lets all buckets be due once; answers how late each was, sorted.
async fn tick(engine: &mut Measured, count: usize, amount: u64) -> Vec<Duration> {
    // Time for all of them to be looked at.
    let lead = TimeDelta::seconds(3 + count as i64 / 200);
    let due = (Utc::now() + lead).duration_trunc(TimeDelta::seconds(1));
    let due = due.expect("a time of this century");
    engine.apply(&buckets(count, &once(due), amount)).await;
    assert!(Utc::now() < due, "the buckets are in force in time");
    let mut lags = engine.lags(count, due).await;
    lags.sort_unstable();
    lags
}

fn buckets(count: usize, schedule: &str, amount: u64) -> Vec<Bucket> {
    let numbers = 0..count;
    numbers
        .map(|number| bucket(number, schedule, amount))
        .collect()
}

fn queue(number: usize) -> String {
    format!("token_bucket_b{number}")
}

/// The queues of the buckets, and the consumer of their requests.
async fn prepare(vhost: &Vhost<'_>, count: usize) -> Raw {
    let names: Vec<_> = (0..count)
        .flat_map(|number| [queue(number), format!("{}.ledger", queue(number))])
        .collect();
    stream::iter(names.chunks(names.len().div_ceil(CHANNELS)))
        .for_each_concurrent(None, async |names| {
            let channel = vhost.channel().await;
            for name in names {
                let mut arguments = FieldTable::default();
                let maximum = if name.ends_with(".ledger") {
                    1
                } else {
                    10_000_000
                };
                arguments.insert(
                    "x-max-length".into(),
                    lapin::types::AMQPValue::LongUInt(maximum),
                );
                let declared = channel.queue_declare(
                    name.as_str().into(),
                    QueueDeclareOptions::durable(),
                    arguments,
                );
                declared.await.expect("declared");
            }
        })
        .await;
    let url = vhost.amqp_url();
    let prepared = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::connect(&url);
        raw.declare(REFILL, None);
        raw.consume(REFILL, MOST_REQUESTS);
        raw
    });
    prepared.await.expect("the broker is as expected")
}

/// The operator's messages: requests, tokens, ledgers, acknowledgements. It trusts that the buckets have room, and
/// counts nothing.
fn by_raw(mut raw: Raw, count: usize, amount: u64) -> (Raw, f64) {
    let mut requests = Vec::new();
    for _ in 0..count {
        raw::publish(&mut requests, REFILL, &REQUEST);
    }
    let most = TRANSACTION / amount as usize;
    let buckets: Vec<_> = (0..count).collect();
    let transactions: Vec<_> = buckets
        .chunks(most.min(MOST_REQUESTS.into()))
        .map(|numbers| {
            let mut frames = Vec::new();
            for number in numbers {
                for _ in 0..amount {
                    raw::publish(&mut frames, &queue(*number), b"");
                }
                raw::publish(&mut frames, &format!("{}.ledger", queue(*number)), &LEDGER);
            }
            (numbers.len(), frames)
        })
        .collect();
    let start = Instant::now();
    raw.commit(&requests);
    for (buckets, frames) in transactions {
        let mut acks = Vec::new();
        for _ in 0..buckets {
            raw::acknowledge(&mut acks, raw.delivery());
        }
        raw.send(&acks);
        raw.commit(&frames);
    }
    (raw, start.elapsed().as_secs_f64())
}
