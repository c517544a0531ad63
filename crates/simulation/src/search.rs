//! Many schedules, on all cores, and what to do with one that fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::operator::Mutant;
use crate::plan::Plan;
use crate::world::{self, Report};

/// A schedule that fails.
#[derive(Clone, Debug)]
pub struct Failing {
    /// Where it comes from.
    pub seed: u64,
    /// What should not have been.
    pub violation: String,
}

/// Sums over many schedules.
#[derive(Debug, Default)]
pub struct Sums {
    /// Schedules.
    pub schedules: AtomicU64,
    /// Steps of all kinds.
    pub events: AtomicU64,
    /// Refills.
    pub refills: AtomicU64,
}

/// Runs one plan. A panic is a violation too.
#[must_use]
pub fn run(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Report {
    catch_unwind(AssertUnwindSafe(|| world::run(plan, mutant, traced))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Report {
            violation: Some(format!("panic: {}", text.unwrap_or_default())),
            events: 0,
            refills: 0,
            trace: Vec::new(),
        }
    })
}

/// Runs the schedules of all these seeds, until `most` have failed; `threads` at a time. The failing ones are the answer,
/// in order of their seeds.
#[must_use]
pub fn search(
    seeds: std::ops::Range<u64>,
    mutant: Option<Mutant>,
    threads: usize,
    most: usize,
    sums: &Sums,
) -> Vec<Failing> {
    let next = AtomicU64::new(seeds.start);
    let enough = AtomicBool::new(false);
    let failing = Mutex::new(Vec::new());
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let report = run(&Plan::from_seed(seed), mutant, false);
            sums.schedules.fetch_add(1, Ordering::Relaxed);
            sums.events.fetch_add(report.events, Ordering::Relaxed);
            sums.refills.fetch_add(report.refills, Ordering::Relaxed);
            if let Some(violation) = report.violation
                && let Ok(mut failing) = failing.lock()
            {
                failing.push(Failing { seed, violation });
                enough.store(failing.len() >= most, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut failing = failing.into_inner().unwrap_or_default();
    failing.sort_by_key(|failing| failing.seed);
    failing
}

/// How many schedules run at a time here.
#[must_use]
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Leaves out of a failing plan what it fails without: steps, takers, operators.
#[must_use]
pub fn shrink(plan: &Plan, mutant: Option<Mutant>) -> Plan {
    let kind = |violation: &str| violation.split_once(':').map(|(kind, _)| kind.to_owned());
    let fails = |plan: &Plan| {
        run(plan, mutant, false)
            .violation
            .and_then(|violation| kind(&violation))
    };
    let wanted = fails(plan);
    let mut least = plan.clone();
    loop {
        let smaller = smaller(&least)
            .into_iter()
            .find(|plan| fails(plan) == wanted);
        match smaller {
            Some(smaller) => least = smaller,
            None => return least,
        }
    }
}

/// Plans in which one thing less happens.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    let len = plan.steps.len();
    if len > 3 {
        for half in [0..len / 2, len / 2..len] {
            let mut smaller = plan.clone();
            smaller.steps.drain(half);
            plans.push(smaller);
        }
    }
    for step in 0..len {
        let mut smaller = plan.clone();
        smaller.steps.remove(step);
        plans.push(smaller);
    }
    for bucket in 0..plan.takers.len() {
        if plan.takers[bucket].is_some() {
            let mut smaller = plan.clone();
            smaller.takers[bucket] = None;
            plans.push(smaller);
        }
    }
    // Steps name operators by their numbers, so only the last one can go, when nothing happens to it.
    let last = plan.operators.len() - 1;
    let of_cluster =
        |operator: &crate::plan::Operator| operator.cluster == plan.operators[last].cluster;
    let has_peer = plan.operators.iter().filter(|it| of_cluster(it)).count() > 1;
    if has_peer && !plan.any(|step| step.operator() == Some(last)) {
        let mut smaller = plan.clone();
        smaller.operators.pop();
        plans.push(smaller);
    }
    plans
}
