//! What Prometheus reads. Labels are bounded: words from this program, brokers, and buckets that exist.

use std::sync::Arc;
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

/// Seconds from due to committed. A tick is punctual within tens of milliseconds; minutes mean that something was away.
const LAG_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0,
];

/// Labels of a bucket's series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBucket {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl From<&BucketId> for OfBucket {
    fn from(id: &BucketId) -> Self {
        let BucketId { namespace, name } = id.clone();
        Self { namespace, name }
    }
}

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
    available: Family<OfBucket, Gauge>,
    maximum: Family<OfBucket, Gauge>,
    dropped: Family<ByReason, Counter>,
    parked: Family<ByReason, Counter>,
    lag: Histogram,
    connected: Family<OfBroker, Gauge>,
    reconcile_errors: Family<ByReason, Counter>,
    status_writes: Family<ByResult, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tokenbucket");
        registry.register(
            "build",
            "The running program",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let mut metrics = Self {
            registry,
            refills: Family::default(),
            tokens_added: Counter::default(),
            available: Family::default(),
            maximum: Family::default(),
            dropped: Family::default(),
            parked: Family::default(),
            lag: Histogram::new(LAG_BUCKETS),
            connected: Family::default(),
            reconcile_errors: Family::default(),
            status_writes: Family::default(),
            leader: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let Self {
            registry,
            refills,
            tokens_added,
            available,
            maximum,
            dropped,
            parked,
            lag,
            connected,
            reconcile_errors,
            status_writes,
            leader,
        } = self;
        registry.register(
            "refills",
            "Refills carried out: added, or full when nothing fitted",
            refills.clone(),
        );
        registry.register(
            "tokens_added",
            "Tokens added by refills",
            tokens_added.clone(),
        );
        registry.register(
            "tokens_available",
            "Tokens in the bucket when last counted",
            available.clone(),
        );
        registry.register(
            "tokens_maximum",
            "Limit of the bucket that the broker enforces",
            maximum.clone(),
        );
        registry.register(
            "requests_dropped",
            "Refill requests that were not carried out",
            dropped.clone(),
        );
        registry.register(
            "requests_parked",
            "Refill requests moved to the queue of rejected ones",
            parked.clone(),
        );
        registry.register_with_unit(
            "refill_lag",
            "From due to committed",
            Unit::Seconds,
            lag.clone(),
        );
        registry.register(
            "broker_connected",
            "1 while the broker is connected",
            connected.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Passes over a TokenBucket that failed",
            reconcile_errors.clone(),
        );
        registry.register(
            "status_writes",
            "Status writes, by result",
            status_writes.clone(),
        );
        registry.register("leader", "1 while this replica leads", leader.clone());
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

    /// A bucket was counted.
    pub fn observed(&self, id: &BucketId, available: Option<u64>, maximum: Option<u64>) {
        let labels = OfBucket::from(id);
        for (family, tokens) in [(&self.available, available), (&self.maximum, maximum)] {
            if let Some(tokens) = tokens.and_then(|tokens| i64::try_from(tokens).ok()) {
                family.get_or_create(&labels).set(tokens);
            }
        }
    }

    /// A bucket is gone: so are its series.
    pub fn forget(&self, id: &BucketId) {
        let labels = OfBucket::from(id);
        self.available.remove(&labels);
        self.maximum.remove(&labels);
    }

    /// The broker is connected or away. `broker` is its name without credentials.
    pub fn connection(&self, broker: &str, connected: bool) {
        self.connected
            .get_or_create(&OfBroker {
                broker: broker.to_owned(),
            })
            .set(connected.into());
    }

    /// No bucket uses the broker any more: its series is gone.
    pub fn forget_broker(&self, broker: &str) {
        self.connected.remove(&OfBroker {
            broker: broker.to_owned(),
        });
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

    /// This replica leads, or stands by: then what it knew of buckets and brokers is of the past.
    pub fn leading(&self, leader: bool) {
        self.leader.set(leader.into());
        if !leader {
            self.available.clear();
            self.maximum.clear();
            self.connected.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> BucketId {
        BucketId {
            namespace: "shop".into(),
            name: "api".into(),
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        let metrics = Metrics::default();
        metrics.refilled(Trigger::Schedule, 7, Some(Duration::from_millis(7)));
        metrics.refilled(Trigger::Manual, 0, None);
        metrics.dropped("UnknownBucket", false);
        metrics.dropped("Malformed", true);
        metrics.observed(&id(), Some(3), Some(25));
        metrics.connection("127.0.0.1:5672", true);
        metrics.reconcile_error("InvalidSchedule");
        metrics.status_write("ok");
        metrics.leading(true);
        let text = metrics.encode().unwrap();
        for line in [
            r#"tokenbucket_build_info{version=""#,
            r#"tokenbucket_refills_total{trigger="Schedule",result="added"} 1"#,
            r#"tokenbucket_refills_total{trigger="Manual",result="full"} 1"#,
            "tokenbucket_tokens_added_total 7",
            r#"tokenbucket_tokens_available{namespace="shop",name="api"} 3"#,
            r#"tokenbucket_tokens_maximum{namespace="shop",name="api"} 25"#,
            r#"tokenbucket_requests_dropped_total{reason="UnknownBucket"} 1"#,
            r#"tokenbucket_requests_parked_total{reason="Malformed"} 1"#,
            r#"tokenbucket_refill_lag_seconds_bucket{le="0.01"} 1"#,
            r#"tokenbucket_broker_connected{broker="127.0.0.1:5672"} 1"#,
            r#"tokenbucket_reconcile_errors_total{reason="InvalidSchedule"} 1"#,
            r#"tokenbucket_status_writes_total{result="ok"} 1"#,
            "tokenbucket_leader 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_replica_that_leads_no_more_knows_no_bucket_and_no_broker() {
        let metrics = Metrics::default();
        metrics.observed(&id(), Some(3), Some(25));
        metrics.connection("127.0.0.1:5672", true);
        metrics.leading(false);
        let text = metrics.encode().unwrap();
        assert!(
            !text.contains("shop") && !text.contains("127.0.0.1"),
            "{text}"
        );
    }

    #[test]
    fn series_vanish_with_their_bucket() {
        let metrics = Metrics::default();
        metrics.observed(&id(), Some(3), Some(25));
        metrics.forget(&id());
        assert!(!metrics.encode().unwrap().contains("shop"));
    }
}
