//! What operators get to know of resources, and what they tell of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bucket::machine::{BatchId, BucketState, Event, Phase, Take, Taken, Transaction};
use bucket::{Bucket, BucketId, Known, Ledger};
use chrono::{DateTime, Utc};

use super::{Act, Micros, Resource, World};
use crate::accountant::Violation;
use crate::fixture;
use crate::plan::{ALARM_FORGOTTEN, Millis, Step};

impl World {
    /// A resource that is created and not being deleted.
    pub(super) fn is_there(&self, resource: usize) -> bool {
        let Some(resource) = self.resources.get(resource) else {
            return false;
        };
        resource.created.is_some() && resource.deleting.is_none() && !resource.gone
    }

    /// An operator gets to know how a resource is, after a while.
    pub(super) fn apply(&mut self, operator: usize, resource: usize, delay: Micros) {
        self.operator_todo(operator, delay, Act::Apply(resource));
    }

    pub(super) fn applied(&mut self, operator: usize, resource: usize) -> Result<(), Violation> {
        if !self.is_there(resource) {
            return Ok(());
        }
        let queue = self.refill_queue(resource);
        let it = &self.resources[resource];
        let created = it.created.unwrap_or_default() / 1_000;
        let bucket = fixture::bucket(&it.uid, &it.id, it.bucket, created, it.spec, queue);
        let maxima = &mut self.processes[operator].maxima;
        maxima.insert(bucket.name.clone(), bucket.maximum);
        let event = Event::Apply {
            bucket: Arc::new(bucket),
            revision: it.revision,
            known: it.status.clone(),
        };
        self.handle(operator, event)
    }

    /// Operators get to know of the first status, too: from then on the resource has had a ledger.
    pub(super) fn status_written(&mut self, number: usize, known: Known) {
        let resource = &mut self.resources[number];
        let cluster = resource.cluster;
        if resource.status.replace(known).is_some() {
            return;
        }
        for operator in 0..self.processes.len() {
            let process = &self.processes[operator];
            if process.operator.cluster == cluster && process.is_alive() {
                let delay = self.upto(60_000);
                self.apply(operator, number, delay);
            }
        }
    }

    pub(super) fn told(
        &mut self,
        operator: usize,
        id: &BucketId,
        state: Arc<BucketState>,
    ) -> Result<(), Violation> {
        let Some(resource) = self.resource_of(operator, id) else {
            return Ok(());
        };
        if let Phase::Stalled {
            reason: "BrokerBlocked",
            ..
        } = state.phase
        {
            return Err(format!("I6: an alarm is no matter for a person: {state:?}"));
        }
        if state.phase == Phase::Ready {
            let known = Known {
                tick: state
                    .last_refill
                    .as_ref()
                    .and_then(|refill| refill.scheduled_time),
                manual: state.refill_request.clone(),
                // A status does not name them.
                requests: Vec::new(),
                issued: state.issued,
            };
            let delay = self.upto(900_000);
            self.operator_todo(operator, delay, Act::Status(resource, Box::new(known)));
        }
        self.processes[operator].told.insert(resource, state);
        Ok(())
    }

    /// The newest resource of this id.
    fn resource_of(&self, operator: usize, id: &BucketId) -> Option<usize> {
        let cluster = self.processes[operator].operator.cluster;
        let is_it = |resource: &Resource| {
            resource.id == *id
                && resource.cluster == cluster
                && resource.created.is_some()
                && !resource.gone
        };
        self.resources.iter().rposition(is_it)
    }

    pub(super) fn told_refill(
        &mut self,
        operator: usize,
        id: &BucketId,
        tick: Option<DateTime<Utc>>,
    ) {
        if let (Some(resource), Some(tick)) = (self.resource_of(operator, id), tick) {
            let carried_out = &mut self.processes[operator].carried_out;
            let newest = carried_out.entry(resource).or_insert(tick);
            *newest = tick.max(*newest);
        }
    }

