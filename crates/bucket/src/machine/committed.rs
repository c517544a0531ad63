//! What is true of a bucket when something was committed for it.

use super::Machine;
use super::batch::{self, Accepted, Item, Task};
use super::claim::described;
use super::effect::{Absence, Effect};
use super::entry::Stage;
use super::event::{Now, QueueState};
use super::outcome::{Observed, Outcome, Phase};
use crate::Known;

impl Machine {
    /// What was decided for a bucket is committed.
    pub(super) fn item_committed(
        &mut self,
        item: Item,
        outcome: batch::Outcome,
        is_back: bool,
        now: Now,
    ) {
        let Item {
            id,
            bucket,
            task,
            requests,
            ..
        } = item;
        let batch::Outcome {
            held,
            tokens,
            accepted,
            refused,
        } = outcome;
        let Some(entry) = self.buckets.get_mut(&id) else {
            return;
        };
        entry.known = Some(Known::from(&held.ledger).into());
        let is_new = !entry.owned || entry.yielded;
        entry.owned = true;
        entry.yielded = false;
        entry.absent = None;
        entry.failures = 0;
        entry.alone = false;
        entry.rival = held.ledger.rival_uid().map(Into::into);
        entry.outdated |= held.was_of_another;
        // It is looked at once more: somebody may have put something into it meanwhile, and then it is there still.
        let misfit = entry.misfit.take();
        entry.outdated |= misfit.is_some();
        entry.outdated &= !is_back;
        let told = held
            .contested
            .clone()
            .filter(|rival| entry.contested.as_ref() != Some(rival));
        if let Some(rival) = told {
            entry.contested = Some(rival.clone());
            let (bucket, rival) = (id.clone(), described(&rival));
            self.tell(Outcome::Contested { bucket, rival });
        }
        if let Some(message) = misfit.filter(|_| task == Task::Replace && held.tokens == 0) {
            let bucket = id.clone();
            self.tell(Outcome::QueueReplaced { bucket, message });
        }
        if is_new {
            let (bucket, owner) = (id.clone(), (*bucket.uid).into());
            self.tell(Outcome::Owned { bucket, owner });
        }
        for request in &requests {
            match &request.ticket {
                Some(ticket) if request.foreign().is_some() => self.acknowledge_for(ticket, &id),
                Some(ticket) => self.acknowledge(ticket),
                None => {}
            }
        }
        let owed = held.ledger.owed;
        for Accepted {
            trigger,
            added,
            tick,
        } in accepted
        {
            self.tell(Outcome::Refilled {
                bucket: id.clone(),
                trigger,
                added,
                tick,
                lag: tick.and_then(|tick| (now.utc - tick).to_std().ok()),
                owed,
            });
        }
        if held.completes() {
            let added = held.ledger.last_refill.as_ref().map_or(0, |it| it.added);
            let bucket = id.clone();
            self.tell(Outcome::Completed { bucket, added });
        }
        let found = held.tokens;
        let ledger = held.ledger;
        refused
            .into_iter()
            .for_each(|refusal| self.refused(&id, refusal));
        if is_back {
            // Its queue was deleted while the ledger was held. Nobody else has held it since.
            self.write_ledger(&id, ledger, true, Absence::NoQueue);
            return;
        }
        let Some(entry) = self.buckets.get_mut(&id) else {
            return;
        };
        // Tasks that put a queue right are followed by a look at what is still to be done.
        let limit = match (task, &entry.stage) {
            (Task::Refill { limit }, _) => limit,
            (Task::Replace, _) if held.tokens == 0 => Some(bucket.maximum),
            (_, Stage::Opening(QueueState { limit, .. })) => *limit,
            _ => return,
        };
        let at = now.utc;
        let count = Observed { tokens, at };
        let opening = matches!(entry.stage, Stage::Opening(_));
        if opening && (entry.outdated || !matches!(task, Task::Refill { .. })) {
            entry.stage = Stage::Opening(QueueState { tokens, limit });
            self.update(&id, |state| state.observe(count));
            return;
        }
        let owes = ledger.owed > 0;
        // Also for a person, when its refill queue has refused requests.
        let was_waiting = entry.state.phase != Phase::Ready;
        entry.stage = Stage::Ready { limit, owes };
        entry.ask_by_annotation(ledger.manual.as_deref());
        if entry.traces.refilled(found, tokens.saturating_sub(found)) {
            self.effects.push(Effect::Recount {
                bucket: id.clone(),
                name: bucket.name.clone(),
            });
        }
        let revision = opening.then_some(entry.revision);
        self.counter.soon(id.clone(), now);
        if opening {
            entry.ready_at = now.monotonic;
            self.scheduler
                .enter(&bucket, ledger.since, ledger.reference(), now);
        }
        let phase = (opening || (was_waiting && !owes)).then(|| Phase::running(owes));
        let next = self.scheduler.next_of(&id);
        self.update(&id, |state| {
            state.observe(count);
            state.limit = limit;
            state.show(&ledger);
            // What was edited since it was opened is not in force yet.
            state.revision = revision.unwrap_or(state.revision);
            if let Some(phase) = phase {
                state.phase = phase;
                state.next_refill = next;
            }
        });
    }
}
