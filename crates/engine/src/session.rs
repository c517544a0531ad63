//! What runs while one connection lasts: effects of the machine, carried out many at the same time, and the consumers of
//! refill queues. When the connection is lost all of it ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use amqp::{Broker, BrokerError, Leaving, RequestPublisher, TransactionChannel};
use bucket::machine::{Absence, BatchId, ConsumerId, Effect, Event, Take, Transaction};
use bucket::{BucketId, QueueType, RefillRequest, queue_name};
use futures::StreamExt;
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::consumer::{self, Consuming, Order};
use crate::desired::Desired;
use crate::logging::log_removed;
use crate::shell::Shell;

/// Each of them has a channel.
const MOST_WAITS: usize = 256;
const MOST_REMOVALS: usize = 64;
/// What is under way at a stop ends within this time.
const LAST_WORK: Duration = Duration::from_secs(10);

/// One connection and what goes on on it.
pub(crate) struct Session {
    broker: Arc<Broker>,
    refill_queue_type: QueueType,
    publisher: Arc<OnceCell<RequestPublisher>>,
    /// Effects under way, and consumers.
    work: JoinSet<Done>,
    /// Channels that hold ledgers.
    held: HashMap<BatchId, TransactionChannel>,
    /// Channels that hold nothing.
    idle: Vec<TransactionChannel>,
    consumers: HashMap<ConsumerId, mpsc::UnboundedSender<Order>>,
    /// Bounds those that wait for a ledger that is perhaps lost.
    waits: Arc<Semaphore>,
    removals: Arc<Semaphore>,
    events: mpsc::UnboundedSender<Event>,
    received: mpsc::UnboundedReceiver<Event>,
}

/// An effect that was carried out.
pub(crate) struct Done {
    event: Event,
    /// The channel that a batch used, unless it is gone.
    channel: Option<TransactionChannel>,
}

impl From<Event> for Done {
    fn from(event: Event) -> Self {
        let channel = None;
        Self { event, channel }
    }
}

impl Session {
    pub(crate) fn new(broker: Broker, refill_queue_type: QueueType) -> Self {
        let (events, received) = mpsc::unbounded_channel();
        Self {
            broker: Arc::new(broker),
            refill_queue_type,
            publisher: Arc::default(),
            work: JoinSet::new(),
            held: HashMap::new(),
            idle: Vec::new(),
            consumers: HashMap::new(),
            waits: Arc::new(Semaphore::new(MOST_WAITS)),
            removals: Arc::new(Semaphore::new(MOST_REMOVALS)),
            events,
            received,
        }
    }

    /// Runs until the connection is lost (the reason is the answer) or `stop` is given (None).
    pub(crate) async fn run(
        mut self,
        shell: &mut Shell,
        desired: &Desired,
        stop: &CancellationToken,
    ) -> Option<BrokerError> {
        let end = self.go_on(shell, desired, stop).await;
        // Consumers give their queues back before the connection goes.
        self.consumers.clear();
        if end.is_none() {
            let released = async { while self.work.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_WORK, released).await;
        }
        self.work.shutdown().await;
        self.broker.close().await;
        end
    }

