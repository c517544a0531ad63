//! Schedules from seeds: the first of them in each test run, and any number with `make simulate`.
#![allow(clippy::print_stdout, reason = "what a person needs to find out why")]

use simulation::plan::Plan;
use simulation::search::{Sums, run, search, shrink, threads};

/// `make test` runs these.
const SEEDS: u64 = 25_000;

#[test]
fn no_schedule_breaks_an_invariant() {
    let failing = search(0..SEEDS, None, threads(), 5, &Sums::default());
    for found in &failing {
        println!("SEED={} {}", found.seed, found.violation);
    }
    if let Some(found) = failing.first() {
        let least = shrink(&Plan::from_seed(found.seed), None);
        println!("{least:#?}");
        for line in run(&least, None, true).trace {
            println!("{line}");
        }
        panic!("SEED={}: {}", found.seed, found.violation);
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..50 {
        let [first, second] = [(), ()].map(|()| run(&Plan::from_seed(seed), None, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert!(first.trace.len() > 10, "seed {seed}");
    }
}
