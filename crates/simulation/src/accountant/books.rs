//! What happened to one bucket, and whether it should have.

use std::collections::BTreeSet;
use std::sync::Arc;

use bucket::{Ledger, ledger_queue_name, queue_name};
use chrono::{DateTime, Utc};

use super::ticks::id_of;
use super::{Doing, Leniency, Violation};
use crate::broker::{Broker, ConnectionId, Entry};
use crate::operator::Body;
use crate::plan::Spec;

/// The books of one bucket.
#[derive(Clone, Debug)]
pub struct Books {
    pub(super) queue: String,
    ledger_queue: String,
    pub(super) lenient: Leniency,
    /// The ledger that was written last.
    pub truth: Option<Arc<Ledger>>,
    /// Somebody has removed it.
    pub lost: bool,
    /// Ticks that have been carried out.
    pub(super) done: BTreeSet<DateTime<Utc>>,
    /// Requests of others that have been carried out.
    pub(super) requests: BTreeSet<Box<str>>,
    /// The most and the fewest tokens in the queue since the ledger was got.
    pub(super) high: u64,
    low: u64,
    /// The connection whose ledger came back, as its queue was gone when that was committed.
    returned: Option<ConnectionId>,
    /// Tokens that went with a queue that was replaced, and on whose connection.
    pub(super) in_hand: Vec<(ConnectionId, u64)>,
    /// The specifications that were ever in force.
    pub(super) specs: Vec<Specified>,
    /// When the only operator had no connection.
    pub(super) downs: Vec<(DateTime<Utc>, Option<DateTime<Utc>>)>,
    /// Where ledgers said that `@every` counts from, for which resource.
    pub(super) anchors: BTreeSet<(Box<str>, DateTime<Utc>)>,
    /// More than the maximum may be there.
    pub cap: u64,
    /// How many ticks were carried out, for people who look at figures.
    pub refills: u64,
}

/// A specification of a resource.
#[derive(Clone, Debug)]
pub(super) struct Specified {
    pub(super) uid: Box<str>,
    pub(super) created: DateTime<Utc>,
    /// When people made it so.
    pub(super) at: DateTime<Utc>,
    pub(super) spec: Spec,
}

/// What one transaction did to one bucket.
#[derive(Debug, Default)]
struct Movement {
    published: u64,
    taken: u64,
    ledger: Option<Arc<Ledger>>,
    /// The ledger's queue was not there.
    vanished: bool,
    /// Whose it was.
    connection: Option<ConnectionId>,
}

impl Books {
    pub(super) fn new(name: &str, lenient: Leniency) -> Self {
        Self {
            queue: queue_name(name),
            ledger_queue: ledger_queue_name(name),
            lenient,
            truth: None,
            lost: false,
            done: BTreeSet::new(),
            requests: BTreeSet::new(),
            high: 0,
            low: 0,
            returned: None,
            in_hand: Vec::new(),
            specs: Vec::new(),
            downs: Vec::new(),
            anchors: BTreeSet::new(),
            cap: 0,
            refills: 0,
        }
    }

