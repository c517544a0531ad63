//! The refill worker: exclusive consumer of one refill queue, and the only one who writes tokens and ledgers of its
//! buckets. All of that happens in transactions on the consumer's channel, so a worker that has lost its place can
//! commit nothing more. This file has its life and its loop; `intake` sorts what arrives, `look` finds out how queues are, `commit` carries it out,
//! `adjust` mends queues.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ahead::Ahead;
use super::backoff::Backoff;
use super::board::Board;
use super::ensure;
use super::intake::Intake;
use super::look::Looks;
use super::observer::Observer;
use super::outcome::Phase;
use super::plan::Asked;
use super::scheduler::Scheduler;
use super::slot::Slot;
use amqp::{Broker, BrokerError, RefillChannel};
use bucket::{Bucket, BucketId, Ledger, QueueType, Writer};

/// Requests that may be unacknowledged at one time.
pub(super) const MOST_REQUESTS: u16 = 2_000;
/// How often stalled buckets are looked at again: a person may have mended them.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// At a change of leaders the old one's consumer may still be there for a moment.
const HANDOVER: Duration = Duration::from_secs(15);
/// A queue that is to be left is emptied for this long at most.
const RETIREMENT: Duration = Duration::from_secs(5);

/// What the session asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// The bucket shall be so.
    Adopt(Arc<Bucket>, u64),
    /// Its queue is gone or was changed behind our back.
    Look(BucketId),
    /// Forget the bucket; the answer comes when nothing of it is under way any more.
    Leave(BucketId, oneshot::Sender<()>),
    /// Deal with what waits in the refill queue, then end.
    Retire,
}

/// Everything around a worker.
pub(super) struct Context {
    pub(super) broker: Arc<Broker>,
    pub(super) queue_type: QueueType,
    /// How its ledgers are signed; names the refill queue.
    pub(super) writer: Writer,
    pub(super) board: Arc<Board>,
    pub(super) scheduler: Scheduler,
    pub(super) observer: Observer,
}

impl Context {
    /// The refill queue.
    pub(super) fn queue(&self) -> &str {
        &self.writer.refill_queue
    }

    /// A ledger as it goes to the broker, and the queue that it belongs in.
    pub(super) fn signed(&self, bucket: &Bucket, ledger: &Ledger) -> (String, Ledger) {
        (bucket.ledger_queue(), ledger.written_by(&self.writer))
    }
}

/// How a worker's time with a channel ends.
enum End {
    Stopped,
    Retired,
}

/// The buckets of one refill queue and what is to be done for them.
pub(super) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) slots: HashMap<BucketId, Box<Slot>>,
    pub(super) by_name: HashMap<Arc<str>, BucketId>,
    /// Requests to carry out, in order.
    pub(super) asked: Vec<Asked>,
    /// Buckets with something to commit: an unwritten ledger, owed tokens, a queue to adjust.
    pub(super) work: HashSet<BucketId>,
    pub(super) intake: Intake,
    pub(super) ahead: Ahead,
    pub(super) looks: Looks,
    retiring: Option<Instant>,
}

