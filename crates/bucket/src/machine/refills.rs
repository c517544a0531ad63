//! Batches: buckets whose ledgers are got together on one channel, and what becomes of them.

use std::sync::Arc;

use super::Machine;
use super::adjustment::Adjustment;
use super::batch::{self, Batch, Decided, Item, Step, Task};
use super::claim::conflict;
use super::effect::{Absence, Effect};
use super::entry::{Entry, Stage};
use super::event::{BatchId, Now, QueueState, Taken};
use super::failure::{Class, Failure};
use super::outcome::{Outcome, Phase};
use super::share::Room;
use crate::{BucketId, Owner};

impl Machine {
    /// A bucket that has something to do waits for its turn.
    pub(super) fn line_up(&mut self, id: &BucketId) {
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        if !entry.lined_up && entry.wants_turn() {
            entry.lined_up = true;
            self.turns.push_back(id.clone());
        }
    }

    pub(super) fn begin_batches(&mut self) {
        while self.batches.len() < self.settings.channels {
            let items = self.take_turns();
            if items.is_empty() {
                return;
            }
            let batch = BatchId(self.next_number());
            for item in &items {
                if let Some(entry) = self.buckets.get_mut(&item.id) {
                    entry.batch = Some(batch);
                }
            }
            let most = self.settings.most_tokens;
            let wanted = items.iter().map(|item| item.take(most)).collect();
            self.effects.push(Effect::Take { batch, wanted });
            let step = Step::Taking;
            self.batches.insert(batch, Batch { items, step });
        }
    }

    /// The buckets whose turn it is. One whose queue has to be put right comes alone.
    fn take_turns(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut room = Room::of(self.settings.most_tokens);
        while room.is_left()
            && let Some(id) = self.turns.front().cloned()
        {
            let Some(entry) = self.buckets.get_mut(&id) else {
                self.turns.pop_front();
                continue;
            };
            let adjustment = entry.adjustment();
            let alone = entry.alone || adjustment != Adjustment::None;
            if alone && !items.is_empty() {
                break;
            }
            self.turns.pop_front();
            entry.lined_up = false;
            if !entry.wants_turn() {
                continue;
            }
            let task = match (adjustment, &entry.stage) {
                (Adjustment::Trim(excess), _) => Task::Trim(excess),
                (Adjustment::Carry, _) => Task::Carry,
                (Adjustment::Replace, _) => Task::Replace,
                (_, Stage::Opening(QueueState { limit, .. }) | Stage::Ready { limit, .. }) => {
                    Task::Refill { limit: *limit }
                }
                _ => continue,
            };
            let requests = match task {
                Task::Refill { .. } => entry.take_pending(),
                _ => Vec::new(),
            };
            let owes = matches!(entry.stage, Stage::Ready { owes: true, .. });
            room.take(if requests.is_empty() && !owes {
                1
            } else {
                entry.bucket.amount
            });
            items.push(Item {
                id,
                bucket: entry.bucket.clone(),
                owner: Owner::of(&entry.bucket, &self.settings.operator),
                owned: entry.owned,
                gone: entry.gone.clone(),
                known_rival: entry.is_ready().then(|| entry.rival.clone()),
                known: entry.known.clone(),
                left: false,
                task,
                requests,
            });
            if alone {
                break;
            }
        }
        items
    }

    pub(super) fn taken(&mut self, id: BatchId, taken: Result<Vec<Taken>, Failure>, now: Now) {
        let Some(mut batch) = self.batches.remove(&id) else {
            return;
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err(failure) => return self.batch_failed(id, batch, &failure, now),
        };
        for item in &mut batch.items {
            let (bucket, uid) = (&item.id, &item.bucket.uid);
            item.left = self
                .member(bucket, id)
                .is_none_or(|it| it.bucket.uid != *uid);
        }
        let most = self.settings.most_tokens;
        match batch::decide(&batch.items, taken, most, now.utc) {
            Ok((transaction, decided)) => {
                if transaction.is_empty() {
                    return self.batch_done(id, batch.items, decided, &[], now);
                }
                batch.step = Step::Committing(decided);
                self.effects.push(Effect::Commit {
                    batch: id,
                    transaction,
                });
            }
            Err(held) => {
                let bucket = batch.items[0].bucket.clone();
                batch.step = Step::Replacing(held);
                self.effects.push(Effect::Replace { batch: id, bucket });
            }
        }
        self.batches.insert(id, batch);
    }

    pub(super) fn replaced(&mut self, id: BatchId, tokens: Result<u64, Failure>, now: Now) {
        let Some(batch) = self.batches.remove(&id) else {
            return;
        };
        let tokens = match tokens {
            Ok(tokens) => tokens,
            Err(failure) => {
                // Somebody else may have declared it in between: that is no matter for a person.
                let class = match failure.class {
                    Class::Person => Class::Transient,
                    class => class,
                };
                return self.batch_failed(id, batch, &Failure { class, ..failure }, now);
            }
        };
        let Batch {
            items,
            step: Step::Replacing(held),
        } = batch
        else {
            return;
        };
        let (transaction, decided) = batch::replaced(&items[0], *held, tokens);
        self.effects.push(Effect::Commit {
            batch: id,
            transaction,
        });
        let step = Step::Committing(decided);
        self.batches.insert(id, Batch { items, step });
    }

