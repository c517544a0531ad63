//! The validate step: what only the operator can judge about a resource. No client required.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::resource::id_of;
use api::{REFILL_REQUESTED_AT, TokenBucket, TokenBucketSpec, from_time};
use bucket::Bucket;
use schedule::{ParseError, Timetable, ZoneError, parse_zone};

/// Why a person must change the resource before its bucket is refilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// The expression is no schedule.
    #[error("spec.schedule: {0}")]
    Schedule(#[from] ParseError),
    /// The schedule is never due.
    #[error(
        "spec.schedule: {0:?} is not due again before the year 2200: choose dates that come, and times that clock changes \
         do not skip"
    )]
    NeverDue(String),
    /// The time zone does not exist.
    #[error("spec.timeZone: {0}")]
    TimeZone(#[from] ZoneError),
    /// The annotation that asks for a refill is too long, or not printable: its value is kept in the ledger and in the status.
    #[error(
        "annotation {REFILL_REQUESTED_AT} has more than {LONGEST_REQUEST} bytes, or control characters: write another value, \
         for example the time"
    )]
    RefillRequest,
}

/// Octets of the annotation that asks for a refill.
pub(super) const LONGEST_REQUEST: usize = 128;

impl Invalid {
    /// The reason of the condition, the event and the metric.
    #[must_use]
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Schedule(_) | Self::NeverDue(_) => "InvalidSchedule",
            Self::TimeZone(_) => "InvalidTimeZone",
            Self::RefillRequest => "InvalidRefillRequest",
        }
    }
}

/// The bucket that `resource` asks for.
///
/// # Errors
/// When a person must change the resource first.
pub(super) fn validate(resource: &TokenBucket, now: DateTime<Utc>) -> Result<Bucket, Invalid> {
    let TokenBucketSpec {
        name: _,
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
        deletion_policy: _,
        connection: _,
    } = &resource.spec;
    let created = resource
        .creation_timestamp()
        .map_or(now, |time| from_time(&time));
    let timetable = Timetable::new(schedule.parse()?, parse_zone(time_zone)?, created);
    if timetable.next(now).is_none() {
        return Err(Invalid::NeverDue(schedule.clone()));
    }
    let refill_request = resource.annotations().get(REFILL_REQUESTED_AT);
    let is_bad =
        |request: &String| request.len() > LONGEST_REQUEST || request.chars().any(char::is_control);
    if refill_request.is_some_and(is_bad) {
        return Err(Invalid::RefillRequest);
    }
    Ok(Bucket {
        id: id_of(resource),
        uid: resource.uid().unwrap_or_default().into(),
        created,
        name: resource.bucket_name().into(),
        timetable,
        amount: (*amount).into(),
        maximum: (*maximum).into(),
        // The maximum may have been lowered since they counted.
        initial_tokens: (*initial_tokens.min(maximum)).into(),
        refill_queue: refill_queue.clone(),
        suspend: *suspend,
        missed_refills: *missed_refills,
        starting_deadline: starting_deadline_seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
        queue_type: *queue_type,
        refill_request: refill_request.map(|value| value.as_str().into()),
        rivals: Box::default(),
        moved: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(spec: &str) -> TokenBucket {
        serde_yaml::from_str(&format!(
            "{{apiVersion: tokenbucket.dev/v1alpha1, kind: TokenBucket,
               metadata: {{name: my-api, namespace: shop, uid: u1, creationTimestamp: '2026-11-24T10:00:07Z',
                           annotations: {{tokenbucket.dev/refill-requested-at: now}}}},
               spec: {{amount: 10, maximum: 25, {spec}}}}}"
        ))
        .unwrap()
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_600_000, 0).unwrap()
    }

    fn reason(spec: &str) -> &'static str {
        validate(&resource(spec), now()).unwrap_err().reason()
    }

    #[test]
    fn a_valid_resource_becomes_its_bucket() {
        let bucket = validate(
            &resource("schedule: '0 * * * *', startingDeadlineSeconds: 90"),
            now(),
        )
        .unwrap();
        assert_eq!(bucket.id.to_string(), "shop/my-api");
        assert_eq!((&*bucket.uid, &*bucket.name), ("u1", "my_api"));
        assert_eq!(bucket.created.to_rfc3339(), "2026-11-24T10:00:07+00:00");
        assert_eq!(
            (bucket.amount, bucket.maximum, bucket.initial_tokens),
            (10, 25, 0)
        );
        assert_eq!(bucket.starting_deadline, Some(Duration::from_secs(90)));
        assert_eq!(bucket.refill_request.as_deref(), Some("now"));
    }

    #[test]
    fn a_request_for_a_refill_that_is_long_or_not_printable_is_refused() {
        let mut resource = resource("schedule: '@hourly'");
        let requested = |bytes: usize| [(REFILL_REQUESTED_AT.to_owned(), "x".repeat(bytes))];
        resource
            .annotations_mut()
            .extend(requested(LONGEST_REQUEST));
        assert!(validate(&resource, now()).is_ok());
        let unprintable = [(REFILL_REQUESTED_AT.to_owned(), "now\u{1b}[2J".to_owned())];
        for bad in [requested(250_000), unprintable] {
            resource.annotations_mut().extend(bad);
            let refused = validate(&resource, now()).unwrap_err();
            assert_eq!(refused.reason(), "InvalidRefillRequest");
        }
    }

    #[test]
    fn an_unknown_time_zone_is_refused() {
        assert_eq!(
            reason("schedule: '@hourly', timeZone: Mars/Olympus"),
            "InvalidTimeZone"
        );
    }

    #[test]
    fn a_schedule_that_is_none_is_refused() {
        assert_eq!(reason("schedule: '61 * * * *'"), "InvalidSchedule");
    }

    #[test]
    fn a_schedule_that_is_never_due_is_refused() {
        assert_eq!(reason("schedule: '0 0 30 2 *'"), "InvalidSchedule");
    }
}
