//! What is decided of a batch while its ledgers are held. Pure: the answers of the broker and the time are passed in.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::claim::{Claim, claim};
use super::effect::{Take, Transaction};
use super::entry::Request;
use super::event::{Baton, Taken};
use super::share::{Account, share};
use crate::{Bucket, BucketId, Known, Ledger, Owner, QueueType, Refusal, Trigger, accept};

/// Buckets whose ledgers are held together.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) step: Step,
}

/// How far a batch has come.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Taking,
    /// The one bucket of the batch gets another queue.
    Replacing(Box<Held>),
    Committing(Vec<Decided>),
}

/// One bucket of a batch.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: BucketId,
    pub(super) bucket: Arc<Bucket>,
    pub(super) owner: Owner,
    pub(super) owned: bool,
    /// UID of the resource that had the bucket's id before.
    pub(super) gone: Option<Arc<str>>,
    /// Its ledger is known to tell of such a rival; None: its queue was inspected just now.
    pub(super) known_rival: Option<Option<Arc<str>>>,
    /// What was done for it, as far as it is known without its ledger.
    pub(super) known: Option<Arc<Known>>,
    /// It has left since.
    pub(super) left: bool,
    pub(super) task: Task,
    pub(super) requests: Vec<Request>,
}

/// What a bucket takes part for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Carry out requests, add what is owed.
    Refill {
        /// `x-max-length` that is in force.
        limit: Option<u64>,
    },
    /// Take tokens away.
    Trim(u64),
    /// Take all tokens out, as owed.
    Carry,
    /// Declare its empty queue anew.
    Replace,
}

/// A ledger that is held, as it was and as it shall be.
#[derive(Clone, Debug)]
pub(super) struct Held {
    tag: u64,
    before: Box<Ledger>,
    pub(super) ledger: Box<Ledger>,
    /// Tokens in the queue.
    pub(super) tokens: u64,
    /// Tags of the tokens that were taken out.
    out: Vec<u64>,
    pub(super) contested: Option<Box<Owner>>,
    /// It was another's, now or meanwhile, who may have given the queue another limit.
    pub(super) was_of_another: bool,
}

/// What is to be done with a bucket of a batch.
#[derive(Clone, Debug)]
pub(super) enum Decided {
    /// Nobody holds its ledger here: somebody else does, or it is lost.
    Absent,
    /// Its ledger cannot be read, and stays.
    Unreadable(String),
    /// It belongs to somebody else, who comes first; its ledger stays.
    Yields(Box<Owner>),
    /// Its queue is empty and has another limit than it should have: first that is put right. Its ledger stays.
    Replace(Box<Ledger>),
    /// It has been another's: it is its own again, and its queue is inspected before anything is carried out.
    Claims(Box<Outcome>),
    /// This is committed.
    Commits(Box<Outcome>),
}

/// What is true of a bucket once a batch is committed.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) held: Held,
    /// Tokens in its queue then.
    pub(super) tokens: u64,
    pub(super) accepted: Vec<Accepted>,
    pub(super) refused: Vec<Refusal>,
}

/// A refill that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Accepted {
    pub(super) trigger: Trigger,
    pub(super) added: u64,
    pub(super) tick: Option<DateTime<Utc>>,
}

impl Item {
    /// What has to be taken for it; of tokens that go, at most so many at once.
    pub(super) fn take(&self, most_tokens: u64) -> Take {
        Take {
            name: self.bucket.name.clone(),
            queue_type: self.bucket.queue_type,
            tokens: match self.task {
                Task::Refill { .. } | Task::Replace => 0,
                Task::Trim(excess) => excess.min(most_tokens),
                Task::Carry => most_tokens,
            },
        }
    }

