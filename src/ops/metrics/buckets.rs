//! Series of each bucket. One small entry for each in one map: a family for each metric would need several times as much
//! memory with thousands of buckets.

use std::collections::HashMap;
use std::fmt::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::bucket::BucketId;

/// What is measured of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Tokens in the bucket when they were last counted.
    pub available: Option<u64>,
    /// The limit that the broker enforces.
    pub maximum: Option<u64>,
    /// Tokens issued since the ledger began.
    pub issued: Option<u64>,
    /// When the next refill is due.
    pub next_refill: Option<DateTime<Utc>>,
    /// When the newest refill was completed.
    pub last_refill: Option<DateTime<Utc>>,
    /// Whether its refills run.
    pub ready: bool,
    /// Why it needs a person, in one CamelCase word.
    pub stalled: Option<&'static str>,
}

/// Name, help, unit and value of a gauge.
type Gauge<'u> = (
    &'static str,
    &'static str,
    Option<&'u Unit>,
    fn(&Reading) -> Option<u64>,
);

#[derive(Clone, Debug, EncodeLabelSet)]
struct OfBucket {
    namespace: Arc<str>,
    name: Arc<str>,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct Stalled {
    namespace: Arc<str>,
    name: Arc<str>,
    reason: &'static str,
}

/// The readings of all buckets; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Buckets(Arc<Mutex<HashMap<BucketId, Reading>>>);

impl Buckets {
    pub(super) fn set(&self, id: &BucketId, reading: Reading) {
        self.readings().insert(id.clone(), reading);
    }

    pub(super) fn remove(&self, id: &BucketId) {
        self.readings().remove(id);
    }

    pub(super) fn clear(&self) {
        self.readings().clear();
    }

    fn readings(&self) -> MutexGuard<'_, HashMap<BucketId, Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Buckets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let readings = self.readings();
        let number = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let gauges: [Gauge<'_>; 5] = [
            (
                "tokens_available",
                "Tokens in the bucket when they were last counted",
                None,
                |reading| reading.available,
            ),
            (
                "tokens_maximum",
                "Limit of the bucket that the broker enforces",
                None,
                |reading| reading.maximum,
            ),
            (
                "next_refill_timestamp",
                "When the next refill is due; absent while none is",
                Some(&Unit::Seconds),
                |reading| seconds(reading.next_refill),
            ),
            (
                "last_refill_timestamp",
                "When the newest refill was completed",
                Some(&Unit::Seconds),
                |reading| seconds(reading.last_refill),
            ),
            (
                "bucket_ready",
                "1 while the bucket is refilled as its spec says",
                None,
                |reading| Some(reading.ready.into()),
            ),
        ];
        for (name, help, unit, value) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (id, reading) in readings.iter() {
                if let Some(value) = value(reading) {
                    ConstGauge::new(number(value)).encode(metric.encode_family(&labels(id))?)?;
                }
            }
        }
        let (name, help) = (
            "tokens_issued",
            "Tokens added to the bucket since its ledger began",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (id, reading) in readings.iter() {
            if let Some(issued) = reading.issued {
                ConstCounter::new(issued).encode(metric.encode_family(&labels(id))?)?;
            }
        }
        let (name, help) = (
            "bucket_stalled",
            "1 while the bucket needs a person, by the reason of its status",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (id, reading) in readings.iter() {
            if let Some(reason) = reading.stalled {
                let OfBucket { namespace, name } = labels(id);
                let labels = Stalled {
                    namespace,
                    name,
                    reason,
                };
                ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn seconds(at: Option<DateTime<Utc>>) -> Option<u64> {
    at.and_then(|at| u64::try_from(at.timestamp()).ok())
}

fn labels(id: &BucketId) -> OfBucket {
    let BucketId { namespace, name } = id.clone();
    OfBucket { namespace, name }
}
