//! The channels that refill. On one of them ledgers are got, which keeps everybody else from refilling these buckets;
//! then their tokens are counted; then tokens and ledgers are written in one transaction. When the channel ends before
//! that, the broker gives back what it held, and nothing was written.

use std::fmt;
use std::sync::Arc;

use futures::future::{FutureExt, join, join_all};
use lapin::message::BasicGetMessage;
use lapin::options::BasicGetOptions;
use lapin::types::{FieldTable, ShortString};

use super::allowance::{OwnChannel, Use};
use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::stamps::Answered;
use super::transport::Batch;
use super::{ledger, queues, wire};
use bucket::machine::{Baton, Take, Taken, Transaction};
use bucket::{Ledger, ledger_queue_name, queue_name};

/// Messages taken out of a queue in one flight.
const GETS: u64 = 256;
/// The client library remembers every queue that a channel has declared, passively too, until the channel is closed:
/// about 250 octets each. After so many the channel is not used again.
const MOST_DECLARED: usize = 4_000;

// The broker's own words name the queue.
const OPEN: Action<'static> = action("open a channel", "write");
const GET: Action<'static> = action("get ledgers", "read");
const TAKE_OUT: Action<'static> = action("take tokens out", "read");
const COUNT: Action<'static> = action("count tokens", "configure");
const COMMIT: Action<'static> = action("commit a transaction", "write");

const fn action(verb: &'static str, needs: &'static str) -> Action<'static> {
    Action {
        verb,
        needs,
        queue: "",
    }
}

/// A channel in transaction mode that consumes nothing. After any error it holds nothing and is of no use any more:
/// drop it and open another. The same holds when the future of a verb is dropped before it is ready.
pub struct TransactionChannel {
    broker: Arc<Broker>,
    channel: OwnChannel,
    /// Queues that it has declared.
    declared: usize,
    /// Messages that were got and not settled yet.
    held: u64,
}

impl Broker {
    /// Opens a channel for transactions.
    ///
    /// # Errors
    /// When the broker or the connection does not let it.
    pub async fn transactions(self: &Arc<Self>) -> Result<TransactionChannel, BrokerError> {
        Ok(TransactionChannel {
            channel: self.transaction_channel(Use::Steps, OPEN).await?,
            broker: Arc::clone(self),
            declared: 0,
            held: 0,
        })
    }
}

impl TransactionChannel {
    /// Gets the ledgers of buckets, in order; then takes tokens out of the queues of those that want it and whose ledgers
    /// are held and can be read; then counts what is ready in the queues. Answers for each, in order. Waits while a
    /// resource alarm is in force.
    ///
    /// Where a ledger is held, the count tells everything that others had added before it was got, and nobody else can
    /// add until it is settled.
    ///
    /// # Errors
    /// Drop the channel; nothing is held then. [`BrokerError::NoQueue`] names a queue that is missing;
    /// [`BrokerError::Blocked`] comes only where another channel is needed during an alarm.
    pub async fn take(&mut self, wanted: &[Take]) -> Result<Vec<Taken>, BrokerError> {
        let names = wanted
            .iter()
            .map(|take| {
                let ledger = wire::name(&ledger_queue_name(&take.name))?;
                Ok((ledger, wire::name(&queue_name(&take.name))?))
            })
            .collect::<Result<Vec<_>, BrokerError>>()?;
        self.declared += wanted.len();
        // Before anything is asked: what is answered meanwhile may come too late for a count.
        let answered = self.broker.stamps().answered();
        let (gets, out, counts) = if wanted.iter().all(|take| take.tokens == 0) {
            // The broker does in order what it is asked on one channel: each count is made after its get.
            let both = names
                .iter()
                .map(|(ledger, bucket)| join(self.get(ledger.clone()), self.count(bucket.clone())));
            let (gets, counts) = self.flight(GET, both).await?.into_iter().unzip();
            let nothing = vec![Vec::new(); wanted.len()];
            (self.told(GET, gets)?, nothing, self.told(COUNT, counts)?)
        } else {
            let gets = names.iter().map(|(ledger, _)| self.get(ledger.clone()));
            let gets = self.told(GET, self.flight(GET, gets).await?)?;
            let mut out = Vec::with_capacity(wanted.len());
            for ((take, got), (_, bucket)) in wanted.iter().zip(&gets).zip(&names) {
                let may = got
                    .as_ref()
                    .is_some_and(|message| Ledger::from_json(&message.data).is_ok());
                let most = if may { take.tokens } else { 0 };
                out.push(self.take_out(bucket, most).await?);
            }
            let counts = names.iter().map(|(_, bucket)| self.count(bucket.clone()));
            (
                gets,
                out,
                self.told(COUNT, self.flight(COUNT, counts).await?)?,
            )
        };
        let mut taken = taken(&gets, out, &counts);
        for taken in &taken {
            let ledger = u64::from(taken.baton != Baton::Absent);
            self.held += ledger + taken.tokens_out.len() as u64;
        }
        let doubtful: Vec<_> = (0..taken.len())
            .filter(|&at| wanted[at].tokens == 0 && is_doubtful(gets[at].as_ref(), &answered))
            .collect();
        let queues = doubtful.iter().map(|&at| names[at].1.clone());
        let exact = self.broker.exact_counts(queues.collect()).await?;
        for (at, count) in doubtful.into_iter().zip(exact) {
            taken[at].tokens = count;
        }
        Ok(taken)
    }