    /// What the ledger of the bucket says, brought up to date; else why it is left alone.
    fn hold(&self, taken: Taken, now: DateTime<Utc>) -> Result<Held, Box<(Option<Left>, Decided)>> {
        let Baton::Held { tag, ledger } = taken.baton else {
            return Err(Box::new((None, Decided::Absent)));
        };
        if self.left {
            let ledger = ledger.ok();
            let left = Left { tag, ledger };
            return Err(Box::new((Some(left), Decided::Absent)));
        }
        let before = match ledger {
            Ok(ledger) => ledger,
            Err(reason) => {
                let left = Left { tag, ledger: None };
                return Err(Box::new((Some(left), Decided::Unreadable(reason))));
            }
        };
        if let Some(tick) = before.tick_ahead(now) {
            let reason = format!("its newest tick, {tick}, lies in the future");
            let ledger = Some(before);
            let left = Left { tag, ledger };
            return Err(Box::new((Some(left), Decided::Unreadable(reason))));
        }
        let claimed = claim(
            &before,
            &self.owner,
            self.owned,
            self.gone.as_deref(),
            &self.bucket.rivals,
        );
        let is_news = |known: &Option<Arc<str>>| known.as_deref() != before.rival_uid();
        let was_of_another =
            !before.is_of(&self.bucket) || self.known_rival.as_ref().is_some_and(is_news);
        let contested = match claimed {
            Claim::Yield(owner) => {
                let ledger = Some(before);
                let left = Left { tag, ledger };
                return Err(Box::new((Some(left), Decided::Yields(owner))));
            }
            Claim::Contested(other) => Some(other),
            Claim::Ours | Claim::TakenOver => None,
        };
        let mut ledger = before
            .clone()
            .brought_up_to(&self.bucket, self.owner.clone(), now);
        if let Some(known) = &self.known
            && (was_of_another || before.tick < known.tick)
        {
            ledger = ledger.with(known);
        }
        if let Some(moved) = self.bucket.moved.as_ref()
            && !moved.has_arrived(&ledger)
        {
            ledger = moved.arrive(ledger);
        }
        Ok(Held {
            tag,
            before,
            ledger: Box::new(ledger),
            tokens: taken.tokens,
            out: taken.tokens_out,
            contested,
            was_of_another,
        })
    }

    /// Carries out the requests in the ledger that is held.
    fn carry_out(&self, held: &mut Held, now: DateTime<Utc>) -> (Vec<Accepted>, Vec<Refusal>) {
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for Request { cause, .. } in &self.requests {
            match accept(cause, &self.bucket, &mut held.ledger, held.tokens, now) {
                Ok(added) => {
                    accepted.push(Accepted {
                        trigger: cause.trigger(),
                        added,
                        tick: cause.tick(),
                    });
                }
                Err(refusal) => refused.push(refusal),
            }
        }
        (accepted, refused)
    }
}

/// A ledger that is left as it is; None: it cannot be read.
#[derive(Clone, Debug)]
struct Left {
    tag: u64,
    ledger: Option<Box<Ledger>>,
}

impl Left {
    /// RabbitMQ 4 removes a message of a quorum queue when it was given back 20 times, and policies may say less: such a
    /// ledger is written anew each time.
    fn give_back(self, item: &Item, transaction: &mut Transaction) {
        let wears_out = item.bucket.queue_type == QueueType::Quorum;
        match self.ledger.filter(|_| wears_out) {
            Some(ledger) => {
                transaction.ledgers.push((item.bucket.name.clone(), ledger));
                transaction.acks.push(self.tag);
            }
            None => transaction.nacks.push(self.tag),
        }
    }
}

impl Held {
    /// The last tokens of a refill that takes several transactions are in this one.
    pub(super) fn completes(&self) -> bool {
        self.before.owed > 0 && self.ledger.owed == 0
    }

    /// Puts what becomes of the ledger into a transaction.
    fn give_back(&self, item: &Item, transaction: &mut Transaction) {
        if self.ledger == self.before {
            return self.leave(item, transaction);
        }
        let (name, ledger) = (item.bucket.name.clone(), self.ledger.clone());
        transaction.ledgers.push((name, ledger));
        transaction.acks.push(self.tag);
    }

    /// The ledger stays as it was.
    fn leave(&self, item: &Item, transaction: &mut Transaction) {
        let ledger = Some(self.before.clone());
        let left = Left {
            tag: self.tag,
            ledger,
        };
        left.give_back(item, transaction);
    }
}

