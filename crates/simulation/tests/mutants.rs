//! The simulation can fail: what is wrong on purpose is found.
#![allow(clippy::print_stdout, reason = "what a person needs to find out why")]

use simulation::operator::Mutant;
use simulation::search::{Sums, search, threads};

const SEEDS: u64 = 20_000;

fn is_found(mutant: Mutant) {
    let found = search(0..SEEDS, Some(mutant), threads(), 1, &Sums::default());
    let first = found.first().expect("a violation");
    println!("{mutant:?}: SEED={} {}", first.seed, first.violation);
}

#[test]
fn a_count_before_the_ledger_is_got_is_found() {
    is_found(Mutant::CountsFirst);
}

#[test]
fn an_old_ledger_that_is_not_acknowledged_is_found() {
    is_found(Mutant::KeepsOldLedger);
}

#[test]
fn a_tick_that_is_compared_wrongly_is_found() {
    is_found(Mutant::RepeatsTick);
}

#[test]
fn owed_tokens_that_are_not_written_down_are_found() {
    is_found(Mutant::ForgetsOwed);
}

#[test]
fn a_lost_ledger_that_is_written_with_an_older_tick_is_found() {
    is_found(Mutant::ForgetsTicks);
}