    /// A request is kept for a person only if that person has been told why.
    pub(super) fn told_parked(&self, operator: usize, id: &BucketId) -> Result<(), Violation> {
        let resource = self.resource_of(operator, id);
        let told = resource.and_then(|resource| self.processes[operator].told.get(&resource));
        match told.map(|told| &told.phase) {
            Some(phase @ (Phase::Ready | Phase::Progressing { .. })) => Err(format!(
                "I6: a request for {id} is parked, and the bucket is {phase:?}"
            )),
            Some(Phase::Stalled { .. }) | None => Ok(()),
        }
    }

    /// A batch begins: an edit that comes later does not concern it.
    pub(super) fn wants(&mut self, operator: usize, batch: BatchId, wanted: &[Take]) {
        let process = &mut self.processes[operator];
        let maximum = |take: &Take| {
            let maximum = process.maxima.get(&take.name).copied();
            (take.name.clone(), maximum.unwrap_or(u64::MAX))
        };
        let maxima = wanted.iter().map(maximum).collect();
        process.rooms.insert(batch, maxima);
    }

    /// I1: nobody adds more than there is room for by his own count, whatever was promised before.
    pub(super) fn fits(
        &mut self,
        operator: usize,
        batch: BatchId,
        transaction: &Transaction,
    ) -> Result<(), Violation> {
        let rooms = self.processes[operator].rooms.remove(&batch);
        let rooms = rooms.unwrap_or_default();
        for (name, tokens) in &transaction.tokens {
            let room = rooms.iter().find(|(of, _)| of == name);
            if let Some((_, room)) = room
                && tokens > room
            {
                return Err(format!(
                    "I1: operator {operator} adds {tokens} tokens to {name}, which has room for {room}"
                ));
            }
        }
        Ok(())
    }

    /// I6: nobody is told of an alarm that is over, or waits as if it were not.
    pub(super) fn nobody_waits_for_an_alarm(&self) -> Result<(), Violation> {
        let lately = self.now - ALARM_FORGOTTEN * 1_000;
        let disturbs = |(at, step): &(Millis, Step)| {
            let lasts = match step {
                Step::Alarm(lasts) => *lasts,
                // Whoever stands still or is cut off knows nothing of it.
                Step::Pause(_, lasts, _) => *lasts,
                Step::Crash(_, lasts, _) | Step::Cut(_, lasts, _) | Step::Restart(lasts) => *lasts,
                _ => 0,
            };
            let (from, to) = (at * 1_000, (at + lasts) * 1_000);
            lasts > 0 && from < self.now && to > lately
        };
        if self.plan.steps.iter().any(disturbs) {
            return Ok(());
        }
        for (operator, process) in self.processes.iter().enumerate() {
            let mut told = process.told.iter();
            let waits = |state: &BucketState| {
                matches!(
                    &state.phase,
                    Phase::Progressing {
                        reason: "BrokerBlocked",
                        ..
                    }
                )
            };
            if let Some((resource, _)) =
                told.find(|(resource, state)| self.is_there(**resource) && waits(state))
            {
                return Err(format!(
                    "I6: operator {operator} tells of an alarm that is over for resource {resource}"
                ));
            }
        }
        Ok(())
    }

    /// Whatever its clock says by now, a process does not forget what it has carried out.
    pub(super) fn remembers(
        &self,
        operator: usize,
        bucket: &Bucket,
        ledger: &Ledger,
    ) -> Result<(), Violation> {
        let mut resources = self.resources.iter();
        let newest = resources
            .position(|resource| resource.uid == bucket.uid)
            .and_then(|resource| self.processes[operator].carried_out.get(&resource));
        match (ledger.tick, newest) {
            (Some(tick), Some(newest)) if tick < *newest => Err(format!(
                "I2: operator {operator} writes a ledger with tick {tick}, and has carried out {newest}"
            )),
            _ => Ok(()),
        }
    }
}

/// What a batch has found takes room away.
pub(super) fn found(
    rooms: &mut BTreeMap<BatchId, Vec<(Arc<str>, u64)>>,
    batch: BatchId,
    taken: &[Taken],
) {
    let rooms = rooms.get_mut(&batch);
    for ((_, room), taken) in rooms.into_iter().flatten().zip(taken) {
        *room = room.saturating_sub(taken.tokens);
    }
}