/// Decides what to commit for a batch whose ledgers are held. The second answer is a batch of one bucket whose queue is to
/// be declared anew before.
pub(super) fn decide(
    items: &[Item],
    taken: Vec<Taken>,
    most_tokens: u64,
    now: DateTime<Utc>,
) -> Result<(Transaction, Vec<Decided>), Box<Held>> {
    let mut transaction = Transaction::default();
    let mut decided = Vec::with_capacity(items.len());
    let mut refills = Vec::new();
    for (index, (item, taken)) in items.iter().zip(taken).enumerate() {
        let out = taken.tokens_out.clone();
        let mut held = match item.hold(taken, now) {
            Ok(held) => held,
            Err(why) => {
                let (left, why) = *why;
                if let Some(left) = left {
                    left.give_back(item, &mut transaction);
                }
                transaction.nacks.extend(out);
                decided.push(why);
                continue;
            }
        };
        match item.task {
            Task::Refill { .. } if held.was_of_another => {
                let outcome = written_back(item, held, &mut transaction);
                decided.push(Decided::Claims(outcome));
            }
            Task::Refill { limit } => {
                if held.tokens == 0 && limit != Some(item.bucket.maximum) {
                    held.leave(item, &mut transaction);
                    decided.push(Decided::Replace(held.before));
                    continue;
                }
                let (accepted, refused) = item.carry_out(&mut held, now);
                refills.push(index);
                decided.push(Decided::Commits(Box::new(Outcome {
                    tokens: held.tokens,
                    held,
                    accepted,
                    refused,
                })));
            }
            Task::Trim(_) => decided.push(trim(item, held, &mut transaction)),
            Task::Carry => {
                held.ledger.carry(held.out.len() as u64);
                transaction.acks.append(&mut held.out);
                decided.push(commits(item, held, &mut transaction));
            }
            Task::Replace if held.tokens == 0 && items.len() == 1 => return Err(Box::new(held)),
            Task::Replace => decided.push(commits(item, held, &mut transaction)),
        }
    }
    let mut accounts = accounts(items, &refills, &decided);
    let tokens = share(&mut accounts, most_tokens, now);
    share_out(
        items,
        &refills,
        &mut decided,
        &mut transaction,
        accounts,
        tokens,
    );
    Ok((transaction, decided))
}

/// What the buckets that are refilled may get.
fn accounts(items: &[Item], refills: &[usize], decided: &[Decided]) -> Vec<Account> {
    let account = |index: &usize| match &decided[*index] {
        Decided::Commits(outcome) => Some(Account {
            ledger: outcome.held.ledger.clone(),
            tokens: outcome.held.tokens,
            maximum: items[*index].bucket.maximum,
        }),
        _ => None,
    };
    refills.iter().filter_map(account).collect()
}

/// Adds the tokens that the buckets of a batch get.
fn share_out(
    items: &[Item],
    refills: &[usize],
    decided: &mut [Decided],
    transaction: &mut Transaction,
    accounts: Vec<Account>,
    tokens: Vec<u64>,
) {
    for ((index, account), tokens) in refills.iter().zip(accounts).zip(tokens) {
        let (item, Decided::Commits(outcome)) = (&items[*index], &mut decided[*index]) else {
            continue;
        };
        outcome.held.ledger = account.ledger;
        outcome.tokens += tokens;
        if tokens > 0 {
            transaction.tokens.push((item.bucket.name.clone(), tokens));
        }
        outcome.held.give_back(item, transaction);
    }
}

/// Takes excess tokens away. Others have taken some meanwhile: what is more than excess by then is put back.
fn trim(item: &Item, mut held: Held, transaction: &mut Transaction) -> Decided {
    let out = held.out.len() as u64;
    let back = out.min(item.bucket.maximum.saturating_sub(held.tokens));
    transaction.acks.append(&mut held.out);
    if back > 0 {
        transaction.tokens.push((item.bucket.name.clone(), back));
    }
    held.give_back(item, transaction);
    Decided::Commits(Box::new(Outcome {
        tokens: held.tokens + back,
        held,
        accepted: Vec::new(),
        refused: Vec::new(),
    }))
}

fn commits(item: &Item, held: Held, transaction: &mut Transaction) -> Decided {
    Decided::Commits(written_back(item, held, transaction))
}

/// The ledger is brought up to date, and no more.
fn written_back(item: &Item, held: Held, transaction: &mut Transaction) -> Box<Outcome> {
    held.give_back(item, transaction);
    Box::new(Outcome {
        tokens: held.tokens,
        held,
        accepted: Vec::new(),
        refused: Vec::new(),
    })
}

/// The queue of the one bucket of a batch was declared anew; so many tokens went with the old one. They are owed.
pub(super) fn replaced(item: &Item, mut held: Held, went: u64) -> (Transaction, Vec<Decided>) {
    let mut transaction = Transaction::default();
    held.ledger.carry(went);
    held.tokens = 0;
    let decided = commits(item, held, &mut transaction);
    (transaction, vec![decided])
}
