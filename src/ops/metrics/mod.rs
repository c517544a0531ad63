//! What Prometheus reads. Labels are bounded: words from this program, brokers, and buckets that exist.

mod buckets;
mod process;

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::api::Trigger;
use crate::bucket::BucketId;
use crate::ops::readings::{Reading, Readings};
use buckets::Buckets;
use process::OfProcess;

/// Seconds from due to committed. A tick is punctual within tens of milliseconds; minutes mean that something was away.
const LAG_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0,
];

/// Seconds that a pass over a resource takes: mostly requests to the API server.
const PASS_BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 10.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefill {
    trigger: Word<Trigger>,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBroker {
    broker: String,
}

/// An enum whose variants are words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word<T>(T);

impl<T: std::fmt::Debug> EncodeLabelValue for Word<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        format!("{:?}", self.0).encode(encoder)
    }
}

/// All metrics of the program.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    refills: Family<OfRefill, Counter>,
    tokens_added: Counter,
    readings: Readings,
    repairs: Counter,
    connections: Family<OfBroker, Counter>,
    passes: Histogram,
    dropped: Family<ByReason, Counter>,
    parked: Family<ByReason, Counter>,
    lag: Histogram,
    connected: Family<OfBroker, Gauge>,
    reconcile_errors: Family<ByReason, Counter>,
    status_writes: Family<ByResult, Counter>,
    leader: Gauge,
}

