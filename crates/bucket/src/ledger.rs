//! The ledger of a bucket: what was last added, and for which tick. It lives in a one-message queue beside the
//! bucket and is written in the transaction that adds the tokens; that makes refills exactly-once.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Bucket, Trigger};

/// Version of the ledger's format that this program writes and reads.
pub const VERSION: u32 = 1;

/// State of one bucket that must survive crashes, as JSON in the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// UID of the resource that the bucket belongs to.
    pub uid: Box<str>,
    /// No tick up to this instant is ever "missed": the creation of the resource, or the last edit of its schedule.
    /// Also the anchor of an `@every` schedule.
    pub since: DateTime<Utc>,
    /// Fingerprint of schedule and time zone that `tick` belongs to.
    pub schedule: Box<str>,
    /// Who wrote it. Only a ledger in the broker says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Box<Writer>>,
    /// Newest tick that was accepted. Requests for it or an older one are duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<DateTime<Utc>>,
    /// Value of the last refill annotation that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<Box<str>>,
    /// Id of the last request from somebody else that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<str>>,
    /// Tokens that belong in the bucket and are not in its queue yet: the rest of a refill that takes several
    /// transactions, or the contents of a queue that is being replaced.
    #[serde(default)]
    pub owed: u64,
    /// Tokens issued since the ledger began.
    #[serde(default)]
    pub issued: u64,
    /// The newest refill, for the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refill: Option<Refill>,
}

/// Who may write a ledger: among the replicas of an operator, the one that consumes the refill queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// Namespace of the operator's lease.
    pub operator: Box<str>,
    /// The refill queue.
    pub refill_queue: Box<str>,
}

/// One refill, as people read it in the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refill {
    /// The tick, for scheduled refills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_time: Option<DateTime<Utc>>,
    /// When its last transaction was put together.
    pub completed_time: DateTime<Utc>,
    /// Tokens added.
    pub added: u64,
    /// What asked for it.
    pub trigger: Trigger,
}

impl Ledger {
    /// The ledger of a bucket that has none yet. `owed` are its initial tokens.
    #[must_use]
    pub fn new(uid: &str, since: DateTime<Utc>, schedule: &str, owed: u64) -> Self {
        let initial = |added| Refill {
            scheduled_time: None,
            completed_time: since,
            added,
            trigger: Trigger::Initial,
        };
        Self {
            version: VERSION,
            uid: uid.into(),
            since,
            schedule: schedule.into(),
            writer: None,
            tick: None,
            manual: None,
            request: None,
            owed,
            issued: owed,
            last_refill: (owed > 0).then(|| initial(owed)),
        }
    }

    /// The same ledger for a resource or a schedule that may be another one than it was written for. Ticks before the
    /// change are not missed ticks of the new one, so that no edit mints tokens.
    #[must_use]
    pub fn brought_up_to(mut self, bucket: &Bucket, fingerprint: &str, now: DateTime<Utc>) -> Self {
        if *self.uid != *bucket.uid {
            self.uid = (*bucket.uid).into();
            self.since = bucket.created;
            self.manual = None;
            self.schedule = fingerprint.into();
        } else if *self.schedule != *fingerprint {
            self.schedule = fingerprint.into();
            self.since = now;
        }
        self
    }

    /// As `writer` writes it.
    #[must_use]
    pub fn written_by(&self, writer: &Writer) -> Self {
        Self {
            writer: Some(Box::new(writer.clone())),
            ..self.clone()
        }
    }

    /// The refill queue through which another replica may still be refilling `bucket`, when `writer` is about to: the
    /// bucket had it until now, and who was cut off from the API server does not know of the change.
    #[must_use]
    pub fn rival(&self, bucket: &Bucket, writer: &Writer) -> Option<&str> {
        let last = self.writer.as_deref()?;
        let moved = last.refill_queue != writer.refill_queue;
        // Another operator has let the bucket go, and may consume its refill queue for ever.
        let ours = last.operator == writer.operator && *self.uid == *bucket.uid;
        (moved && ours).then_some(&*last.refill_queue)
    }

    /// Ticks after this instant, and only these, can be missed.
    #[must_use]
    pub fn reference(&self) -> DateTime<Utc> {
        self.tick.map_or(self.since, |tick| tick.max(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, bucket, ledger};

    #[test]
    fn an_edit_of_the_schedule_begins_anew_and_mints_nothing() {
        let run = Ledger {
            tick: Some(at(60)),
            ..ledger()
        };
        let edited = run
            .clone()
            .brought_up_to(&bucket(), "*/5 * * * *", at(1_000));
        assert_eq!(edited.reference(), at(1_000));
        assert_eq!((edited.tick, edited.issued), (run.tick, run.issued));
        // Only once: the next look finds the schedule that it knows.
        let later = edited
            .clone()
            .brought_up_to(&bucket(), "*/5 * * * *", at(2_000));
        assert_eq!(later, edited);
    }

    #[test]
    fn an_edit_of_anything_else_keeps_what_was_missed() {
        let fingerprint = bucket().timetable.fingerprint();
        let edited = ledger().brought_up_to(&bucket(), &fingerprint, at(1_000));
        assert_eq!(edited, ledger());
    }

    #[test]
    fn a_ledger_of_the_same_operator_with_another_refill_queue_may_have_a_rival() {
        let writer = |operator: &str, refill_queue: &str| Writer {
            operator: operator.into(),
            refill_queue: refill_queue.into(),
        };
        let ours = writer("ops", "new");
        let rival = |ledger: &Ledger| ledger.rival(&bucket(), &ours).map(str::to_owned);
        assert_eq!(rival(&ledger()), None, "of an older version");
        assert_eq!(rival(&ledger().written_by(&ours)), None);
        let old = ledger().written_by(&writer("ops", "old"));
        assert_eq!(rival(&old), Some("old".into()));
        assert_eq!(rival(&ledger().written_by(&writer("others", "old"))), None);
        let of_another_resource = Ledger {
            uid: "uid-0".into(),
            ..old
        };
        assert_eq!(rival(&of_another_resource), None);
    }

    #[test]
    fn after_a_clock_that_was_ahead_its_last_tick_is_still_the_last() {
        let ahead = Ledger {
            tick: Some(at(9_000)),
            ..ledger()
        };
        let edited = ahead.brought_up_to(&bucket(), "*/5 * * * *", at(100));
        assert_eq!(edited.reference(), at(9_000));
    }
}
