//! Whether a request for a refill is carried out, and what the ledger says afterwards.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::catch_up::{MOST_COUNTED, too_late};
use super::{Bucket, Ledger, Refill, TickSpan, Trigger};

/// What asks for a refill.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cause {
    /// The schedule.
    Tick {
        /// UID of the resource that the request was made for.
        uid: String,
        /// The ticks that it stands for.
        span: TickSpan,
    },
    /// A new value of the refill annotation.
    Annotation(Box<str>),
    /// A request that somebody else put into a refill queue.
    Request {
        /// Its id, if it has one.
        id: Option<Box<str>>,
        /// That queue.
        refill_queue: Arc<str>,
    },
}

impl Cause {
    /// As the status names it.
    #[must_use]
    pub(crate) fn trigger(&self) -> Trigger {
        match self {
            Self::Tick { .. } => Trigger::Schedule,
            Self::Annotation(_) => Trigger::Manual,
            Self::Request { .. } => Trigger::Request,
        }
    }

    /// The tick, for scheduled refills.
    #[must_use]
    pub(crate) fn tick(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Tick { span, .. } => Some(span.tick),
            Self::Annotation(_) | Self::Request { .. } => None,
        }
    }
}

/// Why a request adds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Refusal {
    /// The ledger has this tick, annotation or request already.
    #[error("carried out already")]
    Duplicate,
    /// It was made for an earlier resource of the same name.
    #[error("made for an earlier resource")]
    OtherResource,
    /// The tick is older than `startingDeadlineSeconds`.
    #[error("older than startingDeadlineSeconds")]
    TooLate,
    /// Scheduled refills are suspended.
    #[error("suspended")]
    Suspended,
    /// The tick is more than [`MOST_AHEAD`] ahead: no scheduler asks for it yet.
    #[error("not due yet")]
    NotDue,
}

/// How far the clock of whoever asked can be ahead.
const MOST_AHEAD: TimeDelta = TimeDelta::seconds(10);

impl Refusal {
    /// One word, for metrics.
    #[must_use]
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Duplicate => "Duplicate",
            Self::OtherResource => "OtherResource",
            Self::TooLate => "TooLate",
            Self::Suspended => "Suspended",
            Self::NotDue => "NotDue",
        }
    }
}

/// Why a request adds nothing, whatever is in the queue; nobody has to count for that. As long as neither the ledger nor
/// the specification changes, a refusal stays one.
fn refuse(cause: &Cause, bucket: &Bucket, ledger: &Ledger, now: DateTime<Utc>) -> Option<Refusal> {
    let duplicate = match cause {
        Cause::Tick { uid, span } => return refuse_tick(uid, span.tick, bucket, ledger, now),
        Cause::Annotation(value) => ledger.manual.as_ref() == Some(value),
        Cause::Request { id, .. } => id.as_ref().is_some_and(|id| ledger.knows_request(id)),
    };
    duplicate.then_some(Refusal::Duplicate)
}

/// Decides on one request. `tokens` is the number of tokens in the queue; with the tokens that the ledger owes it is
/// the level of the bucket, and the refill is capped so that the level stays within `maximum`.
///
/// On acceptance `ledger` names the request as carried out and owes what it adds; the caller publishes owed tokens in
/// the same transaction. Answers the number of tokens added, 0 when the bucket is full.
///
/// # Errors
/// The reason why the request is dropped; `ledger` is then unchanged.
pub(crate) fn accept(
    cause: &Cause,
    bucket: &Bucket,
    ledger: &mut Ledger,
    tokens: u64,
    now: DateTime<Utc>,
) -> Result<u64, Refusal> {
    if let Some(refusal) = refuse(cause, bucket, ledger, now) {
        return Err(refusal);
    }
    let refills = match cause {
        Cause::Tick { span, .. } => count(bucket, ledger, *span, now),
        Cause::Annotation(_) | Cause::Request { .. } => 1,
    };
    let level = tokens.saturating_add(ledger.owed);
    let added = bucket
        .amount
        .saturating_mul(refills)
        .min(bucket.maximum.saturating_sub(level));
    match cause {
        Cause::Tick { span, .. } => ledger.tick = Some(span.tick),
        Cause::Annotation(value) => ledger.manual = Some(value.clone()),
        Cause::Request {
            id: Some(id),
            refill_queue,
        } => ledger.remember_request(id, refill_queue),
        Cause::Request { id: None, .. } => {}
    }
    ledger.add(added);
    ledger.last_refill = Some(Refill {
        scheduled_time: cause.tick(),
        completed_time: now,
        added,
        trigger: cause.trigger(),
    });
    Ok(added)
}

fn refuse_tick(
    uid: &str,
    tick: DateTime<Utc>,
    bucket: &Bucket,
    ledger: &Ledger,
    now: DateTime<Utc>,
) -> Option<Refusal> {
    if *uid != *bucket.uid {
        Some(Refusal::OtherResource)
    } else if tick - now > MOST_AHEAD {
        Some(Refusal::NotDue)
    } else if ledger.tick.is_some_and(|newest| tick <= newest) {
        Some(Refusal::Duplicate)
    } else if bucket.suspend {
        Some(Refusal::Suspended)
    } else if too_late(bucket, now).is_some_and(|end| tick <= end) {
        Some(Refusal::TooLate)
    } else {
        None
    }
}

/// How many refills a tick's request stands for. One that covers several ticks was counted from the ledger as it was
/// then; ticks that other requests have covered since must not count again, and those that are too old by now do not.
fn count(bucket: &Bucket, ledger: &Ledger, span: TickSpan, now: DateTime<Utc>) -> u64 {
    let TickSpan { since, tick, ticks } = span;
    let reference = ledger.reference();
    let reference = too_late(bucket, now).map_or(reference, |end| end.max(reference));
    if ticks <= 1 || since >= reference {
        return ticks.max(1);
    }
    // More refills than fill an empty bucket add nothing.
    let enough = bucket.maximum.div_ceil(bucket.amount.max(1));
    let timetable = bucket.timetable.clone().anchored(ledger.since);
    let most = ticks.min(enough).min(MOST_COUNTED);
    timetable.missed(reference, tick, most).max(1)
}

#[cfg(test)]
mod tests;
