//! What buckets cost while nothing happens to them.

use std::time::{Duration, Instant};

use crate::support::{Operator, eventually};
use crate::system;

/// How long idleness is watched.
const WHILE: Duration = Duration::from_secs(10);
/// Sweeps whose time is taken; the first ones after a start compete with the rest of it.
const SWEEPS: usize = 2;
/// Longest time until they are over.
const LIMIT: Duration = Duration::from_secs(120);

/// What counting costs.
#[derive(Default)]
pub struct Counting {
    /// Seconds of each sweep over all buckets.
    pub sweeps: Vec<f64>,
    /// Share of one core, in percent, sweeps included.
    pub cpu: Vec<f64>,
    /// Resident memory afterwards, in MiB.
    pub memory: Vec<f64>,
}

/// The share of one core, in percent, that the process uses now.
pub async fn idle(pid: u32) -> f64 {
    let (used, start) = (system::cpu(pid), Instant::now());
    tokio::time::sleep(WHILE).await;
    100.0 * (system::cpu(pid) - used).as_secs_f64() / start.elapsed().as_secs_f64()
}

impl Counting {
    /// Watches an operator that counts `buckets` at its default interval.
    pub async fn measure(&mut self, operator: &Operator, buckets: usize) {
        let (pid, start) = (operator.pid(), Instant::now());
        let used = system::cpu(pid);
        let seen = sweeps(operator, buckets).len();
        let all = eventually("sweeps", LIMIT, async || {
            match sweeps(operator, buckets).split_off(seen) {
                all if all.len() >= SWEEPS => Ok(all),
                all => Err(format!("{all:?}")),
            }
        })
        .await;
        let used = (system::cpu(pid) - used).as_secs_f64();
        self.sweeps.extend(all);
        self.cpu.push(100.0 * used / start.elapsed().as_secs_f64());
        self.memory.push(system::memory(pid).0);
    }
}

/// Seconds of each sweep over all `buckets`, as the operator has logged them.
fn sweeps(operator: &Operator, buckets: usize) -> Vec<f64> {
    let logs = operator.logs();
    let of_all = format!(" buckets={buckets} took_ms=");
    let took = logs.lines().filter_map(|line| line.split_once(&of_all));
    took.filter_map(|(_, took)| took.trim().parse::<f64>().ok())
        .map(|milliseconds| milliseconds / 1000.0)
        .collect()
}
