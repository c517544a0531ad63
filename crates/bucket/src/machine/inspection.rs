//! Finds out how the queues of a bucket are, and mends what needs no ledger, until it can take part in batches.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::effect::{Absence, Effect};
use super::entry::{Entry, Stage};
use super::event::{Inspection, JobId, Now, QueueState};
use super::failure::{Class, Failure};
use super::outcome::{Outcome, Phase};
use super::suspects::{Suspect, Verdict};
use super::{LOOK_AGAIN, Machine};
use crate::{BucketId, Known, Ledger, Owner};

/// Inspections under way at the same time: enough to keep the broker busy.
const MOST_INSPECTIONS: usize = 64;

/// The part of all buckets that is inspected again with one count, so that none waits for long.
const RESYNCED_AT_ONCE: usize = 50;

/// A bucket that is not known to have had a ledger gets one when none was seen for so long: another operator may hold one
/// whose queue somebody has deleted, and comes with it within milliseconds.
const ADOPTED_AFTER: Duration = Duration::from_secs(1);

/// Inspections that are under way, and those that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Inspections {
    waiting: VecDeque<(BucketId, JobId)>,
    jobs: HashMap<JobId, Job>,
    /// How many of them wait.
    waits: usize,
}

#[derive(Clone, Debug)]
struct Job {
    bucket: BucketId,
    /// The ledger that it writes.
    ledger: Option<Box<Ledger>>,
    lost: bool,
    /// It waits for a ledger that is perhaps lost.
    waits: bool,
}

