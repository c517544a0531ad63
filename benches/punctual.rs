//! Punctuality: one bucket that is due every second, on an idle system.

use crate::engine::{Measured, bucket, percentile};
use crate::report::{Goal, Report};
use crate::support::testbed;

/// Refills of a round; one comes every second.
const REFILLS: usize = 24;

pub async fn run(report: &mut Report, rounds: usize) {
    let vhost = testbed().await.vhost().await;
    let mut engine = Measured::start(&vhost);
    engine.apply(&[bucket(0, "* * * * * *", 1)]).await;
    // The start is over when the first one has come.
    engine.next_lags(1).await;
    let mut lags = engine.next_lags(REFILLS * rounds).await;
    engine.stop().await;
    lags.sort_unstable();
    let mut add = |what: &str, percent, goal| {
        let value = 1000.0 * percentile(&lags, percent);
        let what = format!("every second: commit after due, {what}");
        report.add(what, "ms", vec![value], goal);
    };
    add("p50", 50, None);
    add("p99", 99, Some(Goal::AtMost(25.0)));
    add("maximum", 100, None);
}
