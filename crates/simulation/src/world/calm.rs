//! What has to be true when nobody has broken anything for a while.

use bucket::machine::Phase;
use bucket::{DeletionPolicy, Ledger, ledger_queue_name, queue_name};
use chrono::TimeDelta;

use super::{Resource, World};
use crate::fixture::{bucket_name, timetable};
use crate::plan::Step;

/// A tick that was due so long ago has been carried out.
const SLACK: TimeDelta = TimeDelta::milliseconds(1_500);

impl World {
    /// What is not yet as it should be.
    pub(super) fn unrest(&self) -> Option<String> {
        if self.plan.shared_queues {
            return None;
        }
        let mut resources = (0..self.resources.len()).collect::<Vec<_>>().into_iter();
        if let Some(number) = resources.find(|number| {
            let resource = &self.resources[*number];
            resource.deleting.is_some() && !resource.gone
        }) {
            return Some(format!(
                "I5: the removal of resource {number} is not answered"
            ));
        }
        (0..self.plan.takers.len())
            .find_map(|bucket| self.unrest_of(bucket))
            .or_else(|| self.unsettled())
    }

    /// A request that is consumed and comes to nothing. With replicas one may wait until its operator can consume the
    /// bucket's own refill queue too.
    fn unsettled(&self) -> Option<String> {
        let shifted = self.plan.any(|step| matches!(step, Step::SetClock(..)));
        // By a clock that was set, something may be due at each look.
        if self.processes.len() > 1 || shifted {
            return None;
        }
        let shells = self.processes.iter().filter_map(|it| it.shell.as_ref());
        let mut queues = shells.flat_map(|shell| shell.consumers.values());
        queues.find_map(|(_, queue)| {
            let requests = self.broker.ready(queue)? as usize + self.broker.held(queue);
            (requests > 0).then(|| format!("I3: {requests} requests in {queue} are not settled"))
        })
    }

    fn unrest_of(&self, bucket: usize) -> Option<String> {
        let name = bucket_name(bucket);
        let (queue, ledger_queue) = (queue_name(name), ledger_queue_name(name));
        let here =
            |number: &usize| self.is_there(*number) && self.resources[*number].bucket == bucket;
        let wanting: Vec<_> = (0..self.resources.len()).filter(here).collect();
        // Whoever is older keeps the bucket.
        let created = |number: &usize| {
            let resource = &self.resources[*number];
            (
                resource.created.unwrap_or_default() / 1_000_000,
                resource.uid.clone(),
            )
        };
        let Some(oldest) = wanting.iter().copied().min_by_key(created) else {
            let deleted = |resource: &Resource| {
                resource.bucket == bucket && resource.deleting == Some(DeletionPolicy::Delete)
            };
            let retained = |resource: &Resource| {
                resource.bucket == bucket && resource.deleting == Some(DeletionPolicy::Retain)
            };
            let resources = &self.resources;
            // A replica may have been declaring them.
            let alone = self.processes.len() == 1;
            let goes = alone && resources.iter().any(deleted) && !resources.iter().any(retained);
            return (goes && self.broker.ready(&queue).is_some())
                .then(|| format!("I5: {queue} is left over"));
        };
        // Of two that both write the ledger, the older one keeps it. One that is suspended, or waits for a refill queue
        // that the other one consumes, does not write.
        let truth = self.accountant.books(bucket).truth.as_ref();
        let owns = |number: &usize| {
            let owner = truth.and_then(|truth| truth.owner.as_ref());
            owner.is_some_and(|owner| *owner.uid == *self.resources[*number].uid)
        };
        let both_write = wanting
            .iter()
            .all(|number| !self.resources[*number].spec.suspend);
        let owner = match wanting.iter().copied().find(owns) {
            Some(owner) if !both_write => owner,
            _ => oldest,
        };
        let rivals = wanting
            .iter()
            .filter(|number| **number != owner && both_write);
        self.unrest_of_resource(owner, &queue, &ledger_queue)
            .or_else(|| {
                rivals.copied().find_map(|rival| {
                    // A replica whose consumer is not the active one sees nothing of it.
                    let mut told = self
                        .processes
                        .iter()
                        .filter_map(|process| process.told.get(&rival));
                    let all_ready = told.all(|told| told.phase == Phase::Ready);
                    all_ready.then(|| {
                        format!(
                            "I6: {name} is Ready for resource {rival} too, not only for {owner}"
                        )
                    })
                })
            })
    }

