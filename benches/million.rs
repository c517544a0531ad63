//! A refill of a million tokens: what it asks of the broker's memory, and of a small bucket that is due meanwhile.

use std::cell::Cell;
use std::time::Duration;

use chrono::TimeDelta;
use lapin::options::QueuePurgeOptions;

use crate::engine::{Measured, bucket, once, percentile, soon};
use crate::report::{Goal, Report};
use crate::support::testbed;
use crate::system;

const TOKENS: u64 = 1_000_000;
/// How often the broker's memory is looked at.
const LOOK: Duration = Duration::from_millis(50);

pub async fn run(report: &mut Report, rounds: usize) {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    let channel = vhost.channel().await;
    let broker = system::server(testbed, "rabbitmq");
    let mut engine = Measured::start(&vhost);
    let (mut speed, mut before, mut most, mut after) = (vec![], vec![], vec![], vec![]);
    let mut lags = Vec::new();
    for _ in 0..rounds {
        let due = soon(TimeDelta::seconds(3));
        let big = bucket(0, &once(due), TOKENS);
        let small = bucket(1, "* * * * * *", 1);
        engine.apply(&[big.clone(), small]).await;
        before.push(system::memory(broker).0);
        let peak = Cell::new(0.0_f64);
        let watch = async {
            loop {
                peak.set(peak.get().max(system::memory(broker).0));
                tokio::time::sleep(LOOK).await;
            }
        };
        let (took, others) = tokio::select! {
            done = engine.lags_beside(&big.id, due) => done,
            () = watch => continue,
        };
        speed.push(TOKENS as f64 / took.as_secs_f64());
        lags.extend(others);
        most.push(peak.get());
        after.push(system::memory(broker).0);
        let purged = channel.queue_purge(big.queue().into(), QueuePurgeOptions::default());
        purged.await.expect("the bucket is there");
    }
    engine.stop().await;
    lags.sort_unstable();
    let mut add = |what: &str, unit, values, goal| {
        report.add(format!("1,000,000 tokens: {what}"), unit, values, goal);
    };
    add("operator", "tokens/s", speed, None);
    add("broker's memory before", "MiB", before, None);
    add("most meanwhile", "MiB", most, None);
    add("afterwards", "MiB", after, None);
    let longest = vec![percentile(&lags, 100)];
    let goal = Some(Goal::AtMost(1.0));
    add("a small bucket's longest lag meanwhile", "s", longest, goal);
}
