//! The custom resource `TokenBucket`: what users write ([`TokenBucketSpec`]), what they read ([`TokenBucketStatus`],
//! [`conditions`]), and the CustomResourceDefinition generated from both ([`crd`]).

pub mod conditions;
pub mod crd;
#[cfg(test)]
mod reference;
mod rules;
mod spec;
mod status;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

pub use bucket::{DeletionPolicy, MissedRefills, QueueType, Trigger};
pub use crd::crd_yaml;
pub use spec::{ConnectionSpec, SecretReference, TokenBucket, TokenBucketSpec};
pub use status::{LastRefill, TokenBucketStatus};

/// Annotation that asks for one refill of `amount` now; every new value is one request.
pub const REFILL_REQUESTED_AT: &str = "tokenbucket.dev/refill-requested-at";

/// Label that says, with the value `true`, that the bucket should never be empty for long: there is an alert about it.
pub const ALERT_WHEN_EMPTY: &str = "tokenbucket.dev/alert-when-empty";

/// Finalizer that keeps a deleted resource until its queues are cleaned up.
pub const FINALIZER: &str = "tokenbucket.dev/queues";

impl TokenBucket {
    /// Name of the bucket at the broker, without prefix: `spec.name`, else `metadata.name` with `-` and `.` as `_`.
    pub fn bucket_name(&self) -> String {
        match &self.spec.name {
            Some(name) => name.clone(),
            None => self.name_any().replace(['-', '.'], "_"),
        }
    }

    /// Name of the queue that holds the tokens.
    pub fn queue_name(&self) -> String {
        bucket::queue_name(&self.bucket_name())
    }

    /// Name of the queue that holds the bucket's ledger.
    pub fn ledger_queue_name(&self) -> String {
        bucket::ledger_queue_name(&self.bucket_name())
    }

    /// Value of the annotation [`REFILL_REQUESTED_AT`] when it has not been carried out yet.
    pub fn pending_refill_request(&self) -> Option<&str> {
        let requested = self.annotations().get(REFILL_REQUESTED_AT)?;
        let handled = self
            .status
            .as_ref()
            .and_then(|status| status.last_handled_refill_request.as_ref());
        (Some(requested) != handled).then_some(requested)
    }
}

/// The Kubernetes form of an instant: whole seconds, so that what is written compares equal to what is read back.
pub fn to_time(at: DateTime<Utc>) -> Time {
    // Every second that chrono can name and jiff cannot lies outside the years -9999…9999.
    Time(jiff::Timestamp::from_second(at.timestamp()).unwrap_or_default())
}

/// The instant that a Kubernetes time stands for.
pub fn from_time(time: &Time) -> DateTime<Utc> {
    DateTime::from_timestamp(
        time.0.as_second(),
        time.0.subsec_nanosecond().unsigned_abs(),
    )
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(manifest: &str) -> TokenBucket {
        serde_yaml::from_str(manifest).unwrap()
    }

    #[test]
    fn a_bucket_without_a_name_is_named_after_its_resource() {
        let bucket = bucket(
            "{apiVersion: tokenbucket.dev/v1alpha1, kind: TokenBucket, metadata: {name: my-api.v2},
              spec: {schedule: '@hourly', amount: 1, maximum: 2}}",
        );
        assert_eq!(bucket.bucket_name(), "my_api_v2");
        assert_eq!(bucket.queue_name(), "token_bucket_my_api_v2");
        assert_eq!(bucket.ledger_queue_name(), "token_bucket_my_api_v2.ledger");
    }

    #[test]
    fn a_named_bucket_keeps_its_name() {
        let bucket = bucket(
            "{apiVersion: tokenbucket.dev/v1alpha1, kind: TokenBucket, metadata: {name: my-api},
              spec: {name: Other, schedule: '@hourly', amount: 1, maximum: 2}}",
        );
        assert_eq!(bucket.queue_name(), "token_bucket_Other");
    }

    #[test]
    fn a_manifest_read_without_an_api_server_has_the_same_defaults() {
        let bucket = bucket(
            "{apiVersion: tokenbucket.dev/v1alpha1, kind: TokenBucket, metadata: {name: a},
              spec: {schedule: '@hourly', amount: 1, maximum: 2}}",
        );
        let TokenBucketSpec {
            name,
            schedule,
            time_zone,
            amount,
            maximum,
            refill_queue,
            initial_tokens,
            suspend,
            missed_refills,
            starting_deadline_seconds,
            queue_type,
            deletion_policy,
            connection,
        } = bucket.spec;
        assert_eq!(
            (name, schedule.as_str(), amount, maximum),
            (None, "@hourly", 1, 2)
        );
        assert_eq!(
            (time_zone.as_str(), refill_queue.as_str()),
            ("Etc/UTC", "token_buckets.refill")
        );
        assert_eq!(
            (initial_tokens, suspend, starting_deadline_seconds),
            (0, false, None)
        );
        assert_eq!(
            (missed_refills, queue_type, deletion_policy, connection),
            (
                MissedRefills::Latest,
                QueueType::Classic,
                DeletionPolicy::Delete,
                None
            )
        );
    }

    #[test]
    fn a_refill_request_is_pending_until_its_value_was_carried_out() {
        let mut bucket = bucket(
            "{apiVersion: tokenbucket.dev/v1alpha1, kind: TokenBucket,
              metadata: {name: a, annotations: {tokenbucket.dev/refill-requested-at: one}},
              spec: {schedule: '@hourly', amount: 1, maximum: 2}}",
        );
        assert_eq!(bucket.pending_refill_request(), Some("one"));
        let handled = |value: &str| {
            Some(Box::new(TokenBucketStatus {
                last_handled_refill_request: Some(value.to_owned()),
                ..Default::default()
            }))
        };
        bucket.status = handled("one");
        assert_eq!(bucket.pending_refill_request(), None);
        bucket.status = handled("zero");
        assert_eq!(bucket.pending_refill_request(), Some("one"));
    }

    #[test]
    fn times_are_kept_to_the_second() {
        let at = DateTime::parse_from_rfc3339("2026-11-24T10:00:07.9Z")
            .unwrap()
            .to_utc();
        assert_eq!(
            serde_json::to_value(to_time(at)).unwrap(),
            "2026-11-24T10:00:07Z"
        );
        assert_eq!(
            from_time(&to_time(at)).to_rfc3339(),
            "2026-11-24T10:00:07+00:00"
        );
    }
}
