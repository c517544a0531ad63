//! The bench: `make bench`, or `cargo bench --bench operator -- [SCENARIO…]`. Every comparison alternates its variants
//! within one run, on a real RabbitMQ and a real API server; docs/performance.md has the results.

mod alone;
mod engine;
mod million;
mod punctual;
mod raw;
mod refill;
mod report;
mod scale;
mod steady;
mod system;
mod takes;
mod ticks;

// The tests' fixture; the bench needs a part of it.
#[allow(dead_code, unused_imports)]
#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use report::Report;

/// Measures the operator against the broker's and the API server's own limits.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How often each variant is measured; a multiple for scenarios that need seconds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Numbers of buckets of the scenario `ticks`
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000], value_name = "NUMBER,…")]
    buckets: Vec<usize>,
    /// Where the results go as JSON lines, besides the table on standard output
    #[arg(long, default_value = "target/bench.jsonl", value_name = "FILE")]
    json: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// 100,000 tokens for one bucket, beside the broker's limit and the Python library
    Refill,
    /// 1,000,000 tokens for one bucket, beside a small one
    Million,
    /// Many buckets due in the same second; how many says --buckets
    Ticks,
    /// One bucket that is due every second
    Punctual,
    /// Tokens taken by the clients, beside the Python library; a thousand that wait
    Takes,
    /// 1,000 buckets: created, after a restart, deleted
    Scale1000,
    /// 10,000 buckets: created, idle, after a restart, deleted
    Scale10000,
}

#[tokio::main]
async fn main() {
    let Args {
        scenarios,
        rounds,
        buckets,
        json,
        bench: _,
    } = Args::parse();
    let scenarios = match scenarios.as_slice() {
        [] => Scenario::value_variants(),
        some => some,
    };
    let mut report = Report::new(&json);
    for scenario in scenarios {
        match scenario {
            Scenario::Refill => refill::run(&mut report, rounds).await,
            Scenario::Million => million::run(&mut report, rounds).await,
            Scenario::Ticks => {
                for count in &buckets {
                    ticks::run(&mut report, *count, rounds).await;
                }
            }
            Scenario::Punctual => punctual::run(&mut report, rounds).await,
            Scenario::Takes => takes::run(&mut report, rounds).await,
            Scenario::Scale1000 => scale::run(&mut report, 1_000, rounds).await,
            Scenario::Scale10000 => scale::run(&mut report, 10_000, 1).await,
        }
        report.print();
    }
}
