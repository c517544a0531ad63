//! What runs while one connection lasts: a scheduler, an observer, and a worker for each refill queue. When the
//! connection is lost all of it ends; the next session starts from the ledgers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::board::Board;
use super::clock::Clock;
use super::observer::Observer;
use super::outcome::Outcome;
use super::removals::{Answer, Removals, Removed};
use super::scheduler::Scheduler;
use super::worker::{self, Context};
use super::{Command, Desired, Options, Removal, RemoveError};
use amqp::{Broker, BrokerError, DeleteIf, Deleted};
use bucket::{Bucket, BucketId, DeletionPolicy, Writer, parked_queue_name, queue_name};

/// One connection and its tasks.
pub(super) struct Session {
    broker: Arc<Broker>,
    options: Options,
    board: Arc<Board>,
    scheduler: Scheduler,
    observer: Observer,
    /// Refill queue to its worker.
    workers: HashMap<String, Lane>,
    /// Bucket to its refill queue.
    places: HashMap<BucketId, Arc<Bucket>>,
    removals: Removals,
    missing: mpsc::UnboundedReceiver<BucketId>,
    stop: CancellationToken,
    /// All of them, workers too. One that fails takes the session with it.
    tasks: JoinSet<Result<(), BrokerError>>,
}

/// A worker, seen from outside.
struct Lane {
    commands: mpsc::UnboundedSender<worker::Command>,
    /// Closes when its task has ended.
    running: oneshot::Receiver<()>,
    buckets: HashSet<BucketId>,
}

impl Lane {
    async fn ended(self) {
        let _ = self.running.await;
    }
}

