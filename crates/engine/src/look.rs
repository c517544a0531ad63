//! Looks at the ledger and the queue of a bucket until its refills can run.

use std::collections::VecDeque;
use std::future::pending;
use std::panic::resume_unwind;

use chrono::Utc;
use tokio::task::JoinSet;

use super::ensure::{self, EnsureError, LedgerState, QueueState};
use super::outcome::{Observed, Phase};
use super::plan::Asked;
use super::slot::{Adjustment, Stage};
use super::worker::{Context, Worker};
use amqp::BrokerError;
use bucket::{BucketId, Cause};

/// Looks under way at the same time: enough to keep the broker busy.
const MOST_LOOKS: usize = 64;

/// What a look at a bucket found.
pub(super) struct Look {
    bucket: BucketId,
    number: u64,
    found: Result<Found, EnsureError>,
}

enum Found {
    Ledger(LedgerState),
    Queue(QueueState),
}

/// Looks that are under way, and those that wait: the task of a look is large, and after a start every bucket wants one.
#[derive(Default)]
pub(super) struct Looks {
    under_way: JoinSet<Look>,
    /// Which bucket, and the number of its look.
    waiting: VecDeque<(BucketId, u64)>,
    /// Buckets whose look came to nothing because of a resource alarm, until it is over.
    put_off: Vec<BucketId>,
}

impl Looks {
    /// The next one that is done; for ever while there is none.
    pub(super) async fn next(&mut self) -> Look {
        loop {
            match self.under_way.join_next().await {
                Some(Ok(look)) => return look,
                Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
                Some(Err(_)) => {}
                None => return pending().await,
            }
        }
    }

    pub(super) fn are_put_off(&self) -> bool {
        !self.put_off.is_empty()
    }
}

impl Worker {
    /// Starts a look at a bucket's ledger and queue. Until it is done, requests for the bucket are held.
    pub(super) fn look(&mut self, id: &BucketId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.look += 1;
        slot.stage = Stage::Ensuring;
        self.looks.waiting.push_back((id.clone(), slot.look));
        self.work.remove(id);
        self.hold(id);
        self.begin_looks();
    }

    /// The bucket is not ready any more: requests that wait for their turn are held, behind those that are held already.
    pub(super) fn hold(&mut self, id: &BucketId) {
        let waiting = self.asked.extract_if(.., |asked| asked.bucket == *id);
        if let Some(slot) = self.slots.get_mut(id) {
            slot.held.extend(waiting);
        }
    }

    fn begin_looks(&mut self) {
        while self.looks.under_way.len() < MOST_LOOKS
            && let Some((id, number)) = self.looks.waiting.pop_front()
        {
            let slot = self.slots.get(&id);
            let Some(slot) = slot.filter(|slot| slot.look == number) else {
                continue;
            };
            let (bucket, known) = (slot.bucket.clone(), slot.ledger.clone());
            let context = self.context.clone();
            self.looks.under_way.spawn(async move {
                let found =
                    ensure::ledger(&context.broker, &bucket, &context.writer, known, Utc::now())
                        .await;
                Look {
                    bucket: id,
                    number,
                    found: found.map(Found::Ledger),
                }
            });
        }
    }

    pub(super) fn look_at_queue(&mut self, id: &BucketId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let (id, bucket, number) = (id.clone(), slot.bucket.clone(), slot.look);
        let context = self.context.clone();
        self.looks.under_way.spawn(async move {
            let found = ensure::queue(&context.broker, &bucket).await;
            Look {
                bucket: id,
                number,
                found: found.map(Found::Queue),
            }
        });
    }

