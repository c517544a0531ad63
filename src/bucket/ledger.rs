//! The ledger of a bucket: what was last added, and for which tick. It lives in a one-message queue beside the
//! bucket and is written in the transaction that adds the tokens; that makes refills exactly-once.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Bucket;
use crate::api::Trigger;

/// Version of the ledger's format that this program writes and reads.
pub const VERSION: u32 = 1;

/// State of one bucket that must survive crashes, as JSON in the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// UID of the resource that the bucket belongs to.
    pub uid: String,
    /// No tick up to this instant is ever "missed": the creation of the resource, or the last edit of its schedule.
    /// Also the anchor of an `@every` schedule.
    pub since: DateTime<Utc>,
    /// Fingerprint of schedule and time zone that `tick` belongs to.
    pub schedule: String,
    /// Newest tick that was accepted. Requests for it or an older one are duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<DateTime<Utc>>,
    /// Value of the last refill annotation that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<String>,
    /// Id of the last request from somebody else that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
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
            uid: uid.to_owned(),
            since,
            schedule: schedule.to_owned(),
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
        if self.uid != bucket.uid {
            self.uid.clone_from(&bucket.uid);
            self.since = bucket.created;
            self.manual = None;
            fingerprint.clone_into(&mut self.schedule);
        } else if self.schedule != fingerprint {
            fingerprint.clone_into(&mut self.schedule);
            self.since = now;
        }
        self
    }

    /// Ticks after this instant, and only these, can be missed.
    #[must_use]
    pub fn reference(&self) -> DateTime<Utc> {
        self.tick.map_or(self.since, |tick| tick.max(self.since))
    }
}
