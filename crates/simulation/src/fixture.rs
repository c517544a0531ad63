//! Names and times of the simulated world.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bucket::{Bucket, BucketId, MissedRefills, QueueType};
use chrono::{DateTime, TimeDelta, Utc};
use schedule::{Timetable, parse_zone};

use crate::plan::{Millis, SCHEDULES, Spec};

/// Parsed once: a million schedules use them.
static TIMETABLES: LazyLock<Vec<Timetable>> = LazyLock::new(|| {
    let parse = |text: &&str| {
        let zone = parse_zone("Etc/UTC").ok()?;
        Some(Timetable::new(text.parse().ok()?, zone, at(0)))
    };
    SCHEDULES.iter().filter_map(parse).collect()
});

/// `2026-01-01T00:00:00Z` plus milliseconds.
#[must_use]
pub fn at(millis: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600) + TimeDelta::milliseconds(millis)
}

/// A schedule by its number.
#[must_use]
pub fn timetable(number: usize) -> Timetable {
    TIMETABLES[number].clone()
}

/// The name of a bucket.
#[must_use]
pub fn bucket_name(number: usize) -> &'static str {
    ["red", "green", "blue"][number]
}

/// The name of a refill queue.
#[must_use]
pub fn refill_queue(number: u8) -> &'static str {
    ["refill", "refill2", "refill3", "refill4"][usize::from(number)]
}

/// A specification of which every tick counts: all are carried out, and each fits.
#[must_use]
pub fn spec() -> Spec {
    Spec {
        amount: 1,
        maximum: 10,
        initial: 0,
        schedule: 0,
        refill_queue: 0,
        suspend: false,
        missed: MissedRefills::All,
        deadline: None,
        quorum: false,
        annotation: None,
    }
}

/// The bucket of a resource. The API server cuts the time of creation to seconds.
#[must_use]
pub fn bucket(
    uid: &Arc<str>,
    id: &BucketId,
    number: usize,
    created: Millis,
    spec: Spec,
    queue: &str,
) -> Bucket {
    let created = at(i64::try_from(created / 1_000 * 1_000).unwrap_or_default());
    Bucket {
        id: id.clone(),
        uid: uid.clone(),
        created,
        name: bucket_name(number).into(),
        timetable: timetable(spec.schedule).anchored(created),
        amount: spec.amount,
        maximum: spec.maximum,
        initial_tokens: spec.initial,
        refill_queue: queue.into(),
        suspend: spec.suspend,
        missed_refills: spec.missed,
        starting_deadline: spec.deadline.map(Duration::from_secs),
        queue_type: if spec.quorum {
            QueueType::Quorum
        } else {
            QueueType::Classic
        },
        refill_request: spec.annotation.map(|value| value.to_string().into()),
        rivals: Box::default(),
        moved: None,
    }
}