impl Session {
    pub(super) async fn start(
        broker: Broker,
        options: Options,
        board: Arc<Board>,
    ) -> Result<Self, BrokerError> {
        let broker = Arc::new(broker);
        let (missed, missing) = mpsc::unbounded_channel();
        let (scheduler, scheduling) = Scheduler::new(
            broker.publisher().await?,
            options.permit.clone(),
            board.clone(),
            Clock::system(),
        );
        let (observer, observing) = Observer::new(
            broker.clone(),
            board.clone(),
            options.status_interval,
            missed,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(scheduling.map(Err));
        tasks.spawn(observing.map(Err));
        let watched = broker.clone();
        tasks.spawn(async move { Err(watched.lost().await) });
        Ok(Self {
            broker,
            options,
            board,
            scheduler,
            observer,
            workers: HashMap::new(),
            places: HashMap::new(),
            removals: Removals::default(),
            missing,
            stop: CancellationToken::new(),
            tasks,
        })
    }

    /// Runs until the connection is lost (the reason is the answer) or `stop` is given (None).
    pub(super) async fn run(
        mut self,
        desired: &mut Desired,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        stop: &CancellationToken,
    ) -> Option<BrokerError> {
        for (bucket, revision) in desired.values() {
            self.apply(bucket.clone(), *revision).await;
        }
        let end = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                Some(ended) = self.tasks.join_next() => match ended {
                    // A worker whose refill queue is not needed any more.
                    Ok(Ok(())) => {}
                    Ok(Err(lost)) => break Some(lost),
                    Err(panic) => break Some(BrokerError::ConnectionLost {
                        reason: format!("the operator gave it up, a task of its own failed: {panic}"),
                    }),
                },
                Some(id) = self.missing.recv() => {
                    self.board.tell(Outcome::QueueMissing);
                    self.look(&id);
                }
                removed = self.removals.next() => self.removed(removed, desired).await,
                command = commands.recv() => match command {
                    None => break None,
                    Some(Command::Apply(bucket, revision)) => {
                        let known = desired.insert(bucket.id.clone(), (bucket.clone(), revision));
                        if known.is_none_or(|known| known != (bucket.clone(), revision)) {
                            self.board.enter(&bucket);
                            self.apply(bucket, revision).await;
                        }
                    }
                    Some(Command::Release(id)) => {
                        desired.remove(&id);
                        self.release(&id).await;
                        self.board.leave(&id);
                    }
                    Some(Command::Remove(removal, done)) => {
                        desired.remove(&removal.id);
                        self.remove(removal, done).await;
                    }
                },
            }
        };
        // Workers finish the transaction that is under way and give their consumer back before the connection goes.
        self.stop.cancel();
        for (_, lane) in self.workers.drain() {
            lane.ended().await;
        }
        self.broker.close().await;
        end
    }

    async fn apply(&mut self, bucket: Arc<Bucket>, revision: u64) {
        let id = bucket.id.clone();
        if self.removals.hold_up(&bucket.name, &id) {
            return;
        }
        if let Some(old) = self
            .places
            .get(&id)
            .cloned()
            .filter(|old| old.refill_queue != bucket.refill_queue)
        {
            debug!(bucket = %id, to = %bucket.refill_queue, "moves to another refill queue");
            self.release(&id).await;
            if let Err(error) = self.delete_refill_queue(&old.refill_queue).await {
                warn!(refill_queue = old.refill_queue, %error, "unused refill queue not deleted");
            }
        }
        let lane = self.lane(&bucket.refill_queue);
        lane.buckets.insert(id.clone());
        let _ = lane
            .commands
            .send(worker::Command::Adopt(bucket.clone(), revision));
        self.places.insert(id, bucket);
    }

    fn lane(&mut self, queue: &str) -> &mut Lane {
        self.workers.entry(queue.to_owned()).or_insert_with(|| {
            let (commands, receiver) = mpsc::unbounded_channel();
            let context = Context {
                broker: self.broker.clone(),
                queue_type: self.options.refill_queue_type,
                writer: Writer {
                    operator: self.options.operator.as_str().into(),
                    refill_queue: queue.into(),
                },
                board: self.board.clone(),
                scheduler: self.scheduler.clone(),
                observer: self.observer.clone(),
            };
            let (runs, running) = oneshot::channel();
            let working = worker::run(context, receiver, self.stop.clone());
            self.tasks.spawn(async move {
                let _runs = runs;
                working.await
            });
            Lane {
                commands,
                running,
                buckets: HashSet::new(),
            }
        })
    }

    fn look(&self, id: &BucketId) {
        if let Some(lane) = self
            .places
            .get(id)
            .and_then(|bucket| self.workers.get(&bucket.refill_queue))
        {
            let _ = lane.commands.send(worker::Command::Look(id.clone()));
        }
    }

    /// Stops working on a bucket, and on its refill queue when no other bucket uses it.
    async fn release(&mut self, id: &BucketId) {
        self.scheduler.left(id.clone()).await;
        let Some(bucket) = self.places.remove(id) else {
            return;
        };
        let Some(lane) = self.workers.get_mut(&bucket.refill_queue) else {
            return;
        };
        let (done, wait) = oneshot::channel();
        let _ = lane.commands.send(worker::Command::Leave(id.clone(), done));
        let _ = wait.await;
        // Only now: a look that ended meanwhile has entered the bucket again.
        self.observer.forget(id.clone());
        self.scheduler.leave(id.clone());
        lane.buckets.remove(id);
        if lane.buckets.is_empty()
            && let Some(lane) = self.workers.remove(&bucket.refill_queue)
        {
            let _ = lane.commands.send(worker::Command::Retire);
            lane.ended().await;
        }
    }

    async fn remove(&mut self, removal: Removal, answer: Answer) {
        // The worker counts requests for a bucket that nobody knows as dropped, not as held.
        self.board.leave(&removal.id);
        self.release(&removal.id).await;
        match removal.policy {
            DeletionPolicy::Retain => {
                let _ = answer.send(Ok(()));
            }
            DeletionPolicy::Delete => self.removals.start(self.broker.clone(), removal, answer),
        }
    }

    async fn removed(&mut self, removed: Removed, desired: &Desired) {
        let Removed {
            removal,
            answer,
            mut result,
        } = removed;
        let freed = self.removals.ended(&removal);
        if result.is_ok() && freed.refill_queue {
            result = self.delete_refill_queue(&removal.refill_queue).await;
        }
        if result.is_ok() {
            info!(bucket = %removal.id, queue = queue_name(&removal.name), "queues deleted");
        }
        // Who asked may have given up meanwhile.
        let _ = answer.send(result);
        if let Some((bucket, revision)) = freed.waiting.and_then(|id| desired.get(&id)) {
            self.apply(bucket.clone(), *revision).await;
        }
    }

    /// Deletes a refill queue that no bucket uses any more. We were its exclusive consumer, so it was ours; what is not
    /// empty, or consumed by somebody else by now, stays.
    async fn delete_refill_queue(&self, queue: &str) -> Result<(), RemoveError> {
        if self.workers.contains_key(queue) {
            return Ok(());
        }
        if let Deleted::Kept(reason) = self.delete(queue, DeleteIf::EmptyAndUnused).await? {
            debug!(refill_queue = queue, reason, "refill queue kept");
            return Ok(());
        }
        // Parked requests are for a person to look at.
        self.delete(&parked_queue_name(queue), DeleteIf::Empty)
            .await?;
        Ok(())
    }

    async fn delete(&self, queue: &str, only_if: DeleteIf) -> Result<Deleted, RemoveError> {
        Ok(self.broker.delete_queue(queue, only_if).await?)
    }
}
