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

use crate::ops::readings::{Reading, Readings};
use api::{MissedRefills, Trigger};
use bucket::BucketId;
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
struct ByPolicy {
    policy: Word<MissedRefills>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    method: &'static str,
    code: u16,
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

impl OfBroker {
    fn new(broker: &str) -> Self {
        let broker = broker.to_owned();
        Self { broker }
    }
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
    skipped: Family<ByPolicy, Counter>,
    requests: Family<OfRequest, Counter>,
    readings: Readings,
    repairs: Counter,
    ledgers_lost: Counter,
    connections: Family<OfBroker, Counter>,
    passes: Histogram,
    dropped: Family<ByReason, Counter>,
    parked: Family<ByReason, Counter>,
    lag: Histogram,
    connected: Family<OfBroker, Gauge>,
    reconcile_errors: Family<ByReason, Counter>,
    status_writes: Family<ByResult, Counter>,
    leader: Gauge,
    broker_file: Gauge,
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
            skipped: Family::default(),
            requests: Family::default(),
            readings,
            repairs: Counter::default(),
            ledgers_lost: Counter::default(),
            connections: Family::default(),
            passes: Histogram::new(PASS_BUCKETS),
            dropped: Family::default(),
            parked: Family::default(),
            lag: Histogram::new(LAG_BUCKETS),
            connected: Family::default(),
            reconcile_errors: Family::default(),
            status_writes: Family::default(),
            leader: Gauge::default(),
            broker_file: Gauge::default(),
        };
        metrics.broker_file(true);
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
            (
                "ledgers_lost",
                "Ledgers of buckets that were lost and written anew",
                &self.ledgers_lost,
            ),
        ] {
            ours.register(name, help, counter.clone());
        }
        let help = "Refills carried out: added, or full when nothing fitted";
        ours.register("refills", help, self.refills.clone());
        let help = "Ticks that were missed and are not carried out, by spec.missedRefills";
        ours.register("ticks_left_out", help, self.skipped.clone());
        let help = "Requests to the Kubernetes API, by method and status; status 0 when none came";
        ours.register("api_requests", help, self.requests.clone());
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
        let help = "0 while the file of --amqp-url-file names no broker that can be used, else 1";
        ours.register("broker_file_usable", help, self.broker_file.clone());
    }

    /// Everything, in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: the text goes to memory.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        // It grew by doubling.
        text.shrink_to_fit();
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

    /// Ticks were missed and are not carried out.
    pub fn skipped(&self, policy: MissedRefills, ticks: u64) {
        let policy = Word(policy);
        self.skipped
            .get_or_create(&ByPolicy { policy })
            .inc_by(ticks);
    }

    /// A request to the Kubernetes API ended, or its answer began; 0 when there was none.
    pub fn api_request(&self, method: &'static str, code: u16) {
        self.requests
            .get_or_create(&OfRequest { method, code })
            .inc();
    }

    /// The queue of a bucket was missing.
    pub fn repaired(&self) {
        self.repairs.inc();
    }

    /// The ledger of a bucket was lost.
    pub fn ledger_lost(&self) {
        self.ledgers_lost.inc();
    }

    /// Something is known anew about a bucket.
    pub fn bucket(&self, id: &BucketId, reading: Reading) {
        self.readings.set(id, reading);
    }

    /// Whether there shall be an alert when the bucket is empty for long.
    pub fn alert_when_empty(&self, id: &BucketId, wanted: bool) {
        self.readings.alert_when_empty(id, wanted);
    }

    /// A bucket is gone: so are its series.
    pub fn forget(&self, id: &BucketId) {
        self.readings.remove(id);
    }

    /// A pass over a resource ended.
    pub fn reconciled(&self, took: Duration) {
        self.passes.observe(took.as_secs_f64());
    }

    /// A connection to the broker was made, or could not be. `broker` is a name that tells nothing of what is in a Secret.
    pub fn connection(&self, broker: &str, connected: bool) {
        if connected {
            self.connections.get_or_create(&OfBroker::new(broker)).inc();
        }
        self.broker_connected(broker, connected);
    }

    /// The broker is connected or away.
    pub fn broker_connected(&self, broker: &str, connected: bool) {
        let gauge = self.connected.get_or_create(&OfBroker::new(broker));
        gauge.set(connected.into());
    }

    /// The file that names the operator's own broker can be used, or cannot.
    pub fn broker_file(&self, usable: bool) {
        self.broker_file.set(usable.into());
    }

    /// No bucket uses the broker any more: its series are gone.
    pub fn forget_broker(&self, broker: &str) {
        let broker = OfBroker::new(broker);
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
mod tests;
