//! The steps of a batch, on its channel.

use std::sync::Arc;

use bucket::machine::{BatchId, Baton, Event, Take, Taken};
use bucket::{Ledger, QueueType, ledger_queue_name, queue_name};
use chrono::TimeDelta;

use super::work::{Progress, What, Work};
use super::{Batch, Body, Mutant, Shell};
use crate::broker::{Arguments, Broker, Refused};

impl Work {
    pub(super) fn batch_step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        match &mut self.what {
            What::Take(batch, wanted, taken) => {
                take_step(self.step, *batch, wanted, taken, shell, broker)
            }
            What::Replace(batch, bucket) => {
                let channel = shell.batches.get(batch).ok_or(Refused::Gone)?.channel;
                let queue = bucket.queue();
                // Both go out in one write.
                let gone = broker.delete(channel, &queue, false)?;
                shell.replaced.push((bucket.name.clone(), gone));
                let arguments = Arguments {
                    quorum: bucket.queue_type == QueueType::Quorum,
                    max_length: Some(bucket.maximum),
                };
                broker.declare(channel, &queue, arguments, false)?;
                Ok(Progress::Done(Event::Replaced {
                    batch: *batch,
                    tokens: Ok(gone),
                }))
            }
            What::Commit(batch, transaction) => {
                let batch = *batch;
                let of_batch = shell.batches.get(&batch).ok_or(Refused::Gone)?;
                let (channel, mutant) = (of_batch.channel, shell.mutant);
                if self.step > 0 {
                    let returned = broker.commit(channel)?;
                    shell.end(broker, batch);
                    let names = returned.iter().zip(0..).filter_map(|(body, _)| match body {
                        Body::Ledger(ledger) => name_of(ledger, transaction),
                        _ => None,
                    });
                    return Ok(Progress::Done(Event::Committed {
                        batch,
                        returned: Ok(names.collect()),
                    }));
                }
                for (name, count) in &transaction.tokens {
                    let queue = queue_name(name);
                    for _ in 0..*count {
                        broker.publish(channel, &queue, Body::Token, false)?;
                    }
                }
                for (name, ledger) in &transaction.ledgers {
                    let body = Body::Ledger(Arc::new(written(ledger, mutant)));
                    broker.publish(channel, &ledger_queue_name(name), body, true)?;
                }
                for tag in &transaction.acks {
                    let spared =
                        mutant == Some(Mutant::KeepsOldLedger) && of_batch.ledgers.contains(tag);
                    if !spared {
                        broker.settle(channel, *tag, true)?;
                    }
                }
                for tag in &transaction.nacks {
                    broker.settle(channel, *tag, false)?;
                }
                Ok(Progress::More)
            }
            _ => Err(Refused::Gone),
        }
    }
}

/// Gets all ledgers, then takes tokens of those that are held, then counts; one of these is a step.
fn take_step(
    step: usize,
    batch: BatchId,
    wanted: &[Take],
    taken: &mut Vec<Taken>,
    shell: &mut Shell,
    broker: &mut Broker<Body>,
) -> Result<Progress, Refused> {
    let channel = match shell.batches.get(&batch) {
        Some(batch) => batch.channel,
        None => {
            let channel = shell.transaction_channel(broker)?;
            let ledgers = Vec::new();
            shell.batches.insert(batch, Batch { channel, ledgers });
            channel
        }
    };
    if taken.is_empty() {
        taken.resize(
            wanted.len(),
            Taken {
                baton: Baton::Absent,
                tokens_out: Vec::new(),
                tokens: 0,
            },
        );
    }
    let mut order = [Part::Get, Part::Tokens, Part::Count];
    if shell.mutant == Some(Mutant::CountsFirst) {
        order.rotate_right(1);
    }
    let index = step % wanted.len().max(1);
    let part = order[(step / wanted.len().max(1)).min(2)];
    let (Some(take), Some(seen)) = (wanted.get(index), taken.get_mut(index)) else {
        return Ok(done(shell, broker, batch, taken));
    };
    match part {
        Part::Get => {
            if let Some(got) = broker.get(channel, &ledger_queue_name(&take.name), false)? {
                let ledger = match &got.body {
                    Body::Ledger(ledger) => Ok(Box::new(read(ledger, shell.mutant))),
                    _ => Err("it is not a ledger".to_owned()),
                };
                if let Some(batch) = shell.batches.get_mut(&batch) {
                    batch.ledgers.push(got.tag);
                }
                seen.baton = Baton::Held {
                    tag: got.tag,
                    ledger,
                };
            }
        }
        Part::Tokens => {
            let held = matches!(seen.baton, Baton::Held { .. });
            let queue = queue_name(&take.name);
            while held
                && (seen.tokens_out.len() as u64) < take.tokens
                && let Some(got) = broker.get(channel, &queue, false)?
            {
                seen.tokens_out.push(got.tag);
            }
        }
        Part::Count => seen.tokens = broker.count(channel, &queue_name(&take.name))?,
    }
    if step + 1 == 3 * wanted.len() {
        return Ok(done(shell, broker, batch, taken));
    }
    Ok(Progress::More)
}

#[derive(Clone, Copy)]
enum Part {
    Get,
    Tokens,
    Count,
}

/// A batch that holds nothing has nothing to commit.
fn done(
    shell: &mut Shell,
    broker: &mut Broker<Body>,
    batch: BatchId,
    taken: &mut Vec<Taken>,
) -> Progress {
    let channel = shell.batches.get(&batch).map(|batch| batch.channel);
    if channel.is_some_and(|channel| broker.unacked(channel) == 0) {
        shell.end(broker, batch);
    }
    Progress::Done(Event::Taken {
        batch,
        taken: Ok(std::mem::take(taken)),
    })
}

/// The bucket whose ledger came back.
fn name_of(ledger: &Ledger, transaction: &bucket::machine::Transaction) -> Option<Arc<str>> {
    let same = |other: &Ledger| other.owner == ledger.owner && other.issued == ledger.issued;
    let mut ledgers = transaction.ledgers.iter();
    ledgers
        .find(|(_, written)| same(written))
        .map(|(name, _)| name.clone())
}

/// A ledger as a mutant reads it: its tick a nanosecond earlier is one that did not run yet.
fn read(ledger: &Ledger, mutant: Option<Mutant>) -> Ledger {
    let mut read = ledger.clone();
    if mutant == Some(Mutant::RepeatsTick) {
        read.tick = read.tick.map(|tick| tick - TimeDelta::nanoseconds(1));
    }
    read
}

fn written(ledger: &Ledger, mutant: Option<Mutant>) -> Ledger {
    let mut written = ledger.clone();
    match mutant {
        Some(Mutant::ForgetsOwed) => written.owed = 0,
        Some(Mutant::RepeatsTick) => {
            let whole = |tick: chrono::DateTime<chrono::Utc>| {
                let missing =
                    (1_000_000_000 - i64::from(tick.timestamp_subsec_nanos())) % 1_000_000_000;
                tick + TimeDelta::nanoseconds(missing)
            };
            written.tick = written.tick.map(whole);
        }
        _ => {}
    }
    written
}