    async fn go_on(
        &mut self,
        shell: &mut Shell,
        desired: &Desired,
        stop: &CancellationToken,
    ) -> Option<BrokerError> {
        let broker = self.broker.clone();
        let mut lease = shell.lease.clone();
        let mut blocked = false;
        let mut stopping: Option<Instant> = None;
        let mut next = Some(Event::Connected);
        loop {
            let event = match next.take() {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    () = stop.cancelled(), if stopping.is_none() => {
                        stopping = Some(Instant::now() + LAST_WORK);
                        Event::Stop
                    }
                    lost = broker.lost() => return Some(lost),
                    () = broker.blocked_is(!blocked) => {
                        blocked = !blocked;
                        Event::Blocked(blocked)
                    }
                    Some(event) = self.received.recv() => event,
                    Some(done) = self.work.join_next() => match done {
                        Ok(done) => {
                            self.done(shell, done);
                            continue;
                        }
                        Err(panic) => return Some(given_up(format!(
                            "the operator gave it up, a task of its own failed: {panic}"
                        ))),
                    },
                    change = desired.next() => shell.event(change),
                    () = lease.renewed() => Event::Tick,
                    () = sleep_until(shell.wakeup()) => Event::Tick,
                },
            };
            let effects = shell.handle(event);
            self.carry_out(effects);
            if stopping.is_some_and(|limit| shell.machine.is_idle() || Instant::now() >= limit) {
                return None;
            }
        }
    }

    /// Tells the machine what became of an effect. A channel that holds nothing for it is free for the next batch.
    fn done(&mut self, shell: &mut Shell, Done { event, channel }: Done) {
        let batch = match &event {
            Event::Taken { batch, .. } => Some(*batch),
            _ => None,
        };
        let effects = shell.handle(event);
        let goes_on = |effect: &Effect| match effect {
            Effect::Commit { batch: it, .. } | Effect::Replace { batch: it, .. } => {
                batch == Some(*it)
            }
            _ => false,
        };
        match (batch, channel) {
            (Some(batch), Some(channel)) if effects.iter().any(goes_on) => {
                self.held.insert(batch, channel);
            }
            (_, channel) => {
                let fit = channel.filter(TransactionChannel::is_fit);
                self.idle.extend(fit);
            }
        }
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.begin(effect);
        }
    }

    fn begin(&mut self, effect: Effect) {
        let broker = self.broker.clone();
        match effect {
            Effect::Consume {
                queue,
                consumer,
                if_empty,
            } => {
                let (orders, receiver) = mpsc::unbounded_channel();
                self.consumers.insert(consumer, orders);
                let (kind, events) = (self.refill_queue_type, self.events.clone());
                self.work.spawn(async move {
                    let consuming = Consuming {
                        queue,
                        kind,
                        if_empty,
                    };
                    consumer::run(broker, consuming, consumer, receiver, events)
                        .await
                        .into()
                });
            }
            Effect::Settle {
                consumer,
                acks,
                moves,
            } => self.order(consumer, Order::Settle { acks, moves }),
            Effect::Drain { consumer } => self.order(consumer, Order::Drain),
            Effect::Release { consumer, delete } => {
                self.order(consumer, Order::Release { delete });
                self.consumers.remove(&consumer);
            }
            Effect::Publish { requests } => {
                let publisher = self.publisher.clone();
                self.work
                    .spawn(async move { publish(broker, publisher, requests).await.into() });
            }
            Effect::Inspect {
                job,
                bucket,
                was_there,
            } => {
                self.work.spawn(async move {
                    let found = broker.inspect(&bucket, was_there).await;
                    let found = found.map_err(|error| error.failure());
                    Event::Inspected { job, found }.into()
                });
            }
            Effect::WriteLedger {
                job,
                bucket,
                ledger,
                absence,
            } => {
                let permits = self.waits.clone();
                self.work.spawn(async move {
                    let _permit = match absence {
                        Absence::Unseen(_) => permits.acquire_owned().await.ok(),
                        Absence::NoQueues | Absence::NoQueue => None,
                    };
                    let writing = async {
                        let (name, kind) = (&bucket.name, bucket.queue_type);
                        broker.supports_buckets(kind)?;
                        broker.write_ledger(name, kind, &ledger, absence).await
                    };
                    let written = writing.await.map_err(|error| error.failure());
                    Event::LedgerWritten { job, written }.into()
                });
            }
            Effect::Take { batch, wanted } => {
                let channel = self.idle.pop();
                self.work.spawn(take(broker, channel, batch, wanted));
            }
            Effect::Replace { batch, bucket } => {
                self.work.spawn(async move {
                    let tokens = broker
                        .replace_bucket(&bucket.queue(), bucket.queue_type, bucket.maximum)
                        .await;
                    let tokens = tokens.map_err(|error| error.failure());
                    Event::Replaced { batch, tokens }.into()
                });
            }
            Effect::Commit { batch, transaction } => {
                let channel = self.held.remove(&batch);
                self.work.spawn(commit(channel, batch, transaction));
            }
            Effect::Count { buckets } => {
                self.work
                    .spawn(async move { count(&broker, buckets).await.into() });
            }
            Effect::Recount { bucket, name } => {
                self.work.spawn(async move {
                    let tokens = broker.recount(&queue_name(&name)).await;
                    let tokens = tokens.map_err(|error| error.failure());
                    Event::Recounted { bucket, tokens }.into()
                });
            }
            Effect::Remove {
                job,
                name,
                uid,
                policy,
                moves,
                established,
                hold_limit,
                refill_queue,
            } => {
                let (permits, waits) = (self.removals.clone(), self.waits.clone());
                self.work.spawn(async move {
                    let remove = async |permits: Arc<Semaphore>, hold_limit| {
                        let _permit = permits.acquire_owned().await.ok();
                        let leaving = Leaving {
                            name: &name,
                            uid: &uid,
                            policy,
                            moves,
                            established,
                        };
                        broker.remove_bucket(leaving, hold_limit).await
                    };
                    let removed = async {
                        // Those that can be removed do not wait for those whose ledgers are absent.
                        let removed = match remove(permits, None).await? {
                            None => remove(waits, Some(hold_limit)).await?,
                            removed => removed,
                        };
                        let mut contents = None;
                        if let Some((parting, had)) = removed {
                            log_removed(&name, &parting);
                            contents = had;
                        }
                        if let Some(queue) = refill_queue {
                            let deleted = consumer::delete(&broker, &queue).await;
                            // What was taken away matters more than a queue that is left.
                            if contents.is_none() {
                                deleted?;
                            }
                        }
                        Ok(contents)
                    };
                    let result = removed.await.map_err(|error: BrokerError| error.failure());
                    Event::Removed { job, result }.into()
                });
            }
            // The shell has seen to these.
            Effect::Answer { .. } | Effect::Tell(_) => {}
        }
    }

    fn order(&self, consumer: ConsumerId, order: Order) {
        // One that has ended says so itself.
        if let Some(orders) = self.consumers.get(&consumer) {
            let _ = orders.send(order);
        }
    }
}

