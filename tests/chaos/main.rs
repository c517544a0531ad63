//! The soak: random faults, again and again, under steady takers; then an accountant who knows which ticks were due
//! counts the tokens. `make chaos` runs it; the same seed brings the same sequence of faults.

mod accounts;
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
use faults::Fault;

/// Breaks things at random and proves that no refill was lost or doubled.
#[derive(Debug, Parser)]
struct Args {
    /// Of the sequence of faults [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults go on, in seconds, all soaks together
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=3_000))]
    seconds: u64,
    /// How many operators [default: a soak with one that is killed a lot, then one with two replicas]
    #[arg(long, value_name = "NUMBER")]
    operators: Vec<usize>,
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
        faults,
    } = Args::parse();
    let seed = seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut clean = true;
    let mut soaks = operators.clone();
    if soaks.is_empty() {
        soaks = vec![1, 2];
        // A lone operator is not cut off from anybody who could take over.
        soaks.retain(|replicas| Fault::any(*replicas, &faults));
    }
    let duration = Duration::from_secs(seconds) / u32::try_from(soaks.len()).unwrap_or(1);
    for replicas in soaks {
        let report = soak::run(seed, replicas, duration, &faults).await;
        println!("\n{report}");
        clean &= report.is_clean();
    }
    if clean {
        ExitCode::SUCCESS
    } else {
        let words = |words: Vec<String>| words.join(" ");
        let operators = words(operators.iter().map(ToString::to_string).collect());
        let faults = words(faults.iter().map(Fault::name).collect());
        println!(
            "repeat it with: make chaos SEED={seed} DURATION={seconds} OPERATORS='{operators}' FAULTS='{faults}'"
        );
        ExitCode::FAILURE
    }
}
