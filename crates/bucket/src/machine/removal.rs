//! Removals that are under way. A bucket of the same name waits until its predecessor's queues are gone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::Machine;
use super::effect::{Effect, RemoveFailure};
use super::event::{BatchId, JobId, Now, Removal};
use super::failure::{Class, Failure};
use super::suspects::{Suspect, Verdict};
use crate::{BucketId, Contents, DeletionPolicy};

/// Who is made anew is so soon.
const MOST_REMEMBERED: usize = 1_000;

/// Removals by the name of their bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Removals {
    waiting: BTreeMap<Arc<str>, Vec<Removing>>,
    jobs: HashMap<JobId, Removing>,
    /// Who has left lately: id of the bucket and UID of the resource. It outlives connections.
    gone: VecDeque<(BucketId, Arc<str>)>,
}

#[derive(Clone, Debug)]
struct Removing {
    removal: Removal,
    ticket: u64,
    /// The batch that holds its ledger still.
    batch: Option<BatchId>,
}

impl Removals {
    pub(super) fn is_under_way(&self, name: &str) -> bool {
        self.waiting.contains_key(name)
            || self
                .jobs
                .values()
                .any(|removing| *removing.removal.name == *name)
    }

    /// Buckets whose removal is under way at the broker.
    pub(super) fn under_way(&self) -> impl Iterator<Item = Arc<str>> {
        self.jobs
            .values()
            .map(|removing| removing.removal.name.clone())
    }

    /// UID of the resource that had the id before the one with this UID.
    pub(super) fn gone(&self, id: &BucketId, uid: &str) -> Option<Arc<str>> {
        let is_before = |(gone, before): &&(BucketId, Arc<str>)| gone == id && **before != *uid;
        let newest = self.gone.iter().rev().find(is_before);
        newest.map(|(_, uid)| uid.clone())
    }

    /// Should another resource have this id some day, this one is gone for certain.
    pub(super) fn remember(&mut self, id: &BucketId, uid: &Arc<str>) {
        if self.gone.len() >= MOST_REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back((id.clone(), uid.clone()));
    }

    /// The connection is gone. Answers who is to be told.
    pub(super) fn reset(&mut self) -> Vec<u64> {
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        let jobs = std::mem::take(&mut self.jobs);
        let mut tickets: Vec<_> = waiting
            .chain(jobs.into_values())
            .map(|removing| removing.ticket)
            .collect();
        tickets.sort_unstable();
        tickets
    }
}

impl Machine {
    pub(super) fn remove(&mut self, mut removal: Removal, ticket: u64, now: Now) {
        let entry = self.buckets.get(&removal.id);
        removal.established |= entry.is_some_and(|entry| entry.known.is_some() && !entry.yielded);
        let delete = removal.policy == DeletionPolicy::Delete;
        let batch = self.leave(&removal.id, delete, now);
        self.removals.remember(&removal.id, &removal.uid);
        if !self.connected {
            self.answer(ticket, Err(RemoveFailure::NotConnected));
            return;
        }
        let name = removal.name.clone();
        let removing = Removing {
            removal,
            ticket,
            batch,
        };
        self.removals
            .waiting
            .entry(name)
            .or_default()
            .push(removing);
    }

    /// Begins removals of buckets for which nothing else is under way any more.
    pub(super) fn begin_removals(&mut self, now: Now) {
        if self.removals.waiting.is_empty() {
            return;
        }
        for (name, removals) in std::mem::take(&mut self.removals.waiting) {
            let is_held = |removing: &Removing| {
                let holds = |batch| self.batches.contains_key(&batch);
                removing.batch.is_some_and(holds)
                    || self.inspections.are_under_way_for(&removing.removal.id)
            };
            let (mut held, mut free): (Vec<_>, Vec<_>) = removals.into_iter().partition(is_held);
            if !free.is_empty() {
                match self.suspects.may(&Suspect::Bucket(name.clone()), now) {
                    Verdict::Go => {}
                    Verdict::Wait => held.append(&mut free),
                    Verdict::Rest(_, failure) => {
                        for removing in free.drain(..) {
                            let failure = RemoveFailure::Broker(failure.clone());
                            self.answer(removing.ticket, Err(failure));
                        }
                    }
                }
            }
            if !held.is_empty() {
                self.removals.waiting.insert(name, held);
            }
            for removing in free {
                let job = JobId(self.next_number());
                let Removal {
                    uid,
                    name,
                    policy,
                    moves,
                    established,
                    ..
                } = removing.removal.clone();
                let refill_queue = &removing.removal.refill_queue;
                // One that we consume is left in order.
                let unused = policy == DeletionPolicy::Delete
                    && !self.queues.by_name.contains_key(refill_queue);
                self.effects.push(Effect::Remove {
                    job,
                    name,
                    uid,
                    policy,
                    moves,
                    established,
                    hold_limit: self.settings.hold_limit,
                    refill_queue: unused.then(|| refill_queue.clone()),
                });
                self.removals.jobs.insert(job, removing);
            }
        }
    }

    pub(super) fn removed(&mut self, job: JobId, result: Result<Option<Contents>, Failure>) {
        let Some(Removing {
            removal, ticket, ..
        }) = self.removals.jobs.remove(&job)
        else {
            return;
        };
        if let Err(failure) = &result
            && matches!(failure.class, Class::ConnectionLost | Class::Crash)
        {
            self.suspects.failed(Suspect::Bucket(removal.name.clone()));
        }
        let queue = self.queues.touch(&removal.refill_queue);
        // Who waits for what a bucket takes along has no business with its refill queue.
        let later = matches!(result, Ok(None)) && queue.is_some_and(|it| it.answer_later(ticket));
        if !later {
            self.answer(ticket, result.map_err(RemoveFailure::Broker));
        }
        // Whoever waits for the name.
        if let Some(id) = self.names.get(&removal.name).cloned() {
            self.inspect(&id);
        }
    }

    pub(super) fn answer(&mut self, ticket: u64, result: Result<Option<Contents>, RemoveFailure>) {
        self.effects.push(Effect::Answer { ticket, result });
    }
}