    /// A replica that had not heard of it yet has written the ledger for a resource that had just been deleted: because it was
    /// lost, or because it was cut off or stood still. Whoever else wants the queues waits for a person, and says what to do.
    fn is_left_behind(&self, truth: &Ledger) -> bool {
        let is_owner = |resource: &&Resource| {
            let owner = truth.owner.as_ref();
            owner.is_some_and(|owner| *owner.uid == *resource.uid)
        };
        let owner = self.resources.iter().find(is_owner);
        let is_gone = owner.is_some_and(|it| it.deleting.is_some());
        let may_happen = |step: &Step| {
            matches!(
                step,
                Step::DeleteLedger(_)
                    | Step::PurgeLedger(_)
                    | Step::DamageLedger(..)
                    | Step::Pause(..)
            )
        };
        is_gone && self.processes.len() > 1 && self.plan.any(may_happen)
    }

    fn unrest_of_resource(&self, number: usize, queue: &str, ledger_queue: &str) -> Option<String> {
        let resource = &self.resources[number];
        let (bucket, spec) = (resource.bucket, resource.spec);
        let books = self.accountant.books(bucket);
        let Some(truth) = &books.truth else {
            return Some(format!("I3: {queue} has no ledger"));
        };
        let ready = self.broker.ready(queue);
        let limit = self
            .broker
            .arguments(queue)
            .and_then(|arguments| arguments.max_length);
        if self.is_left_behind(truth) {
            return None;
        }
        // Who is suspended does not take the bucket over: it stays as somebody who is gone has left it, or lost.
        let abandoned = spec.suspend && (truth.owner.is_none() || books.lost);
        if !abandoned
            && truth
                .owner
                .as_ref()
                .is_none_or(|owner| *owner.uid != *resource.uid)
        {
            return Some(format!(
                "I3: the ledger is of {:?}, not of resource {number}",
                truth.owner
            ));
        }
        let ledgers = self.broker.ready(ledger_queue).unwrap_or_default() as usize
            + self.broker.held(ledger_queue);
        // Nobody needs the ledger of a suspended bucket, so nobody has missed it.
        if ledgers != 1 && !spec.suspend {
            return Some(format!("I2: there are {ledgers} ledgers in {ledger_queue}"));
        }
        if truth.owed > 0 && !abandoned {
            return Some(format!("I4: {} tokens are owed to {queue}", truth.owed));
        }
        let Some(ready) = ready else {
            return Some(format!("I4: {queue} is missing"));
        };
        let put = self.plan.any(|step| matches!(step, Step::Put(..)));
        if ready > spec.maximum && !put && !abandoned {
            return Some(format!(
                "I1: {ready} tokens in {queue}, {} are the maximum",
                spec.maximum
            ));
        }
        let of_cluster = |process: &&super::Process| process.operator.cluster == resource.cluster;
        let clocks = self
            .processes
            .iter()
            .filter(of_cluster)
            .map(|process| process.ahead);
        let ahead = TimeDelta::milliseconds(clocks.min().unwrap_or_default());
        let now =
            crate::fixture::at(i64::try_from(self.now / 1_000).unwrap_or_default()) + ahead - SLACK;
        let due = timetable(spec.schedule)
            .anchored(truth.since)
            .latest(truth.since, now);
        if !spec.suspend && due > truth.tick {
            return Some(format!(
                "I3: tick {due:?} of {queue} was not carried out: {truth:?}"
            ));
        }
        let mut somebody = false;
        // Others may have replaced the queue since this one saw it.
        let several = self.processes.len() > 1;
        for (operator, process) in self.processes.iter().enumerate() {
            if process.operator.cluster != resource.cluster {
                continue;
            }
            let Some(told) = process.told.get(&number) else {
                return Some(format!(
                    "I6: operator {operator} tells nothing of resource {number}"
                ));
            };
            let right = told.phase == Phase::Ready
                && told.revision == resource.revision
                && (told.limit == limit || several)
                && (told
                    .observed
                    .is_some_and(|observed| observed.tokens == ready)
                    || several)
                && told.next_refill.is_none() == spec.suspend;
            // A replica waits while another one consumes the refill queue.
            let waits = matches!(
                &told.phase,
                Phase::Stalled {
                    reason: "QueueInUse",
                    ..
                }
            );
            if waits && !self.plan.single_active && self.processes.len() > 1 {
                continue;
            }
            somebody = true;
            if !right {
                return Some(format!(
                    "I6: operator {operator} tells {told:?} of resource {number}, revision {}, {ready} tokens, limit {limit:?}",
                    resource.revision
                ));
            }
        }
        (!somebody).then(|| format!("I3: nobody works for resource {number}"))
    }
}
