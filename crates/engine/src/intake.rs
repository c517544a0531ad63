//! Sorts what arrives in a refill queue: requests for our buckets wait for their turn, all others are moved or dropped,
//! so that nothing blocks the queue and nothing loops.

use std::collections::HashSet;
use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::outcome::Outcome;
use super::plan::Asked;
use super::slot::Stage;
use super::worker::Worker;
use amqp::{Delivery, Forward, Transaction};
use bucket::{BucketId, Cause, Origin, parked_queue_name, refuse};

/// At a start, buckets become known one by one: requests for others wait this long for them.
const PATIENCE: Duration = Duration::from_secs(30);
/// At most this many wait.
const MOST_STRANGERS: usize = 500;
/// Messages are moved in transactions of this size.
const MOST_MOVES: usize = 500;

/// Deliveries that are no requests for a bucket of this worker.
pub(super) struct Intake {
    /// Requests for buckets that nobody has named yet.
    strangers: Vec<Delivery>,
    /// Messages to move, each with the tag of the delivery that the same transaction acknowledges.
    forwards: Vec<(u64, Forward)>,
    acks: Vec<u64>,
    since: Instant,
    /// Reasons that have been logged loudly: a flood of bad requests must not flood the log.
    told: HashSet<&'static str>,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            strangers: Vec::new(),
            forwards: Vec::new(),
            acks: Vec::new(),
            since: Instant::now(),
            told: HashSet::new(),
        }
    }
}

impl Intake {
    /// Whether messages wait to be moved or dropped.
    pub(super) fn has_work(&self) -> bool {
        !self.forwards.is_empty() || !self.acks.is_empty() || self.out_of_patience()
    }

    fn out_of_patience(&self) -> bool {
        !self.strangers.is_empty() && self.since.elapsed() > PATIENCE
    }

    /// Puts moves and drops into a transaction.
    pub(super) fn fill(&mut self, transaction: &mut Transaction) {
        let moves = self.forwards.len().min(MOST_MOVES);
        for (tag, forward) in self.forwards.drain(..moves) {
            transaction.acks.push(tag);
            transaction.forwards.push(forward);
        }
        transaction.acks.append(&mut self.acks);
    }
}

impl Worker {
    /// Gives every delivery its place.
    pub(super) fn sort(&mut self, deliveries: Vec<Delivery>) {
        if self.intake.out_of_patience() {
            for delivery in std::mem::take(&mut self.intake.strangers) {
                self.drop_request(delivery, None, "UnknownBucket");
            }
        }
        for delivery in deliveries {
            match &delivery.request {
                Ok(request) => match self.by_name.get(&*request.bucket).cloned() {
                    Some(id) => self.ask(id, delivery),
                    None => self.meet(delivery),
                },
                Err(rejection) => {
                    let (reason, message) = (rejection.kind(), rejection.to_string());
                    self.park(delivery, None, reason, &message);
                }
            }
        }
    }

    /// A request for one of our buckets.
    fn ask(&mut self, id: BucketId, delivery: Delivery) {
        let Ok(request) = &delivery.request else {
            return;
        };
        let cause = match &request.origin {
            Origin::Schedule {
                uid,
                since,
                tick,
                ticks,
            } => Cause::Tick {
                uid: uid.clone(),
                tick: *tick,
                since: *since,
                ticks: *ticks,
            },
            Origin::Foreign { id } => Cause::Request(id.as_deref().map(Into::into)),
        };
        let asked = Asked {
            bucket: id.clone(),
            cause,
            delivery: Some(delivery),
        };
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        match slot.stage {
            Stage::Ready { .. } => self.admit(asked),
            Stage::Ensuring | Stage::Adjusting(_) => slot.held.push(asked),
            Stage::Stalled => self.disown(asked),
        }
    }

    /// A request for a bucket that is ready waits for its turn. One that adds nothing, whatever is in the queue, takes no
    /// turn: a flood of duplicates is not counted for.
    pub(super) fn admit(&mut self, asked: Asked) {
        let slot = self.slots.get(&asked.bucket);
        let refusal = slot.and_then(|slot| {
            let ledger = slot.ledger.as_ref()?;
            refuse(&asked.cause, &slot.bucket, ledger, Utc::now())
        });
        match refusal {
            None => self.asked.push(asked),
            Some(refusal) => {
                self.tell_refused(&asked.bucket, refusal);
                let tag = asked.delivery.map(|delivery| delivery.tag);
                self.intake.acks.extend(tag);
            }
        }
    }

