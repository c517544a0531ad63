//! The ledger of a bucket: what was last added, and for which tick. It is the one message of a queue beside the bucket,
//! and a baton: only who holds it refills, and gives it back, written anew, in the transaction that adds the tokens. That
//! makes refills exactly-once.

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Bucket, Trigger};

/// Version of the ledger's format that this program writes. It reads this one and those before it.
pub(crate) const VERSION: u32 = 2;

/// Ids of requests that a ledger remembers of one refill queue. No more requests of a queue than these are carried out for
/// a bucket between two acknowledgements, so one that comes again is known.
pub(crate) const MOST_REQUEST_IDS: usize = 32;
/// Refill queues whose requests do not make it forget those of the others: enough for a bucket that moves, in two clusters.
const MOST_QUEUES: usize = 4;

/// The status has its numbers as 64-bit integers with a sign.
const MOST_COUNTED: u64 = i64::MAX as u64;
/// Years that dates can lie in; schedules are reckoned with far less.
const YEARS: RangeInclusive<i32> = 1970..=9999;
/// Octets of a name in it.
const LONGEST_TEXT: usize = 1_024;
/// How far the clocks of operators can be apart.
const FARTHEST_AHEAD: TimeDelta = TimeDelta::days(1);

/// State of one bucket that must survive crashes, as JSON in the broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// The resource that the bucket belongs to; None when it belongs to nobody at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Box<Owner>>,
    /// Whom it belonged to before. When that one writes too, two resources contend for the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<Box<Owner>>,
    /// No tick up to this instant is ever "missed": the creation of the resource, or the last edit of its schedule.
    /// Also the anchor of an `@every` schedule.
    pub since: DateTime<Utc>,
    /// Fingerprint of schedule and time zone that `tick` belongs to.
    pub schedule: Box<str>,
    /// Newest tick that was accepted. Requests for it or an older one are duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<DateTime<Utc>>,
    /// Value of the last refill annotation that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<Box<str>>,
    /// Fingerprints of the ids of the last requests from somebody else that were accepted, the oldest first, each with that
    /// of its refill queue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Box<str>>,
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

/// A resource that a bucket belongs to, and who works for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Names the operator: the namespace of its lease.
    pub operator: Box<str>,
    /// `namespace/name` of the resource.
    pub resource: Box<str>,
    /// UID of the resource.
    pub uid: Box<str>,
    /// When the resource was created.
    pub created: DateTime<Utc>,
}

/// One refill, as people read it in the status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// What is known to be done for a bucket without its ledger: this process has seen it, or the status of the resource
/// says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Newest tick that was carried out.
    pub tick: Option<DateTime<Utc>>,
    /// Value of the last refill annotation that was carried out.
    pub manual: Option<Box<str>>,
    /// Fingerprints of the ids of the last requests from somebody else that were carried out.
    pub requests: Vec<Box<str>>,
    /// Tokens issued.
    pub issued: u64,
}

/// The format before this one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version1 {
    uid: Box<str>,
    since: DateTime<Utc>,
    schedule: Box<str>,
    tick: Option<DateTime<Utc>>,
    manual: Option<Box<str>>,
    request: Option<Box<str>>,
    #[serde(default)]
    owed: u64,
    #[serde(default)]
    issued: u64,
    last_refill: Option<Refill>,
}

impl Owner {
    /// The resource of `bucket`, which `operator` works for.
    #[must_use]
    pub fn of(bucket: &Bucket, operator: &str) -> Self {
        Self {
            operator: operator.into(),
            resource: bucket.id.to_string().into(),
            uid: (*bucket.uid).into(),
            created: bucket.created,
        }
    }

    /// Whose bucket it is when both want it: that of the older resource.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        (self.created, &self.uid) < (other.created, &other.uid)
    }
}

impl Known {
    /// What `ledger` says.
    #[must_use]
    pub(crate) fn from(ledger: &Ledger) -> Self {
        Self {
            tick: ledger.tick,
            manual: ledger.manual.clone(),
            requests: ledger.requests.clone(),
            issued: ledger.issued,
        }
    }
}