    /// Takes up to `most` messages out of `queue`; answers their tags.
    async fn take_out(&self, queue: &ShortString, most: u64) -> Result<Vec<u64>, BrokerError> {
        let mut tags = Vec::new();
        while (tags.len() as u64) < most {
            let asked = (most - tags.len() as u64).min(GETS);
            let gets = (0..asked).map(|_| self.get(queue.clone()));
            let got = self.told(TAKE_OUT, self.flight(TAKE_OUT, gets).await?)?;
            let before = tags.len() as u64;
            tags.extend(
                got.into_iter()
                    .flatten()
                    .map(|message| message.delivery_tag),
            );
            if tags.len() as u64 - before < asked {
                break;
            }
        }
        Ok(tags)
    }

    fn get(
        &self,
        queue: ShortString,
    ) -> impl Future<Output = lapin::Result<Option<BasicGetMessage>>> {
        self.channel
            .basic_get(queue, BasicGetOptions { no_ack: false })
    }

    /// Ready messages in a queue.
    async fn count(&self, queue: ShortString) -> lapin::Result<u64> {
        let declaring = self
            .channel
            .queue_declare(queue, queues::passive(), FieldTable::default());
        Ok(declaring.await?.message_count().into())
    }

    /// Asks for all of it before it awaits an answer, in order.
    async fn flight<F: Future>(
        &self,
        action: Action<'_>,
        asked: impl Iterator<Item = F>,
    ) -> Result<Vec<F::Output>, BrokerError> {
        let answers = join_all(asked).map(Ok);
        self.broker.answer(action, During::AlarmWait, answers).await
    }

    /// The answers, or the first error: the later ones may say nothing but that the channel is closed.
    fn told<T>(
        &self,
        action: Action<'_>,
        answers: Vec<lapin::Result<T>>,
    ) -> Result<Vec<T>, BrokerError> {
        let answers = answers.into_iter().collect::<lapin::Result<_>>();
        answers.map_err(|error| self.broker.explain(action, &error))
    }

    /// Publishes, acknowledges and gives back everything as one AMQP transaction. Answers the names of buckets whose
    /// ledgers came back, because their queues are gone; the rest of the transaction was carried out nevertheless. Waits
    /// while a resource alarm is in force.
    ///
    /// # Errors
    /// It was not applied, or nobody knows whether it was.
    pub async fn commit(&mut self, transaction: Transaction) -> Result<Vec<Arc<str>>, BrokerError> {
        if transaction.is_empty() {
            return Ok(Vec::new());
        }
        let Transaction {
            tokens,
            ledgers,
            acks,
            nacks,
        } = transaction;
        let settled = (acks.len() + nacks.len()) as u64;
        let mut batch = Batch::new(&self.channel);
        // Tokens first: who gets the new ledger and then counts has to find them.
        for (name, times) in tokens {
            batch.publish(
                wire::name(&queue_name(&name))?,
                wire::persistent(),
                b"",
                times,
            )?;
        }
        let stamps = self.broker.stamps();
        let number = stamps.begin();
        for (name, ledger) in &ledgers {
            ledger::publish(&mut batch, name, ledger, Some(&stamps.stamp(number)))?;
        }
        for tag in acks {
            batch.acknowledge(tag)?;
        }
        for tag in nacks {
            batch.give_back(tag)?;
        }
        let returned = self
            .broker
            .commit(COMMIT, During::AlarmWait, &self.channel, batch)
            .await?;
        stamps.end(number);
        self.held = self.held.saturating_sub(settled);
        if returned.is_empty() {
            return Ok(Vec::new());
        }
        let names = ledgers.into_iter().map(|(name, _)| name);
        Ok(names
            .filter(|name| returned.contains(&ledger_queue_name(name)))
            .collect())
    }

    /// Whether it does for more transactions.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.declared < MOST_DECLARED && !self.broker.has_few_channels()
    }

    /// Closes the channel; what it holds goes back.
    pub async fn close(self) {
        self.broker.farewell(&self.channel).await;
    }
}

/// Whether what somebody else has just added may be missing from the count that was made with a ledger: see
/// [`super::stamps`]. Who takes tokens out counts behind that.
fn is_doubtful(got: Option<&BasicGetMessage>, answered: &Answered) -> bool {
    got.is_some_and(|message| {
        let stamp = message.properties.message_id().as_ref();
        !stamp.is_some_and(|stamp| answered.has(stamp.as_str()))
    })
}

fn taken(gets: &[Option<BasicGetMessage>], out: Vec<Vec<u64>>, counts: &[u64]) -> Vec<Taken> {
    let answers = gets.iter().zip(out).zip(counts);
    let taken = answers.map(|((got, tokens_out), tokens)| Taken {
        baton: got.as_ref().map_or(Baton::Absent, |message| Baton::Held {
            tag: message.delivery_tag,
            ledger: Ledger::from_json(&message.data).map(Box::new),
        }),
        tokens_out,
        tokens: *tokens,
    });
    taken.collect()
}

impl fmt::Debug for TransactionChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionChannel")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}