    /// A request for a bucket that is not ours: it may have moved to another refill queue, or be about to come.
    fn meet(&mut self, delivery: Delivery) {
        match self.moved_to(&delivery) {
            Some(queue) => self.follow(delivery, &queue),
            None if self.is_retiring() || self.intake.since.elapsed() > PATIENCE => {
                self.drop_request(delivery, None, "UnknownBucket");
            }
            None if self.intake.strangers.len() >= MOST_STRANGERS => {
                self.drop_request(delivery, None, "UnknownBucket")
            }
            None => self.intake.strangers.push(delivery),
        }
    }

    /// The other refill queue that the bucket of a request belongs to now.
    fn moved_to(&self, delivery: &Delivery) -> Option<String> {
        let request = delivery.request.as_ref().ok()?;
        let queue = self.context.board.refill_queue_of(&request.bucket)?;
        (queue != self.context.queue()).then_some(queue)
    }

    fn follow(&mut self, delivery: Delivery, queue: &str) {
        debug!(to = queue, "refill request follows its bucket");
        let tag = delivery.tag;
        self.intake
            .forwards
            .push((tag, delivery.forward(queue, None)));
    }

    /// A bucket has become known: requests that waited for it are its own.
    pub(super) fn claim_strangers(&mut self, id: &BucketId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let name = slot.bucket.name.clone();
        let is_for = |delivery: &mut Delivery| {
            delivery
                .request
                .as_ref()
                .is_ok_and(|request| *request.bucket == *name)
        };
        let claimed: Vec<_> = self.intake.strangers.extract_if(.., is_for).collect();
        claimed
            .into_iter()
            .for_each(|delivery| self.ask(id.clone(), delivery));
    }

    /// A request that its bucket cannot take follows the bucket to its other refill queue. When there is none, ours are
    /// made anew from the ledger when the bucket can take them; somebody else's are kept for a person.
    pub(super) fn disown(&mut self, asked: Asked) {
        let Asked {
            bucket,
            cause,
            delivery: Some(delivery),
        } = asked
        else {
            return;
        };
        let gone = !self.slots.contains_key(&bucket);
        match cause {
            Cause::Tick { .. } => match self.moved_to(&delivery).filter(|_| gone) {
                Some(queue) => self.follow(delivery, &queue),
                None => self.intake.acks.push(delivery.tag),
            },
            Cause::Annotation(_) => {}
            Cause::Request(_) if gone => self.meet(delivery),
            Cause::Request(_) => self.park(
                delivery,
                Some(bucket),
                "BucketStalled",
                "its bucket is stalled",
            ),
        }
    }

    fn park(
        &mut self,
        delivery: Delivery,
        bucket: Option<BucketId>,
        reason: &'static str,
        message: &str,
    ) {
        let to = parked_queue_name(self.context.queue());
        if self.intake.told.insert(reason) {
            warn!(
                refill_queue = %self.context.queue(), parked_in = %to, reason, message,
                "message is no refill request that can be carried out; later ones like it are parked without a word"
            );
        }
        let tag = delivery.tag;
        self.intake
            .forwards
            .push((tag, delivery.forward(&to, Some(message))));
        self.context.board.tell(Outcome::Dropped {
            bucket,
            reason,
            parked: true,
        });
    }

    fn drop_request(&mut self, delivery: Delivery, bucket: Option<BucketId>, reason: &'static str) {
        if self.intake.told.insert(reason) {
            let name = delivery
                .request
                .as_ref()
                .map(|request| request.bucket.as_str())
                .unwrap_or_default();
            warn!(
                refill_queue = %self.context.queue(), bucket = name, reason,
                "refill request dropped; later ones like it are dropped without a word"
            );
        }
        self.intake.acks.push(delivery.tag);
        self.context.board.tell(Outcome::Dropped {
            bucket,
            reason,
            parked: false,
        });
    }
}
