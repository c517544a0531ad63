//! A bucket for unit tests.

use chrono::{DateTime, Utc};

use super::{Bucket, BucketId, Ledger, MissedRefills, Owner, QueueType};
use schedule::{Timetable, parse_zone};

/// `2026-01-01T00:00:00Z` plus seconds.
///
/// # Panics
/// When there is no such time.
#[must_use]
pub fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + second, 0).expect("a time")
}

/// A bucket of 10 tokens a minute that holds 25, created at second 0.
///
/// # Panics
/// Never.
#[must_use]
pub fn bucket() -> Bucket {
    let zone = parse_zone("Etc/UTC").expect("a zone");
    Bucket {
        id: BucketId::new("shop", "api"),
        uid: "uid-1".into(),
        created: at(0),
        name: "api".into(),
        timetable: Timetable::new("* * * * *".parse().expect("a schedule"), zone, at(0)),
        amount: 10,
        maximum: 25,
        initial_tokens: 0,
        refill_queue: "token_buckets.refill".into(),
        suspend: false,
        missed_refills: MissedRefills::Latest,
        starting_deadline: None,
        queue_type: QueueType::Classic,
        refill_request: None,
        rivals: Box::default(),
        moved: None,
    }
}

/// Whose [`bucket`] it is.
#[must_use]
pub fn owner() -> Owner {
    Owner::of(&bucket(), "ops")
}

/// The ledger of [`bucket`] before anything was added.
#[must_use]
pub fn ledger() -> Ledger {
    Ledger::new(owner(), &bucket().timetable.fingerprint(), 0)
}
