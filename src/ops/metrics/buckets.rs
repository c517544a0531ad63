//! Series of each bucket.

use std::fmt::Error;

use chrono::{DateTime, Utc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::ops::readings::{BucketReading, Readings};
use bucket::BucketId;

/// Name, help, unit and value of a gauge.
type Gauge<'u> = (
    &'static str,
    &'static str,
    Option<&'u Unit>,
    fn(&BucketReading) -> Option<u64>,
);

/// The series of all buckets.
#[derive(Debug)]
pub(super) struct Buckets(pub(super) Readings);

impl Collector for Buckets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let entries = self.0.entries();
        let number = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let gauges: [Gauge<'_>; 6] = [
            (
                "tokens_available",
                "Tokens in the bucket when they were last counted",
                None,
                |entry| Some(entry.state()?.observed?.tokens),
            ),
            (
                "tokens_maximum",
                "Limit of the bucket that the broker enforces",
                None,
                |entry| entry.state()?.limit,
            ),
            (
                "next_refill_timestamp",
                "When the next refill is due; absent while none is",
                Some(&Unit::Seconds),
                |entry| seconds(entry.state()?.next_refill?),
            ),
            (
                "last_refill_timestamp",
                "When the newest refill was completed",
                Some(&Unit::Seconds),
                |entry| {
                    let state = entry.state()?;
                    seconds(state.last_refill.as_ref()?.completed_time)
                },
            ),
            (
                "bucket_ready",
                "1 while the bucket is refilled as its spec says",
                None,
                |entry| Some(entry.is_ready().into()),
            ),
            (
                "bucket_alert_when_empty",
                "1 for a bucket with the label tokenbucket.dev/alert-when-empty",
                None,
                |entry| entry.alert_when_empty.then_some(1),
            ),
        ];
        for (name, help, unit, value) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (id, entry) in entries.iter() {
                if let Some(value) = value(entry) {
                    ConstGauge::new(number(value)).encode(metric.encode_family(&labels(id))?)?;
                }
            }
        }
        let (name, help) = (
            "tokens_issued",
            "Tokens added to the bucket since its ledger began",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (id, entry) in entries.iter() {
            if let Some(issued) = entry.state().map(|state| state.issued) {
                ConstCounter::new(issued).encode(metric.encode_family(&labels(id))?)?;
            }
        }
        let (name, help) = (
            "bucket_stalled",
            "1 while the bucket needs a person, by the reason of its status",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (id, entry) in entries.iter() {
            if let Some(reason) = entry.stalled() {
                let [namespace, name] = labels(id);
                let labels = [namespace, name, ("reason", reason)];
                ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn seconds(at: DateTime<Utc>) -> Option<u64> {
    u64::try_from(at.timestamp()).ok()
}

fn labels(id: &BucketId) -> [(&'static str, &str); 2] {
    [("namespace", id.namespace()), ("name", id.name())]
}