    pub(super) fn watch(
        &mut self,
        broker: &Broker<Body>,
        entries: &[Entry<Body>],
        partial: bool,
        doing: Doing,
    ) -> Result<(), Violation> {
        let mut movement = Movement::default();
        let mut touched = false;
        for entry in entries {
            match entry {
                Entry::Published(queue, body)
                | Entry::Unroutable(queue, body)
                | Entry::Rejected(queue, body) => {
                    let gone = matches!(entry, Entry::Unroutable(..));
                    match body {
                        Body::Token if **queue == *self.queue => movement.published += 1,
                        Body::Ledger(ledger) if **queue == *self.ledger_queue => {
                            movement.ledger = Some(ledger.clone());
                            movement.vanished = gone;
                        }
                        _ => continue,
                    }
                    touched = true;
                }
                Entry::Taken(queue, Body::Token) if **queue == *self.queue => {
                    movement.taken += 1;
                    touched = true;
                }
                Entry::Got(queue) if **queue == *self.ledger_queue => {
                    self.high = broker.ready(&self.queue).unwrap_or_default();
                    self.low = self.high;
                }
                Entry::Dropped(queue, Body::Token)
                    if **queue == *self.queue && !self.lenient.drops && !partial =>
                {
                    return Err(format!(
                        "I1: more tokens than {} can hold were put into it",
                        self.queue
                    ));
                }
                Entry::Removed(queue, Body::Ledger(ledger))
                | Entry::Dropped(queue, Body::Ledger(ledger))
                | Entry::Exhausted(queue, Body::Ledger(ledger))
                    if **queue == *self.ledger_queue =>
                {
                    self.lost |= self.truth.as_ref() == Some(ledger);
                }
                Entry::Deleted(queue) if **queue == *self.queue && doing == Doing::Removes => {
                    self.begin_anew()
                }
                // Perhaps somebody holds it.
                Entry::Deleted(queue) if **queue == *self.ledger_queue => {
                    self.lost |= self.truth.is_some();
                    if doing == Doing::Removes {
                        self.begin_anew();
                    }
                }
                _ => {}
            }
        }
        if movement.vanished && doing == Doing::WritesLedger {
            // Its writer cannot know it any more.
            self.returned = None;
        }
        let worn_out = entries.iter().any(|entry| {
            matches!(entry, Entry::Exhausted(queue, Body::Ledger(_)) if **queue == *self.ledger_queue)
        });
        let by_commit = matches!(entries.last(), Some(Entry::Committed(_)));
        if worn_out && by_commit && doing == Doing::Else {
            return Err(format!(
                "I2: {} was given back until it was gone",
                self.ledger_queue
            ));
        }
        // What is put into a queue that only reserves the name goes with it.
        let ready = broker.ready(&self.queue);
        let ready = ready.filter(|_| broker.is_durable(&self.queue));
        let ready = ready.unwrap_or_default();
        self.high = self.high.max(ready);
        self.low = self.low.min(ready);
        if ready > self.cap {
            return Err(format!(
                "I1: {ready} tokens in {}, at most {} are right",
                self.queue, self.cap
            ));
        }
        let committed = match entries.last() {
            Some(Entry::Committed(channel)) => Some(broker.connection_of(*channel)),
            _ => None,
        };
        if let (true, Some(connection), false) = (touched, committed, partial) {
            movement.connection = connection;
            self.enter(movement, doing, broker.is_durable(&self.queue))?;
        } else if (committed.is_some() || partial)
            && let Some(ledger) = movement.ledger
        {
            self.lost = movement.vanished;
            self.truth = Some(ledger);
        }
        Ok(())
    }

    /// People make a specification so.
    pub(super) fn specified(
        &mut self,
        uid: &str,
        created: DateTime<Utc>,
        at: DateTime<Utc>,
        spec: Spec,
    ) {
        self.specs.push(Specified {
            uid: uid.into(),
            created,
            at,
            spec,
        });
        self.cap = self.cap.max(spec.maximum);
    }

    /// All specifications of a resource.
    pub(super) fn specs_of(
        &self,
        uid: &str,
    ) -> impl ExactSizeIterator<Item = &Specified> + DoubleEndedIterator {
        let of_it: Vec<_> = self.specs.iter().filter(|it| *it.uid == *uid).collect();
        of_it.into_iter()
    }

    /// What comes next is another bucket of the same name.
    pub(super) fn begin_anew(&mut self) {
        self.truth = None;
        self.lost = false;
        self.returned = None;
        self.done.clear();
        self.requests.clear();
    }

