//! Metrics of the process, under the names that Prometheus' client libraries have agreed on
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). Read when they are asked for.

use std::fmt::Error;

use procfs::process::Process;
use procfs::{ProcResult, WithCurrentSystemInfo};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The process itself.
#[derive(Debug)]
pub(super) struct OfProcess;

struct Numbers {
    cpu_seconds: f64,
    resident_bytes: i64,
    open_fds: i64,
    max_fds: Option<i64>,
    started: f64,
}

fn read() -> ProcResult<Numbers> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    #[expect(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let boot = procfs::boot_time_secs()? as f64;
    let limit = process.limits()?.max_open_files.soft_limit;
    Ok(Numbers {
        cpu_seconds: seconds(stat.utime + stat.stime),
        resident_bytes: i64::try_from(stat.rss_bytes().get()).unwrap_or(i64::MAX),
        open_fds: i64::try_from(process.fd_count()?).unwrap_or(i64::MAX),
        max_fds: match limit {
            procfs::process::LimitValue::Value(most) => i64::try_from(most).ok(),
            procfs::process::LimitValue::Unlimited => None,
        },
        started: boot + seconds(stat.starttime),
    })
}

impl Collector for OfProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        // A hardened /proc may hide it; the rest of the metrics is worth having all the same.
        let Ok(numbers) = read() else { return Ok(()) };
        let (name, help) = ("process_cpu_seconds", "Processor time that was used");
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(numbers.cpu_seconds).encode(metric)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory that is resident",
                Some(numbers.resident_bytes),
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                Some(numbers.open_fds),
            ),
            (
                "process_max_fds",
                "File descriptors that may be open",
                numbers.max_fds,
            ),
        ] {
            if let Some(value) = value {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        let (name, help) = ("process_start_time_seconds", "When the process was started");
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(numbers.started).encode(metric)
    }
}