    pub(super) fn committed(
        &mut self,
        id: BatchId,
        returned: Result<Vec<Arc<str>>, Failure>,
        now: Now,
    ) {
        let Some(batch) = self.batches.remove(&id) else {
            return;
        };
        let returned = match returned {
            Ok(returned) => returned,
            Err(failure) => return self.batch_failed(id, batch, &failure, now),
        };
        if let Step::Committing(decided) = batch.step {
            self.batch_done(id, batch.items, decided, &returned, now);
        }
    }

    /// Nothing is held any more, and perhaps something was committed: the ledgers tell, when they are held again.
    fn batch_failed(&mut self, number: BatchId, batch: Batch, failure: &Failure, now: Now) {
        let shared = batch.items.len() > 1;
        for Item {
            id,
            bucket,
            requests,
            ..
        } in batch.items
        {
            let Some(entry) = self.member(&id, number) else {
                self.reroute(&id, requests, Some(&bucket.name), now);
                continue;
            };
            entry.batch = None;
            entry.outdated = false;
            entry.put_back(requests);
            if failure.class == Class::NoQueue {
                self.inspect(&id);
            } else if shared && !matches!(failure.class, Class::ConnectionLost | Class::Crash) {
                // Whose fault it is shows when each is on its own.
                entry.alone = true;
                self.inspect(&id);
            } else {
                self.failed(&id, failure.clone(), now);
            }
        }
    }

    fn batch_done(
        &mut self,
        number: BatchId,
        items: Vec<Item>,
        decided: Vec<Decided>,
        returned: &[Arc<str>],
        now: Now,
    ) {
        for (item, decided) in items.into_iter().zip(decided) {
            let id = item.id.clone();
            let Some(entry) = self.member(&id, number) else {
                self.settle_gone(item, decided, now);
                continue;
            };
            entry.batch = None;
            match decided {
                Decided::Commits(outcome) => {
                    let is_back = returned.contains(&item.bucket.name);
                    self.item_committed(item, *outcome, is_back, now);
                }
                Decided::Claims(outcome) => {
                    entry.put_back(item.requests);
                    let is_back = returned.contains(&item.bucket.name);
                    let requests = Vec::new();
                    self.item_committed(Item { requests, ..item }, *outcome, is_back, now);
                }
                Decided::Absent => {
                    entry.put_back(item.requests);
                    if !entry.outdated {
                        self.absent(&id, now);
                    }
                }
                Decided::Replace(ledger) => {
                    entry.put_back(item.requests);
                    if returned.contains(&item.bucket.name) {
                        entry.outdated = false;
                        self.write_ledger(&id, ledger, true, Absence::NoQueue);
                    } else if let Task::Refill { limit } = item.task {
                        entry.stage = Stage::Opening(QueueState { tokens: 0, limit });
                    }
                }
                Decided::Unreadable(reason) => {
                    entry.put_back(item.requests);
                    let message = format!(
                        "The ledger in queue {} cannot be read: {reason}. Run the version of the operator that wrote it, or \
                         purge the queue: refills then go on with the ticks that come.",
                        item.bucket.ledger_queue()
                    );
                    self.stall(&id, Phase::stalled("UnreadableLedger", message), now);
                }
                Decided::Yields(owner) => {
                    entry.put_back(item.requests);
                    entry.yielded = true;
                    entry.absent = None;
                    let (bucket, phase) = (id.clone(), conflict(&item.bucket, &owner));
                    let owner = owner.uid;
                    self.tell(Outcome::Owned { bucket, owner });
                    self.stall(&id, phase, now);
                }
            }
            let Some(entry) = self.buckets.get_mut(&id) else {
                continue;
            };
            if std::mem::take(&mut entry.outdated) {
                self.inspect(&id);
            } else {
                self.line_up(&id);
            }
        }
    }

    /// A bucket that takes part in a batch; None: it has left, and perhaps come again.
    fn member(&mut self, id: &BucketId, batch: BatchId) -> Option<&mut Box<Entry>> {
        let entry = self.buckets.get_mut(id)?;
        (entry.batch == Some(batch)).then_some(entry)
    }

    /// A bucket has left while it took part in a batch.
    fn settle_gone(&mut self, item: Item, decided: Decided, now: Now) {
        match decided {
            Decided::Commits(_) => {
                let tickets = item.requests.iter().filter_map(|it| it.ticket.as_ref());
                tickets.for_each(|ticket| self.acknowledge(ticket));
            }
            _ => self.reroute(&item.id, item.requests, Some(&item.bucket.name), now),
        }
    }
}
