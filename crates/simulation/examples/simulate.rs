//! Runs schedules: `SEEDS=1000000 cargo run --release --example simulate`. With `SEED=…` one of them, with its trace, after
//! shrinking it if it fails.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::process::ExitCode;
use std::time::Instant;

use simulation::operator::Mutant;
use simulation::plan::Plan;
use simulation::search::{self, Sums, search, shrink};

/// Seeds between two lines of progress.
const STRIDE: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn mutant() -> Option<Mutant> {
    match std::env::var("MUTANT").ok()?.as_str() {
        "counts-first" => Some(Mutant::CountsFirst),
        "keeps-old-ledger" => Some(Mutant::KeepsOldLedger),
        "repeats-tick" => Some(Mutant::RepeatsTick),
        "forgets-owed" => Some(Mutant::ForgetsOwed),
        "forgets-ticks" => Some(Mutant::ForgetsTicks),
        _ => None,
    }
}

fn main() -> ExitCode {
    if let Some(seed) = number("SEED") {
        return replay(seed);
    }
    let (first, seeds) = (
        number("FIRST").unwrap_or(0),
        number("SEEDS").unwrap_or(20_000),
    );
    let most = usize::try_from(number("FAILURES").unwrap_or(10)).unwrap_or(10);
    let (began, sums) = (Instant::now(), Sums::default());
    let mut failing = Vec::new();
    let mut seed = first;
    while seed < first + seeds && failing.len() < most {
        let end = (seed + STRIDE).min(first + seeds);
        let threads = number("THREADS").map_or_else(search::threads, |it| it as usize);
        for found in search(seed..end, mutant(), threads, most - failing.len(), &sums) {
            println!("SEED={} {}", found.seed, found.violation);
            failing.push(found);
        }
        seed = end;
        let count =
            |it: &std::sync::atomic::AtomicU64| it.load(std::sync::atomic::Ordering::Relaxed);
        let (schedules, events) = (count(&sums.schedules), count(&sums.events));
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{schedules} schedules, {} refills, {events} steps in {seconds:.1} s: {:.0} schedules/s",
            count(&sums.refills),
            schedules as f64 / seconds
        );
    }
    if failing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn replay(seed: u64) -> ExitCode {
    let plan = Plan::from_seed(seed);
    let Some(violation) = search::run(&plan, mutant(), false).violation else {
        println!("SEED={seed} does not fail");
        if number("TRACE").is_some() {
            println!("{plan:#?}");
            for line in search::run(&plan, mutant(), true).trace {
                println!("{line}");
            }
        }
        return ExitCode::SUCCESS;
    };
    println!("SEED={seed} {violation}");
    let least = if number("WHOLE").is_some() {
        plan
    } else {
        shrink(&plan, mutant())
    };
    println!("{least:#?}");
    let report = search::run(&least, mutant(), true);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{}", report.violation.unwrap_or_default());
    ExitCode::FAILURE
}