impl Metrics {
    /// Nothing is counted yet. Series of each bucket are optional: with very many buckets they are most of what a
    /// scrape transfers.
    #[must_use]
    pub fn new(readings: Readings, of_each_bucket: bool) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            refills: Family::default(),
            tokens_added: Counter::default(),
            readings,
            repairs: Counter::default(),
            connections: Family::default(),
            passes: Histogram::new(PASS_BUCKETS),
            dropped: Family::default(),
            parked: Family::default(),
            lag: Histogram::new(LAG_BUCKETS),
            connected: Family::default(),
            reconcile_errors: Family::default(),
            status_writes: Family::default(),
            leader: Gauge::default(),
        };
        metrics.register(of_each_bucket);
        metrics
    }

    fn register(&mut self, of_each_bucket: bool) {
        self.registry.register_collector(Box::new(OfProcess));
        let ours = self.registry.sub_registry_with_prefix("tokenbucket");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        ours.register("build", "The running program", version);
        if of_each_bucket {
            ours.register_collector(Box::new(Buckets(self.readings.clone())));
        }
        for (name, help, counter) in [
            (
                "tokens_added",
                "Tokens added by refills, all buckets together",
                &self.tokens_added,
            ),
            (
                "queue_repairs",
                "Queues of buckets that somebody had deleted, declared again",
                &self.repairs,
            ),
        ] {
            ours.register(name, help, counter.clone());
        }
        let help = "Refills carried out: added, or full when nothing fitted";
        ours.register("refills", help, self.refills.clone());
        for (name, help, family) in [
            (
                "requests_dropped",
                "Refill requests that were not carried out",
                &self.dropped,
            ),
            (
                "requests_parked",
                "Refill requests moved to the queue of rejected ones",
                &self.parked,
            ),
            (
                "reconcile_errors",
                "Passes over a TokenBucket that failed",
                &self.reconcile_errors,
            ),
        ] {
            ours.register(name, help, family.clone());
        }
        for (name, help, histogram) in [
            ("refill_lag", "From due to committed", &self.lag),
            (
                "reconcile_duration",
                "How long passes over a TokenBucket took",
                &self.passes,
            ),
        ] {
            ours.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        let help = "1 while the broker is connected";
        ours.register("broker_connected", help, self.connected.clone());
        let help = "Connections made to the broker, the first one included";
        ours.register("broker_connections", help, self.connections.clone());
        let help = "Status writes, by result";
        ours.register("status_writes", help, self.status_writes.clone());
        ours.register("leader", "1 while this replica leads", self.leader.clone());
    }

    /// Everything, in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: the text goes to memory.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A refill was committed; `lag` from due to committed when it was scheduled.
    pub fn refilled(&self, trigger: Trigger, added: u64, lag: Option<Duration>) {
        let result = if added == 0 { "full" } else { "added" };
        self.refills
            .get_or_create(&OfRefill {
                trigger: Word(trigger),
                result,
            })
            .inc();
        self.tokens_added.inc_by(added);
        if let Some(lag) = lag {
            self.lag.observe(lag.as_secs_f64());
        }
    }

    /// A request was not carried out.
    pub fn dropped(&self, reason: &'static str, parked: bool) {
        let family = if parked { &self.parked } else { &self.dropped };
        family.get_or_create(&ByReason { reason }).inc();
    }

    /// The queue of a bucket was missing.
    pub fn repaired(&self) {
        self.repairs.inc();
    }

    /// Something is known anew about a bucket.
    pub fn bucket(&self, id: &BucketId, reading: Reading) {
        self.readings.set(id, reading);
    }

    /// A bucket is gone: so are its series.
    pub fn forget(&self, id: &BucketId) {
        self.readings.remove(id);
    }

    /// A pass over a resource ended.
    pub fn reconciled(&self, took: Duration) {
        self.passes.observe(took.as_secs_f64());
    }

    /// The broker is connected or away. `broker` is its name without credentials.
    pub fn connection(&self, broker: &str, connected: bool) {
        let broker = OfBroker {
            broker: broker.to_owned(),
        };
        if connected {
            self.connections.get_or_create(&broker).inc();
        }
        self.connected.get_or_create(&broker).set(connected.into());
    }

    /// No bucket uses the broker any more: its series are gone.
    pub fn forget_broker(&self, broker: &str) {
        let broker = OfBroker {
            broker: broker.to_owned(),
        };
        self.connected.remove(&broker);
        self.connections.remove(&broker);
    }

    /// A pass over a resource failed.
    pub fn reconcile_error(&self, reason: &'static str) {
        self.reconcile_errors
            .get_or_create(&ByReason { reason })
            .inc();
    }

    /// A status was written, or not: one of a few words.
    pub fn status_write(&self, result: &'static str) {
        self.status_writes.get_or_create(&ByResult { result }).inc();
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leader.get() == 1
    }

    /// This replica leads, or stands by: then what it knew of buckets and brokers is of the past.
    pub fn leading(&self, leader: bool) {
        self.leader.set(leader.into());
        if !leader {
            self.readings.clear();
            self.connected.clear();
            self.connections.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::*;
    use crate::bucket::Refill;
    use crate::engine::{BucketState, Observed, Phase};

    fn id() -> BucketId {
        BucketId::new("shop", "api")
    }

    fn reading() -> Reading {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        Reading::Told(Arc::new(BucketState {
            revision: 1,
            phase: Phase::Ready,
            observed: Some(Observed {
                tokens: 3,
                at: at(1_750_000_000),
            }),
            limit: Some(25),
            last_refill: Some(Refill {
                scheduled_time: None,
                completed_time: at(1_700_000_000),
                added: 3,
                trigger: Trigger::Manual,
            }),
            next_refill: Some(at(1_800_000_000)),
            issued: 70,
            refill_request: None,
        }))
    }

    /// With a sample of everything.
    fn full() -> Metrics {
        let metrics = Metrics::new(Readings::default(), true);
        metrics.refilled(Trigger::Schedule, 7, Some(Duration::from_millis(7)));
        metrics.refilled(Trigger::Manual, 0, None);
        metrics.dropped("UnknownBucket", false);
        metrics.dropped("Malformed", true);
        metrics.repaired();
        metrics.bucket(&id(), reading());
        let stalled = BucketId::new("shop", "bad");
        let reason = Some("NameConflict");
        metrics.bucket(&stalled, Reading::Refused { stalled: reason });
        metrics.connection("127.0.0.1:5672", true);
        metrics.reconciled(Duration::from_millis(2));
        metrics.reconcile_error("InvalidSchedule");
        metrics.status_write("ok");
        metrics.leading(true);
        metrics
    }

    #[test]
    fn names_follow_the_conventions() {
        let text = full().encode().unwrap();
        for line in [
            r#"tokenbucket_build_info{version=""#,
            r#"tokenbucket_refills_total{trigger="Schedule",result="added"} 1"#,
            r#"tokenbucket_refills_total{trigger="Manual",result="full"} 1"#,
            "tokenbucket_tokens_added_total 7",
            "tokenbucket_queue_repairs_total 1",
            r#"tokenbucket_tokens_available{namespace="shop",name="api"} 3"#,
            r#"tokenbucket_tokens_maximum{namespace="shop",name="api"} 25"#,
            r#"tokenbucket_tokens_issued_total{namespace="shop",name="api"} 70"#,
            r#"tokenbucket_next_refill_timestamp_seconds{namespace="shop",name="api"} 1800000000"#,
            r#"tokenbucket_last_refill_timestamp_seconds{namespace="shop",name="api"} 1700000000"#,
            r#"tokenbucket_bucket_ready{namespace="shop",name="api"} 1"#,
            r#"tokenbucket_bucket_stalled{namespace="shop",name="bad",reason="NameConflict"} 1"#,
            r#"tokenbucket_requests_dropped_total{reason="UnknownBucket"} 1"#,
            r#"tokenbucket_requests_parked_total{reason="Malformed"} 1"#,
            r#"tokenbucket_refill_lag_seconds_bucket{le="0.01"} 1"#,
            r#"tokenbucket_reconcile_duration_seconds_bucket{le="0.005"} 1"#,
            r#"tokenbucket_broker_connected{broker="127.0.0.1:5672"} 1"#,
            r#"tokenbucket_broker_connections_total{broker="127.0.0.1:5672"} 1"#,
            r#"tokenbucket_reconcile_errors_total{reason="InvalidSchedule"} 1"#,
            r#"tokenbucket_status_writes_total{result="ok"} 1"#,
            "tokenbucket_leader 1",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    /// The metrics that a text of PromQL names, ours and those of the process.
    fn named(text: &str) -> Vec<&str> {
        text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
            .filter(|word| word.starts_with("tokenbucket_") || word.starts_with("process_"))
            .collect()
    }

    #[test]
    fn alerts_and_dashboard_use_metrics_that_exist() {
        let text = full().encode().unwrap();
        let chart = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/charts/token-bucket-operator/files"
        );
        for file in ["alerts.yaml", "dashboard.json"] {
            let used = std::fs::read_to_string(format!("{chart}/{file}")).unwrap();
            let used = named(&used);
            assert!(used.len() > 5, "{file} names {used:?}");
            for name in used {
                assert!(
                    text.contains(&format!("\n{name} ")) || text.contains(&format!("\n{name}{{")),
                    "{file}: {name}"
                );
            }
        }
    }

    #[test]
    fn a_replica_that_leads_no_more_knows_no_bucket_and_no_broker() {
        let metrics = full();
        metrics.leading(false);
        let text = metrics.encode().unwrap();
        assert!(
            !text.contains("shop") && !text.contains("127.0.0.1"),
            "{text}"
        );
    }

    #[test]
    fn series_vanish_with_their_bucket() {
        let metrics = Metrics::new(Readings::default(), true);
        metrics.bucket(&id(), reading());
        metrics.forget(&id());
        assert!(!metrics.encode().unwrap().contains("shop"));
    }

    #[test]
    fn series_of_each_bucket_can_be_switched_off() {
        let metrics = Metrics::new(Readings::default(), false);
        metrics.bucket(&id(), reading());
        let text = metrics.encode().unwrap();
        assert!(!text.contains("shop") && text.contains("tokenbucket_leader"));
    }
}
