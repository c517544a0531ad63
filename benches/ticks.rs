//! Many buckets that are due in the same second.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use futures::{StreamExt, stream};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use token_bucket_operator::bucket::Bucket;

use crate::engine::{Measured, bucket, once, percentile, soon};
use crate::raw::{self, Raw};
use crate::report::{Goal, Report};
use crate::support::{RARELY, Vhost, testbed};
use crate::system;

/// Tokens that each bucket gets.
const AMOUNTS: [u64; 3] = [1, 10, 100];
/// As the operator has it.
const TRANSACTION: usize = 10_000;
const MOST_REQUESTS: u16 = 2_000;
const REFILL: &str = "token_buckets.refill";
/// Files that the broker opens for a bucket that is refilled: one for each of its queues.
const FILES: usize = 2;
/// Files that it has open besides.
const OTHER_FILES: usize = 300;
/// Nobody takes the tokens, and the broker keeps them in memory: what is more than this is left to `million`.
const MOST_TOKENS: u64 = 200_000;
/// Enough channels to keep the broker busy with declarations.
const CHANNELS: usize = 16;
/// Octets of a request and of a ledger as the operator writes them.
const REQUEST: [u8; 600] = [b'x'; 600];
const LEDGER: [u8; 300] = [b'x'; 300];

/// Measures `count` buckets, `rounds` times, alternately with the raw client; or first the one and then the other, when
/// the broker may not open files enough for both.
pub async fn run(report: &mut Report, count: usize, rounds: usize) {
    let testbed = testbed().await;
    let files = system::open_files(system::server(testbed, "rabbitmq"));
    let fit = files.saturating_sub(OTHER_FILES) / FILES;
    let goal_of = |amount| match (count, amount) {
        (1_000, 10) => Some(Goal::AtMost(1.0)),
        (10_000, 1) => Some(Goal::AtMost(2.5)),
        _ => None,
    };
    if count > fit {
        eprintln!(
            "the broker may open {files} files (ulimit -n): {fit} buckets instead of {count}"
        );
    }
    let count = count.min(fit);
    // The very first time, files are made.
    let turns: Vec<u64> = [1]
        .into_iter()
        .chain(AMOUNTS.into_iter().flat_map(|amount| {
            let too_many = count as u64 * amount > MOST_TOKENS;
            std::iter::repeat_n(amount, if too_many { 0 } else { rounds })
        }))
        .collect();
    let (mut lags, mut limits) = (Vec::new(), Vec::new());
    let ours = testbed.vhost().await;
    let mut engine = Measured::start(&ours);
    // Their queues are there before the first round.
    engine.apply(&buckets(count, RARELY, 1)).await;
    if 2 * count <= fit {
        let limit = testbed.vhost().await;
        let mut raw = prepare(&limit, count).await;
        for amount in &turns {
            lags.push(tick(&mut engine, count, *amount).await);
            limits.push(by_raw(&mut raw, count, *amount).await);
        }
        engine.stop().await;
    } else {
        for amount in &turns {
            lags.push(tick(&mut engine, count, *amount).await);
        }
        engine.stop().await;
        drop(ours);
        let limit = testbed.vhost().await;
        let mut raw = prepare(&limit, count).await;
        for amount in &turns {
            limits.push(by_raw(&mut raw, count, *amount).await);
        }
    }
    let mut add = |amount, what: &str, unit, values, goal| {
        let buckets = format!("{count} × {amount} tokens: {what}");
        report.add(buckets, unit, values, goal);
    };
    let first = vec![percentile(&lags[0], 100)];
    add(1, "the very first refill", "s", first, None);
    add(1, "the very first, raw", "s", vec![limits[0]], None);
    for amount in AMOUNTS {
        let of_amount = |turn: &usize| turns[*turn] == amount;
        let turns: Vec<_> = (1..turns.len()).filter(of_amount).collect();
        if turns.is_empty() {
            continue;
        }
        let lag = |percent| {
            let lags = turns.iter().map(|turn| percentile(&lags[*turn], percent));
            lags.collect::<Vec<_>>()
        };
        let last = lag(100);
        let raw: Vec<_> = turns.iter().map(|turn| limits[*turn]).collect();
        let ratio = last.iter().zip(&raw).map(|(ours, raw)| ours / raw);
        let ratio = ratio.collect();
        let each = last.iter().map(|last| 1e6 * last / count as f64).collect();
        let mut add = |what, unit, values, goal| add(amount, what, unit, values, goal);
        add("operator ÷ the same messages raw", "×", ratio, None);
        add("the same messages raw", "s", raw, None);
        add("from due to the last commit", "s", last, goal_of(amount));
        add("p50 of the buckets", "s", lag(50), None);
        add("p99 of the buckets", "s", lag(99), None);
        add("for each bucket", "µs", each, None);
    }
}

/// Lets all buckets be due once; answers how late each was, sorted.
async fn tick(engine: &mut Measured, count: usize, amount: u64) -> Vec<Duration> {
    // Time for all of them to be looked at.
    let due = soon(TimeDelta::seconds(3 + count as i64 / 200));
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

/// Seconds that the operator's messages take: requests, tokens, ledgers, acknowledgements. The client trusts that the
/// buckets have room, and counts nothing.
async fn by_raw(raw: &mut Raw, count: usize, amount: u64) -> f64 {
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
    // It blocks, and nothing else is to be done meanwhile.
    tokio::task::block_in_place(|| {
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
        start.elapsed().as_secs_f64()
    })
}
