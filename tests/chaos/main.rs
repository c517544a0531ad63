//! The soak: random faults, again and again, under steady takers; then an accountant who knows which ticks were due
//! counts the tokens. `make chaos` runs it; the same seed brings the same sequence of faults.

mod accounts;
mod cluster;
mod faults;
mod soak;

#[allow(
    dead_code,
    unused_imports,
    reason = "the fixture of the tests, of which a soak needs a part"
)]
#[path = "../integration/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use faults::{Fault, Operators};

/// Breaks things at random and proves that no refill was lost or doubled.
#[derive(Debug, Parser)]
struct Args {
    /// Of the sequence of faults [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults go on, in seconds, all soaks together
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=3_000))]
    seconds: u64,
    /// How many operators [default: a soak with one that is killed a lot, one with two replicas, then one with rivals]
    #[arg(long, value_name = "NUMBER")]
    operators: Vec<usize>,
    /// How many rivals one operator has: those of other clusters, with resources of their own for the same buckets
    #[arg(long, value_name = "NUMBER")]
    rivals: Vec<usize>,
    /// Only these faults [default: all]
    #[arg(long = "fault", value_enum, value_name = "FAULT")]
    faults: Vec<Fault>,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
async fn main() -> ExitCode {
    let Args {
        seed,
        seconds,
        operators,
        rivals,
        faults,
    } = Args::parse();
    let seed = seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut clean = true;
    let replicated = operators.iter().map(|&replicas| of(1, replicas));
    let mut soaks: Vec<_> = replicated
        .chain(rivals.iter().map(|&number| of(1 + number, 1)))
        .collect();
    if soaks.is_empty() {
        // One rival yields for good. Of two, each one takes over at its start: a ledger names only the last one.
        soaks = vec![of(1, 1), of(1, 2), of(3, 1)];
        // A lone operator is not cut off from anybody who could take over.
        soaks.retain(|operators| Fault::any(*operators, &faults));
    }
    let duration = Duration::from_secs(seconds) / u32::try_from(soaks.len()).unwrap_or(1);
    for operators in soaks {
        let report = soak::run(seed, operators, duration, &faults).await;
        println!("\n{report}");
        clean &= report.is_clean();
    }
    if clean {
        ExitCode::SUCCESS
    } else {
        let words = |words: Vec<String>| words.join(" ");
        let numbers = |numbers: &[usize]| words(numbers.iter().map(ToString::to_string).collect());
        let (operators, rivals) = (numbers(&operators), numbers(&rivals));
        let faults = words(faults.iter().map(Fault::name).collect());
        println!(
            "repeat it with: make chaos SEED={seed} DURATION={seconds} OPERATORS='{operators}' RIVALS='{rivals}' FAULTS='{faults}'"
        );
        ExitCode::FAILURE
    }
}

fn of(clusters: usize, replicas: usize) -> Operators {
    Operators { clusters, replicas }
}