impl Inspections {
    /// Those that keep the broker busy.
    fn under_way(&self) -> usize {
        self.jobs.len() - self.waits
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether it waits no more.
    pub(super) fn is_begun(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Whether something is under way that may declare queues of a bucket.
    pub(super) fn are_under_way_for(&self, id: &BucketId) -> bool {
        self.jobs.values().any(|job| job.bucket == *id)
    }
}

impl Machine {
    /// Inspects those that have been ready for long: not all of them at once, since refills wait meanwhile.
    pub(super) fn resync(&mut self, now: Now) {
        let most = self.most_inspected();
        let interval = self.settings.resync_interval;
        let is_due = |entry: &Entry| {
            entry.is_ready()
                && entry.ready_at + interval <= now.monotonic
                && self.queues.is_open(&entry.bucket.refill_queue)
        };
        let due = self.buckets.iter().filter(|(_, entry)| is_due(entry));
        let due: Vec<_> = due.map(|(id, _)| id.clone()).take(most).collect();
        due.iter().for_each(|id| self.inspect(id));
    }

    /// Buckets that are inspected with one count at most.
    fn most_inspected(&self) -> usize {
        MOST_INSPECTIONS + self.buckets.len() / RESYNCED_AT_ONCE
    }

    /// Inspects those that hold fewer tokens than before, those first that were not inspected for the longest: a queue that
    /// somebody has declared anew was empty then.
    pub(super) fn inspect_fallen(&mut self) {
        let fallen = self.buckets.iter().filter(|(_, entry)| entry.fell);
        let ready = fallen.filter(|(_, entry)| entry.is_ready() && entry.batch.is_none());
        let mut ready: Vec<_> = ready
            .map(|(id, entry)| (entry.ready_at, id.clone()))
            .collect();
        ready.sort_unstable();
        ready.truncate(self.most_inspected());
        ready.iter().for_each(|(_, id)| self.inspect(id));
    }

    /// Inspects a bucket, as soon as that is possible.
    pub(super) fn inspect(&mut self, id: &BucketId) {
        let job = JobId(self.next_number());
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        if entry.batch.is_some() {
            entry.outdated = true;
            return;
        }
        // Nothing else can be done with its queues before that has ended.
        if let Stage::Inspecting(job) = entry.stage
            && let Some(writing) = self.inspections.jobs.get(&job)
            && writing.ledger.is_some()
        {
            if writing.waits {
                let revision = entry.revision;
                self.update(id, |state| state.revision = revision);
            } else if self.blocked {
                self.tell_bucket(id);
            }
            return;
        }
        entry.stage = Stage::Unknown;
        if let Some(at) = entry.wake.take() {
            self.timers.remove(&(at, id.clone()));
        }
        if self.blocked {
            self.tell_bucket(id);
            return;
        }
        let held_up = self.removals.is_under_way(&entry.bucket.name);
        if !self.connected || held_up || !self.queues.is_open(&entry.bucket.refill_queue) {
            return;
        }
        entry.stage = Stage::Inspecting(job);
        self.inspections.waiting.push_back((id.clone(), job));
    }

    pub(super) fn begin_inspections(&mut self, now: Now) {
        let mut later = Vec::new();
        while self.inspections.under_way() < MOST_INSPECTIONS
            && let Some((id, job)) = self.inspections.waiting.pop_front()
        {
            let Some(entry) = self.buckets.get(&id) else {
                continue;
            };
            if entry.stage != Stage::Inspecting(job) {
                continue;
            }
            let suspect = Suspect::Bucket(entry.bucket.name.clone());
            match self.suspects.may(&suspect, now) {
                Verdict::Go => {}
                Verdict::Wait => {
                    later.push((id, job));
                    continue;
                }
                Verdict::Rest(until, failure) => {
                    self.rest(&id, until, &failure);
                    continue;
                }
            }
            // Most buckets that are new have no queues. Asking for them would be errors at the broker, and trying tells.
            if !entry.has_had_ledger() && !entry.has_queues {
                self.no_ledger(&id, false, now);
                continue;
            }
            let bucket = entry.bucket.clone();
            let was_there = entry.ready_at > Duration::ZERO;
            let began = Job {
                bucket: id,
                ledger: None,
                lost: false,
                waits: false,
            };
            self.inspections.jobs.insert(job, began);
            self.effects.push(Effect::Inspect {
                job,
                bucket,
                was_there,
            });
        }
        self.inspections.waiting.extend(later);
    }

    /// The bucket that a job is about, if it still waits for that job.
    fn job_of(&mut self, job: JobId) -> Option<Job> {
        let ended = self.inspections.jobs.remove(&job)?;
        self.inspections.waits -= usize::from(ended.waits);
        let entry = self.buckets.get(&ended.bucket)?;
        (entry.stage == Stage::Inspecting(job)).then_some(ended)
    }

    pub(super) fn inspected(&mut self, job: JobId, found: Result<Inspection, Failure>, now: Now) {
        let Some(Job { bucket: id, .. }) = self.job_of(job) else {
            return;
        };
        match found {
            Ok(Inspection::Queues(queue)) => self.open(&id, queue, None),
            Ok(Inspection::Restored(queue)) => {
                self.tell(Outcome::QueueMissing(id.clone()));
                self.open(&id, queue, None);
            }
            Ok(Inspection::NoLedger { bucket_exists }) => self.no_ledger(&id, bucket_exists, now),
            Ok(Inspection::OtherArguments {
                message,
                tokens: Some(tokens @ 0),
                ..
            }) => {
                let limit = None;
                self.open(&id, QueueState { tokens, limit }, Some(message.into()));
            }
            Ok(Inspection::OtherArguments {
                queue,
                message,
                tokens,
            }) => {
                let what_to_do = if tokens.is_some() {
                    "Its messages stay, and refills wait: when it is empty it is declared anew."
                } else {
                    "It stays as it is. Compare its arguments with those of other buckets' queues (rabbitmqctl list_queues name \
                     arguments policy), or give the bucket another name or queueType."
                };
                let message =
                    format!("Queue {queue} exists with other arguments: {message}. {what_to_do}");
                self.stall(&id, Phase::stalled("QueueArgumentsDiffer", message), now);
            }
            Err(failure) => self.failed(&id, failure, now),
        }
    }

    /// Its queues are there; the bucket's is a misfit if it has to be replaced for other reasons than its limit.
    fn open(&mut self, id: &BucketId, queue: QueueState, misfit: Option<Box<str>>) {
        if let Some(entry) = self.buckets.get_mut(id) {
            entry.had_ledger = true;
            entry.fell = false;
            entry.misfit = misfit;
            entry.stage = Stage::Opening(queue);
        }
        self.line_up(id);
    }

    /// There is no queue for the ledger. A bucket that never had one gets it, with its initial tokens, unless its own
    /// queue is there already: then that is somebody's, with the tokens that it holds, and with the ticks until now. Any
    /// other bucket has lost its ledger; when its own queue is gone too, nobody can be about to refill it. A bucket that has
    /// come from another broker is no new one.
    fn no_ledger(&mut self, id: &BucketId, bucket_exists: bool, now: Now) {
        if bucket_exists {
            return self.absent(id, now);
        }
        let Some(entry) = self.buckets.get(id) else {
            return;
        };
        let lost = entry.has_had_ledger() && !entry.yielded;
        let after_loss = entry.ledger_without(&self.settings.operator, now.utc);
        let ledger = if lost || entry.arriving().is_some() {
            after_loss
        } else {
            let owner = Owner::of(&entry.bucket, &self.settings.operator);
            let fingerprint = entry.bucket.timetable.fingerprint();
            let new = Ledger::new(owner, &fingerprint, entry.bucket.initial_tokens);
            // Ticks up to now were for the resource that came first.
            let tick = after_loss.tick.filter(|_| entry.yielded);
            Ledger { tick, ..new }
        };
        // As this found it: who was slower than somebody else would forget what that one has refilled.
        self.write_ledger(id, Box::new(ledger), lost, Absence::NoQueues);
    }

    /// The ledger of a bucket is absent: somebody holds it, or it is lost. In that case nobody knows which of the ticks up
    /// to now were carried out. Of a bucket that is not known to have had one it is looked for as well before one is
    /// written: another operator may be about to come with it.
    pub(super) fn absent(&mut self, id: &BucketId, now: Now) {
        let limit = self.settings.hold_limit;
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        if let Some(at) = entry.absent(now) {
            self.sleep(id, at);
            return;
        }
        let message = format!(
            "Queue {} is empty: another operator holds the ledger, or a connection that has ended without the broker's \
             notice, or it is lost. In that case it is written anew after {} s.",
            entry.bucket.ledger_queue(),
            limit.as_secs()
        );
        let ledger = entry.ledger_without(&self.settings.operator, now.utc);
        let lost = entry.has_had_ledger();
        if lost {
            self.show(id, Phase::progressing("LedgerHeld", message));
        }
        let unseen = if lost { limit } else { ADOPTED_AFTER };
        self.write_ledger(id, Box::new(ledger), lost, Absence::Unseen(unseen));
    }

    /// Writes a ledger where there is none; what was known of the bucket goes on from it.
    pub(super) fn write_ledger(
        &mut self,
        id: &BucketId,
        ledger: Box<Ledger>,
        lost: bool,
        absence: Absence,
    ) {
        let job = JobId(self.next_number());
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        entry.stage = Stage::Inspecting(job);
        let bucket = entry.bucket.clone();
        let began = Job {
            bucket: id.clone(),
            ledger: Some(ledger.clone()),
            lost,
            waits: matches!(absence, Absence::Unseen(_)),
        };
        self.inspections.waits += usize::from(began.waits);
        self.inspections.jobs.insert(job, began);
        self.effects.push(Effect::WriteLedger {
            job,
            bucket,
            ledger,
            absence,
        });
    }

    pub(super) fn ledger_written(&mut self, job: JobId, written: Result<bool, Failure>, now: Now) {
        let Some(Job {
            bucket: id,
            ledger: Some(ledger),
            lost,
            ..
        }) = self.job_of(job)
        else {
            return;
        };
        let is_of = |entry: &&mut Box<Entry>| ledger.is_of(&entry.bucket);
        let Some(entry) = self.buckets.get_mut(&id).filter(is_of) else {
            // Another resource has its id by now.
            return self.inspect(&id);
        };
        match written {
            Ok(written) => {
                entry.absent = None;
                entry.owned |= written;
                entry.has_queues = true;
                if written {
                    entry.known = Some(Known::from(&ledger).into());
                }
                if written && lost {
                    self.tell(Outcome::LedgerLost(id.clone()));
                }
                if let Some(owner) = ledger.owner.filter(|_| written) {
                    let (bucket, owner) = (id.clone(), owner.uid);
                    self.tell(Outcome::Owned { bucket, owner });
                }
                self.inspect(&id);
            }
            // Somebody else is about to write it.
            Err(Failure {
                class: Class::InUse,
                ..
            }) => self.pause(&id, now),
            Err(failure) => self.failed(&id, failure, now),
        }
    }

    /// Something is in the way of a bucket.
    pub(super) fn failed(&mut self, id: &BucketId, failure: Failure, now: Now) {
        match failure.class {
            Class::ConnectionLost | Class::Crash => {
                self.failed_with_connection(id);
                self.reset(id);
            }
            Class::Blocked if self.blocked => self.reset(id),
            // The alarm was over before this was told.
            Class::Blocked => self.pause(id, now),
            Class::Person => self.stall(id, Phase::of(&failure), now),
            Class::Transient
            | Class::Unavailable
            | Class::NoQueue
            | Class::InUse
            | Class::Refused => {
                // That a queue was deleted, or that somebody else is making it, is no news for a moment.
                let is_news = failure.class == Class::Unavailable;
                if is_news || self.buckets.get(id).is_some_and(|entry| entry.failures > 1) {
                    self.show(id, Phase::of(&failure));
                }
                self.pause(id, now);
            }
        }
    }

    fn reset(&mut self, id: &BucketId) {
        if let Some(entry) = self.buckets.get_mut(id) {
            entry.stage = Stage::Unknown;
        }
    }

    /// The bucket is inspected again in a while.
    pub(super) fn pause(&mut self, id: &BucketId, now: Now) {
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        entry.stage = Stage::Waiting;
        let at = now.monotonic + entry.failed();
        self.sleep(id, at);
    }

    /// A person must act. Its tokens stay; requests for it are not kept waiting.
    pub(super) fn stall(&mut self, id: &BucketId, phase: Phase, now: Now) {
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        entry.stage = Stage::Stalled;
        let pending = std::mem::take(&mut entry.pending);
        self.scheduler.leave(id);
        self.show(id, phase);
        self.reroute(id, pending.into(), None, now);
        self.sleep(id, now.monotonic + LOOK_AGAIN);
    }

    /// Wakes a bucket at that time.
    pub(super) fn sleep(&mut self, id: &BucketId, at: Duration) {
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        if let Stage::Inspecting(_) = entry.stage {
            entry.stage = Stage::Waiting;
        }
        if let Some(before) = entry.wake.replace(at) {
            self.timers.remove(&(before, id.clone()));
        }
        self.timers.insert((at, id.clone()));
    }

    pub(super) fn wake(&mut self, id: &BucketId) {
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        entry.wake = None;
        match entry.stage {
            Stage::Waiting | Stage::Stalled => self.inspect(id),
            _ => self.line_up(id),
        }
    }
}