impl Ledger {
    /// The ledger of a bucket that has none yet. `owed` are its initial tokens.
    #[must_use]
    pub fn new(owner: Owner, schedule: &str, owed: u64) -> Self {
        let since = owner.created;
        let initial = |added| Refill {
            scheduled_time: None,
            completed_time: since,
            added,
            trigger: Trigger::Initial,
        };
        Self {
            version: VERSION,
            owner: Some(Box::new(owner)),
            rival: None,
            since,
            schedule: schedule.into(),
            tick: None,
            manual: None,
            requests: Vec::new(),
            owed,
            issued: owed,
            last_refill: (owed > 0).then(|| initial(owed)),
        }
    }

    /// The ledger of a bucket whose ledger is lost: nobody knows of any tick up to `missing` whether it was carried out,
    /// so none of them ever will be.
    #[must_use]
    pub(crate) fn after_loss(
        owner: Owner,
        schedule: &str,
        known: &Known,
        missing: DateTime<Utc>,
    ) -> Self {
        Self {
            tick: Some(known.tick.map_or(missing, |tick| tick.max(missing))),
            manual: known.manual.clone(),
            requests: known.requests.clone(),
            issued: known.issued,
            ..Self::new(owner, schedule, 0)
        }
    }

    /// Reads a ledger of this version or an older one.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn from_json(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } =
            serde_json::from_slice(body).map_err(|error| format!("it is not a ledger: {error}"))?;
        let damaged = |error| format!("it is damaged: {error}");
        let ledger: Self = match version {
            0 | 1 => serde_json::from_slice(body)
                .map(Version1::upgraded)
                .map_err(damaged)?,
            VERSION => serde_json::from_slice(body).map_err(damaged)?,
            _ => {
                return Err(format!(
                    "it has format version {version}, this program knows up to {VERSION}"
                ));
            }
        };
        ledger.bounded()
    }

    /// Whoever may write into the queue of a ledger is not trusted with its numbers.
    fn bounded(mut self) -> Result<Self, String> {
        let created = self.owner.iter().chain(&self.rival).map(|it| it.created);
        let refill = self.last_refill.iter();
        let refill = refill.flat_map(|it| it.scheduled_time.into_iter().chain([it.completed_time]));
        let mut dates = [self.since]
            .into_iter()
            .chain(self.tick)
            .chain(created)
            .chain(refill);
        if let Some(date) = dates.find(|date| !YEARS.contains(&date.year())) {
            return Err(format!("it is damaged: its date {date} is out of range"));
        }
        // They stand in conditions and events.
        let owners = self.owner.iter().chain(&self.rival);
        let names = owners.flat_map(|it| [&it.operator, &it.resource, &it.uid]);
        let texts = names.chain([&self.schedule]).chain(&self.manual);
        let is_bad = |text: &str| text.len() > LONGEST_TEXT || text.chars().any(char::is_control);
        if texts.map(|text| &**text).any(is_bad) {
            return Err("it is damaged: a text in it is too long, or not printable".to_owned());
        }
        self.owed = self.owed.min(MOST_COUNTED);
        self.issued = self.issued.min(MOST_COUNTED);
        if let Some(refill) = &mut self.last_refill {
            refill.added = refill.added.min(MOST_COUNTED);
        }
        let excess = self
            .requests
            .len()
            .saturating_sub(MOST_QUEUES * MOST_REQUEST_IDS);
        self.requests.drain(..excess);
        Ok(self)
    }

    /// Tokens are added and owed.
    pub fn add(&mut self, tokens: u64) {
        self.owed = self.owed.saturating_add(tokens).min(MOST_COUNTED);
        self.issued = self.issued.saturating_add(tokens).min(MOST_COUNTED);
    }

    /// Tokens that were taken out of the queue belong in the bucket still.
    pub fn carry(&mut self, tokens: u64) {
        self.owed = self.owed.saturating_add(tokens).min(MOST_COUNTED);
    }

    /// Its newest tick, if no clock that is nearly right can have told it by `now`: nothing would be refilled until then.
    #[must_use]
    pub fn tick_ahead(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.tick.filter(|tick| *tick - now > FARTHEST_AHEAD)
    }

    /// The ledger as it stands in the broker.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and times: nothing of it can fail to be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether it belongs to the resource of `bucket`.
    #[must_use]
    pub(crate) fn is_of(&self, bucket: &Bucket) -> bool {
        self.owner
            .as_deref()
            .is_some_and(|owner| *owner.uid == *bucket.uid)
    }

    /// UID of the resource that had it before.
    #[must_use]
    pub(crate) fn rival_uid(&self) -> Option<&str> {
        self.rival.as_deref().map(|rival| &*rival.uid)
    }

    /// The same ledger for a resource or a schedule that may be another one than it was written for. Ticks before the
    /// change are not missed ticks of the new one, so that no edit mints tokens.
    #[must_use]
    pub(crate) fn brought_up_to(
        mut self,
        bucket: &Bucket,
        owner: Owner,
        now: DateTime<Utc>,
    ) -> Self {
        let fingerprint = bucket.timetable.fingerprint();
        if !self.is_of(bucket) {
            let before = self.owner.take().or(self.rival);
            self.rival = before.filter(|before| *before.uid != *bucket.uid);
            self.since = bucket.created;
            self.manual = None;
            self.schedule = fingerprint.into();
        } else if *self.schedule != *fingerprint {
            self.schedule = fingerprint.into();
            self.since = now;
        }
        self.owner = Some(Box::new(owner));
        self.version = VERSION;
        self
    }

    /// The same ledger, with what is known to be carried out although it does not say so: it is another's, or an older one.
    #[must_use]
    pub(crate) fn with(mut self, known: &Known) -> Self {
        self.tick = self.tick.max(known.tick);
        self.manual = self.manual.or_else(|| known.manual.clone());
        let news = known
            .requests
            .iter()
            .filter(|it| !self.requests.contains(it));
        let news: Vec<_> = news.cloned().collect();
        self.requests.splice(..0, news);
        self
    }

    /// The same ledger, of nobody.
    pub(crate) fn of_nobody(&self) -> Self {
        let (owner, rival) = (None, None);
        Self {
            owner,
            rival,
            ..self.clone()
        }
    }

    /// The same ledger, of the older resource that it was taken from; None: it was not. It tells that one who has had its
    /// queue meanwhile.
    pub(crate) fn back_to_older(&self) -> Option<Self> {
        let (owner, rival) = (self.owner.as_ref()?, self.rival.as_ref()?);
        rival.precedes(owner).then(|| Self {
            owner: Some(rival.clone()),
            rival: Some(owner.clone()),
            ..self.clone()
        })
    }

    /// Ticks after this instant, and only these, can be missed.
    #[must_use]
    pub fn reference(&self) -> DateTime<Utc> {
        self.tick.map_or(self.since, |tick| tick.max(self.since))
    }

    /// Whether a request with this id was accepted lately.
    #[must_use]
    pub(crate) fn knows_request(&self, id: &str) -> bool {
        knows(&self.requests, id)
    }

    /// A request with this id, which came through this refill queue, is accepted.
    pub(crate) fn remember_request(&mut self, id: &str, refill_queue: &str) {
        let queue = fingerprint(refill_queue);
        let of_queue: Vec<_> = (0..self.requests.len())
            .filter(|place| self.requests[*place].ends_with(&queue))
            .collect();
        if of_queue.len() >= MOST_REQUEST_IDS {
            self.requests.remove(of_queue[0]);
        } else if self.requests.len() >= MOST_QUEUES * MOST_REQUEST_IDS {
            self.requests.remove(0);
        }
        let id = fingerprint(id);
        self.requests.push(format!("{id}-{queue}").into());
    }
}

impl Version1 {
    fn upgraded(self) -> Ledger {
        let owner = Owner {
            operator: "".into(),
            resource: "".into(),
            uid: self.uid,
            created: self.since,
        };
        let mut ledger = Ledger {
            tick: self.tick,
            manual: self.manual,
            owed: self.owed,
            issued: self.issued,
            last_refill: self.last_refill,
            ..Ledger::new(owner, &self.schedule, 0)
        };
        ledger.since = self.since;
        if let Some(id) = self.request {
            ledger.remember_request(&id, "");
        }
        ledger
    }
}

/// FNV-1a of 64 bits (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>): ids are as long as somebody made
/// them, and a ledger is written with each refill.
/// Whether the request with this id is one of these, of a ledger.
pub(crate) fn knows(requests: &[Box<str>], id: &str) -> bool {
    let id = fingerprint(id);
    requests.iter().any(|known| known.starts_with(&id))
}

fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests;
