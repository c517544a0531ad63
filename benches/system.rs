//! What the system says about processes and about itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Testbed;

/// `USER_HZ`, which is 100 on every Linux that runs this.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process of one of the testbed's servers: `etcd`, `kube-apiserver`, `rabbitmq`.
pub fn server(testbed: &Testbed, name: &str) -> u32 {
    let file = Path::new(testbed.setting("RABBITMQCTL")).with_file_name("pids");
    let pids = fs::read_to_string(file).expect("the list of servers");
    let mut named = pids.lines().filter_map(|line| line.strip_prefix(name));
    let pid = named.find_map(|rest| rest.split_whitespace().next()?.parse().ok());
    pid.unwrap_or_else(|| panic!("the testbed has no {name}"))
}

/// Files that the process `pid` may have open at one time.
pub fn open_files(pid: u32) -> usize {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process lives");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.expect("a number of files")
}

/// Processor time that the process `pid` has used.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // The name in parentheses may have spaces; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: f64 = fields[11..=12]
        .iter()
        .map(|field| field.parse::<f64>().expect("a number"))
        .sum();
    Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
}

/// Resident memory of the process `pid`, in MiB: now, and the most it ever was.
pub fn memory(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.expect("a size in KiB") / 1024.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Where a result comes from.
pub fn machine() -> Value {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model);
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "operator": env!("CARGO_PKG_VERSION"),
    })
}