    pub(super) fn look_again(&mut self) {
        let stalled = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.stage == Stage::Stalled);
        let ids: Vec<_> = stalled.map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.look(id));
    }

    /// Goes on with a bucket that was looked at.
    pub(super) fn found(&mut self, look: Look) {
        self.judge(look);
        // After the judgement: the second half of a look comes before the looks that wait.
        self.begin_looks();
    }

    fn judge(&mut self, look: Look) {
        let Look {
            bucket: id,
            number,
            found,
        } = look;
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.look == number) else {
            return;
        };
        match found {
            Ok(Found::Ledger(LedgerState {
                ledger,
                changed,
                fence,
            })) => {
                slot.ledger = Some(ledger);
                slot.unwritten = changed;
                slot.fence = fence;
                if changed {
                    self.work.insert(id);
                } else {
                    self.look_at_queue(&id);
                }
            }
            Ok(Found::Queue(queue))
                if queue.adjustment(slot.bucket.maximum) == Adjustment::None =>
            {
                self.ready(&id, queue);
            }
            Ok(Found::Queue(queue)) => {
                slot.stage = Stage::Adjusting(queue);
                self.hold(&id);
                self.work.insert(id);
            }
            // Nobody is to be told that a refill cannot be carried out: it waits, as those of other buckets do.
            Err(error @ EnsureError::Broker(BrokerError::Blocked)) => {
                self.put_off(&id, error.phase());
            }
            Err(error) => self.stall(&id, error.phase()),
        }
    }

    fn put_off(&mut self, id: &BucketId, phase: Phase) {
        self.hold(id);
        self.work.remove(id);
        self.looks.put_off.push(id.clone());
        if let Some(slot) = self.slots.get_mut(id) {
            slot.stage = Stage::Ensuring;
            let revision = slot.revision;
            self.context.board.update(id, |state| {
                state.revision = revision;
                state.phase = phase;
            });
        }
    }

    /// The resource alarm is over.
    pub(super) fn look_at_put_off(&mut self) {
        let ids = std::mem::take(&mut self.looks.put_off);
        ids.iter().for_each(|id| self.look(id));
    }

    /// The ledger of a look is written: go on with the queue.
    pub(super) fn written(&mut self, id: &BucketId) {
        self.work.remove(id);
        if let Some(slot) = self.slots.get_mut(id) {
            slot.unwritten = false;
            slot.fence = None;
        }
        self.look_at_queue(id);
    }

    /// A bucket's refills run from now on. What it is owed from its creation or from a replaced queue comes first, and
    /// then a look again, so that whoever is told that the bucket is ready is told of these tokens too.
    pub(super) fn ready(&mut self, id: &BucketId, queue: QueueState) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let Some(ledger) = &slot.ledger else { return };
        slot.stage = Stage::Ready { limit: queue.limit };
        slot.filling = ledger.owed > 0;
        self.ahead.forget(id);
        let now = Utc::now();
        let Context {
            board,
            scheduler,
            observer,
            ..
        } = &*self.context;
        board.update(id, |state| {
            state.revision = slot.revision;
            state.phase = if slot.filling {
                Phase::Progressing {
                    reason: "Filling",
                    message: "Tokens that the bucket is owed are being added.".into(),
                }
            } else {
                Phase::Ready
            };
            state.limit = queue.limit;
            state.observed = Some(Observed {
                tokens: queue.tokens,
                at: now,
            });
            state.next_refill = slot.bucket.next_refill(ledger, now);
            state.show(ledger);
        });
        scheduler.enter(slot.bucket.clone(), ledger.since, ledger.reference());
        observer.watch(id.clone(), slot.bucket.name.clone());
        if ledger.owed > 0 {
            self.work.insert(id.clone());
        } else {
            self.work.remove(id);
        }
        let mut held = std::mem::take(&mut slot.held);
        if let Some(value) = &slot.bucket.refill_request
            && ledger.manual.as_ref() != Some(value)
        {
            held.push(Asked {
                bucket: id.clone(),
                cause: Cause::Annotation(value.clone()),
                delivery: None,
            });
        }
        held.into_iter().for_each(|asked| self.admit(asked));
    }

    fn stall(&mut self, id: &BucketId, phase: Phase) {
        self.hold(id);
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.stage = Stage::Stalled;
        self.work.remove(id);
        let revision = slot.revision;
        let held = std::mem::take(&mut slot.held);
        held.into_iter().for_each(|asked| self.disown(asked));
        self.context.scheduler.leave(id.clone());
        self.context.board.update(id, |state| {
            state.revision = revision;
            state.phase = phase;
            state.next_refill = None;
        });
    }
}