/// Serves a refill queue until the connection is lost, `stop` is given or the worker is retired.
pub(super) async fn run(
    context: Context,
    mut commands: mpsc::UnboundedReceiver<Command>,
    stop: CancellationToken,
) -> Result<(), BrokerError> {
    let mut worker = Worker {
        context: Arc::new(context),
        slots: HashMap::new(),
        by_name: HashMap::new(),
        asked: Vec::new(),
        work: HashSet::new(),
        intake: Intake::default(),
        ahead: Ahead::default(),
        looks: Looks::default(),
        retiring: None,
    };
    let mut backoff = Backoff::default();
    let started = Instant::now();
    loop {
        let Context {
            broker, queue_type, ..
        } = &*worker.context;
        let queue = worker.context.queue();
        let consume = async {
            ensure::supported(
                broker,
                *queue_type,
                "start the operator with --refill-queue-type classic",
            )?;
            broker
                .consume_requests(queue, *queue_type, MOST_REQUESTS)
                .await
        };
        let error = match consume.await {
            Ok(mut channel) => {
                info!(refill_queue = %queue, "refill queue is ours");
                backoff = Backoff::default();
                let end = worker.serve(&mut channel, &mut commands, &stop).await;
                worker.put_down();
                match end {
                    Ok(End::Stopped | End::Retired) => {
                        channel.release().await;
                        return Ok(());
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if error.is_connection_lost() {
            return Err(error);
        }
        warn!(refill_queue = %worker.context.queue(), %error, "refill queue is not available");
        let patient = match error {
            BrokerError::InUse { .. } => started.elapsed() < HANDOVER,
            _ => !error.needs_person(),
        };
        if !worker
            .wait(backoff.next(), &error, patient, &mut commands, &stop)
            .await
        {
            return Ok(());
        }
    }
}

impl Worker {
    /// The loop: gather what has come, then commit one transaction.
    async fn serve(
        &mut self,
        channel: &mut RefillChannel,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        stop: &CancellationToken,
    ) -> Result<End, BrokerError> {
        let ids: Vec<_> = self.slots.keys().cloned().collect();
        ids.iter().for_each(|id| self.look(id));
        let context = self.context.clone();
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let busy = !self.asked.is_empty() || !self.work.is_empty() || self.intake.has_work();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(End::Stopped),
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return Ok(End::Stopped),
                },
                look = self.looks.next() => self.found(look),
                _ = again.tick() => self.look_again(),
                () = context.broker.unblocked(), if self.looks.are_put_off() => self.look_at_put_off(),
                () = std::future::ready(()), if busy => {}
                () = std::future::ready(()), if self.retiring.is_some() => {
                    if self.drained(channel).await? {
                        return Ok(End::Retired);
                    }
                }
                deliveries = channel.next(MOST_REQUESTS.into()) => self.sort(deliveries?),
            }
            while let Some(look) = self.looks.next().now_or_never() {
                self.found(look);
            }
            while let Ok(command) = commands.try_recv() {
                self.command(command);
            }
            self.sort(channel.ready(MOST_REQUESTS.into())?);
            self.step(channel).await?;
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Adopt(bucket, revision) => self.adopt(bucket, revision),
            Command::Look(id) => self.look(&id),
            Command::Leave(id, done) => {
                self.leave(&id);
                let _ = done.send(());
            }
            Command::Retire => self.retiring = Some(Instant::now()),
        }
    }

    fn adopt(&mut self, bucket: Arc<Bucket>, revision: u64) {
        let id = bucket.id.clone();
        self.by_name.insert(bucket.name.clone(), id.clone());
        match self.slots.get_mut(&id) {
            Some(slot) => {
                slot.bucket = bucket;
                slot.revision = revision;
            }
            None => {
                self.slots.insert(id.clone(), Slot::new(bucket, revision));
            }
        }
        self.claim_strangers(&id);
        self.look(&id);
    }

    fn leave(&mut self, id: &BucketId) {
        let Some(slot) = self.slots.remove(id) else {
            return;
        };
        self.by_name.remove(&slot.bucket.name);
        self.work.remove(id);
        let waiting: Vec<_> = self
            .asked
            .extract_if(.., |asked| asked.bucket == *id)
            .collect();
        for asked in slot.held.into_iter().chain(waiting) {
            self.disown(asked);
        }
    }

    /// The channel is gone: what it delivered goes back to the queue by itself, and the ledgers must be read again.
    fn put_down(&mut self) {
        self.looks = Looks::default();
        self.asked.clear();
        self.work.clear();
        self.intake = Intake::default();
        self.ahead = Ahead::default();
        for (id, slot) in &mut self.slots {
            slot.put_down();
            self.context.scheduler.leave(id.clone());
        }
    }

    /// Waits before the next try to get the refill queue. False: there is no need for one any more.
    async fn wait(
        &mut self,
        delay: Duration,
        error: &BrokerError,
        patient: bool,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        stop: &CancellationToken,
    ) -> bool {
        let (reason, message) = (error.kind(), error.to_string());
        let phase = if patient {
            Phase::Progressing { reason, message }
        } else {
            Phase::Stalled { reason, message }
        };
        let report = |slot: &Slot, board: &Board| {
            board.update(&slot.bucket.id, |state| {
                state.revision = slot.revision;
                state.phase = phase.clone();
                state.next_refill = None;
            });
        };
        self.slots
            .values()
            .for_each(|slot| report(slot, &self.context.board));
        let until = Instant::now() + delay;
        let context = self.context.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep_until(until) => return true,
                () = context.broker.unblocked(), if *error == BrokerError::Blocked => return true,
                command = commands.recv() => match command {
                    Some(Command::Adopt(bucket, revision)) => {
                        let slot = Slot::new(bucket, revision);
                        report(&slot, &self.context.board);
                        self.by_name.insert(slot.bucket.name.clone(), slot.bucket.id.clone());
                        self.slots.insert(slot.bucket.id.clone(), slot);
                    }
                    Some(Command::Leave(id, done)) => {
                        self.leave(&id);
                        let _ = done.send(());
                    }
                    Some(Command::Look(_)) => {}
                    Some(Command::Retire) | None => return false,
                },
            }
        }
    }

    /// Whether nothing waits in a refill queue that is to be left: for buckets that are gone it is dropped.
    async fn drained(&mut self, channel: &mut RefillChannel) -> Result<bool, BrokerError> {
        let waiting = self
            .context
            .broker
            .count(self.context.queue())
            .await?
            .unwrap_or(0);
        // What the queue has handed out before it was counted arrives before the answer to anything sent afterwards.
        channel.round_trip().await?;
        let deliveries = channel.ready(MOST_REQUESTS.into())?;
        let drained = waiting == 0 && deliveries.is_empty();
        self.sort(deliveries);
        Ok(drained
            || self
                .retiring
                .is_some_and(|since| since.elapsed() > RETIREMENT))
    }

    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.is_some()
    }
}