async fn take(
    broker: Arc<Broker>,
    channel: Option<TransactionChannel>,
    batch: BatchId,
    wanted: Vec<Take>,
) -> Done {
    let taking = async {
        let mut channel = match channel {
            Some(channel) => channel,
            None => broker.transactions().await?,
        };
        let taken = channel.take(&wanted).await?;
        Ok::<_, BrokerError>((channel, taken))
    };
    let (channel, taken) = match taking.await {
        Ok((channel, taken)) => (Some(channel), Ok(taken)),
        Err(error) => (None, Err(error.failure())),
    };
    let event = Event::Taken { batch, taken };
    Done { event, channel }
}

async fn commit(
    channel: Option<TransactionChannel>,
    batch: BatchId,
    transaction: Transaction,
) -> Done {
    let committing = async {
        let mut channel = channel.ok_or_else(|| given_up("a channel is missing"))?;
        let returned = channel.commit(transaction).await?;
        Ok::<_, BrokerError>((channel, returned))
    };
    let (channel, returned) = match committing.await {
        Ok((channel, returned)) => (Some(channel), Ok(returned)),
        Err(error) => (None, Err(error.failure())),
    };
    let event = Event::Committed { batch, returned };
    Done { event, channel }
}

async fn publish(
    broker: Arc<Broker>,
    publisher: Arc<OnceCell<RequestPublisher>>,
    requests: Vec<(Arc<str>, RefillRequest)>,
) -> Event {
    let results = match publisher.get_or_try_init(|| broker.publisher()).await {
        Ok(publisher) => publisher.publish(&requests).await,
        Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
    };
    let failed = results.iter().filter_map(|result| result.as_ref().err());
    if let Some(error) = failed.clone().next() {
        let requests = failed.count();
        tracing::warn!(requests, %error, "refill requests not accepted by the broker; they are tried again");
    }
    let results = results
        .into_iter()
        .map(|result| result.map_err(|error| error.failure()));
    Event::Published(results.collect())
}

async fn count(broker: &Broker, buckets: Vec<(BucketId, Arc<str>)>) -> Event {
    let queues: Vec<_> = buckets.iter().map(|(_, name)| queue_name(name)).collect();
    let started = Instant::now();
    let counts: Vec<_> = broker.counts(&queues).collect().await;
    let took_ms = started.elapsed().as_millis();
    tracing::debug!(buckets = counts.len(), took_ms, "counted");
    let counts = buckets.into_iter().zip(counts).map(|((id, _), count)| {
        let count = count.map_err(|error| error.failure());
        (id, count)
    });
    Event::Counted(counts.collect())
}

/// The connection ends for a reason of our own.
fn given_up(reason: impl Into<String>) -> BrokerError {
    BrokerError::ConnectionLost {
        reason: reason.into(),
    }
}