    /// Somebody's transaction; `exists`: the bucket has a queue.
    fn enter(&mut self, movement: Movement, doing: Doing, exists: bool) -> Result<(), Violation> {
        // Who only takes excess away gives the ledger back as it was.
        if let Some(ledger) = &movement.ledger
            && let Some(owner) = &ledger.owner
        {
            self.anchors.insert((owner.uid.clone(), ledger.since));
        }
        let Some(new) = movement.ledger.clone().or_else(|| self.truth.clone()) else {
            return Err(format!(
                "I2: tokens were moved without a ledger: {movement:?}"
            ));
        };
        match (self.truth.clone(), doing) {
            // The bucket has been removed meanwhile, with both of its queues: nothing came of it but a ledger that is back.
            (None, Doing::Else) if movement.vanished && !exists => {
                self.lost = true;
                self.truth = Some(new);
                return Ok(());
            }
            (None, _) => self.first(&movement, &new, true)?,
            // One whose queue was deleted while it was held is written again.
            (Some(old), Doing::WritesLedger) if self.lost && *old == *new => {}
            (Some(old), Doing::WritesLedger)
                if !self.lenient.several
                    && self.returned.is_some()
                    && self.returned == movement.connection
                    && old.owner == new.owner =>
            {
                return Err(format!(
                    "I2: a ledger that came back is not written again as it was: {old:?} {new:?}"
                ));
            }
            (Some(_), Doing::WritesLedger) if self.lost => self.first(&movement, &new, !exists)?,
            (Some(old), Doing::WritesLedger) => {
                return Err(format!(
                    "I2: a second ledger is written beside {old:?}: {new:?}"
                ));
            }
            (Some(old), _) => self.compare(&movement, &old, &new)?,
        }
        if self.lost {
            let first = self.lenient.forgets && !exists && new.tick.is_none();
            if self.lenient.clocks || first {
                // Nobody knows what was carried out by a clock that was ahead.
                self.done.clear();
            }
            // Nobody can know them any more.
            self.requests = new.requests.iter().map(|it| id_of(it).into()).collect();
        }
        self.in_hand.clear();
        if movement.ledger.is_some() {
            self.lost = movement.vanished;
            self.returned = movement.connection.filter(|_| movement.vanished);
        }
        self.truth = Some(new);
        Ok(())
    }

    fn first(&self, movement: &Movement, new: &Ledger, initial: bool) -> Result<(), Violation> {
        let initial = self
            .specs
            .iter()
            .map(|it| it.spec.initial)
            .max()
            .filter(|_| initial);
        if movement.published > 0 || movement.taken > 0 {
            return Err(format!(
                "I2: a ledger from nowhere comes with tokens: {movement:?}"
            ));
        }
        if new.owed > initial.unwrap_or_default() {
            return Err(format!("I4: a new ledger owes {} tokens", new.owed));
        }
        Ok(())
    }

    fn compare(
        &mut self,
        movement: &Movement,
        old: &Ledger,
        new: &Ledger,
    ) -> Result<(), Violation> {
        let uid = new
            .owner
            .as_ref()
            .map(|owner| owner.uid.clone())
            .unwrap_or_default();
        let of_owner = || self.specs_of(&uid).map(|it| &it.spec);
        let (Some(amount), Some(least)) = (
            of_owner().map(|spec| spec.amount).max(),
            of_owner().map(|spec| spec.maximum).min(),
        ) else {
            if new.owner.is_none() && movement.published == 0 && new.issued == old.issued {
                return Ok(());
            }
            return Err(format!("I4: a ledger of nobody that is known: {new:?}"));
        };
        let issued = new
            .issued
            .checked_sub(old.issued)
            .ok_or("I4: fewer tokens issued than before")?;
        let most = of_owner().map(|spec| spec.maximum).max();
        let level = self.low + old.owed;
        if issued > most.unwrap_or_default().saturating_sub(level) {
            return Err(format!(
                "I1: {issued} tokens issued to {level} that are there or owed: {old:?} {new:?}"
            ));
        }
        self.edited(&uid, old, new)?;
        let refills = self.carried_out(&uid, old, new)?;
        let certain = !self.lenient.anonymous && !self.lenient.clocks;
        if issued > amount.saturating_mul(refills) && certain {
            return Err(format!(
                "I2: {issued} tokens issued for {refills} refills of {amount}: {old:?} {new:?}"
            ));
        }
        // What came from somewhere has to be somewhere; only what is above the maximum goes.
        let in_hand: u64 = self.in_hand.iter().map(|(_, tokens)| tokens).sum();
        let (came, stays) = (
            issued + movement.taken + in_hand + old.owed,
            movement.published + new.owed,
        );
        let level = self.high + old.owed + in_hand + issued + movement.taken;
        if stays > came {
            return Err(format!(
                "I4: {} tokens minted: {movement:?} after {old:?}",
                stays - came
            ));
        }
        if came - stays > level.saturating_sub(least) {
            return Err(format!(
                "I4: {} tokens lost: {movement:?} after {old:?}",
                came - stays
            ));
        }
        self.enough(&uid, old, new, issued)
    }
}
