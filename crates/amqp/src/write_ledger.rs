//! A ledger where there is none. Two who miss it must not both write it: whichever comes second would overwrite what was
//! refilled in between. So it is written under a lock, a queue that belongs to one connection.

use futures::future::{FutureExt, join};
use futures::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::time::{Duration, sleep};
use tracing::debug;

use super::allowance::Use;
use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::reservation::Reserved;
use super::transport::Batch;
use super::{ledger, wire};
use bucket::machine::Absence;
use bucket::{Ledger, QueueType, ledger_queue_name, queue_name};

/// How the name of the lock ends, behind that of the ledger's queue.
const LOCK: &str = ".lock";
/// Looks for an alarm while a ledger is waited for. A shorter one in between is not noticed; the time that a ledger is held has
/// a margin for it.
const PROBES: u32 = 8;
/// What others have published when an alarm ended is carried out within this.
const AFTER_PROBE: Duration = Duration::from_secs(1);

impl Broker {
    /// Writes a ledger of the bucket `name` where there is none. Answers false when it is not as absent as it has to be.
    /// Waits while a resource alarm is in force.
    ///
    /// With [`Absence::Unseen`] its queue is declared, and consumed for so long before: a ledger that somebody holds is seen
    /// as soon as it is given back or written anew. Whoever can still come with one after that has not been heard of by the
    /// broker for longer than it keeps a connection.
    ///
    /// All who write a ledger of the bucket exclude each other, each with its lock. Give it up with the connection only: the lock lasts until this is ready, or the connection ends.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] while somebody else is doing so; [`BrokerError::OtherArguments`] when the ledger's queue is
    /// of another kind. After any other error it may have been written or not.
    pub async fn write_ledger(
        &self,
        name: &str,
        kind: QueueType,
        ledger: &Ledger,
        absence: Absence,
    ) -> Result<bool, BrokerError> {
        let queue = ledger_queue_name(name);
        let action = action("write a ledger", "configure", &queue);
        let lock = lock_queue_name(name);
        let _claim = self.claims().claim(&queue)?;
        let what = match absence {
            Absence::Unseen(_) => Use::Wait,
            Absence::NoQueues | Absence::NoQueue => Use::Steps,
        };
        let channel = self.transaction_channel(what, action).await?;
        let locking = Action {
            queue: &lock,
            ..action
        };
        if !self.reserve(&channel, locking).await? {
            return Err(BrokerError::InUse { queue: lock });
        }
        let written = match absence {
            Absence::Unseen(limit) => {
                self.write_after(limit, &channel, name, kind, ledger, action)
                    .await
            }
            Absence::NoQueues => {
                self.write_first(true, &channel, name, kind, ledger, action)
                    .await
            }
            Absence::NoQueue => {
                self.write_first(false, &channel, name, kind, ledger, action)
                    .await
            }
        };
        self.unlock(&channel, &lock).await;
        written
    }

    /// A queue that belongs to this connection can only be declared where there is none, and keeps everybody else from
    /// declaring one. Then the ledger's takes its place. Should somebody who looks for it come in between, a broker may take
    /// the second declaration for one of the other's queue: the ledger goes with that, and nobody but the other can have got
    /// it.
    ///
    /// `alone`: only if there is no queue for the bucket either, so that nobody has refilled it.
    async fn write_first(
        &self,
        alone: bool,
        channel: &Channel,
        name: &str,
        kind: QueueType,
        ledger: &Ledger,
        action: Action<'_>,
    ) -> Result<bool, BrokerError> {
        if !alone {
            return Ok(self.reserve(channel, action).await?
                && self.replace(channel, name, kind, ledger, action).await?);
        }
        let bucket_queue = queue_name(name);
        match self.reserve_both(channel, &bucket_queue, action).await? {
            Reserved::Nothing => Ok(false),
            Reserved::Ledger => self.release(action.queue).await.map(|()| false),
            Reserved::Both => {
                let deleting =
                    channel.queue_delete(wire::name(&bucket_queue)?, QueueDeleteOptions::default());
                let replacing = self.replace(channel, name, kind, ledger, action);
                let deleting = self.answer(action, During::AlarmWait, deleting);
                let (deleted, written) = join(deleting, replacing).await;
                deleted?;
                written
            }
        }
    }

    /// The ledger's queue takes the place of the one that has reserved its name.
    async fn replace(
        &self,
        channel: &Channel,
        name: &str,
        kind: QueueType,
        ledger: &Ledger,
        action: Action<'_>,
    ) -> Result<bool, BrokerError> {
        let queue = wire::name(action.queue)?;
        let arguments = wire::explicit(wire::queue_arguments(kind, Some(1)), self.version());
        let durable = QueueDeclareOptions::durable();
        let replacing = join(
            channel.queue_delete(queue.clone(), QueueDeleteOptions::default()),
            channel.queue_declare(queue, durable, arguments),
        );
        let replacing = async { Ok(replacing.await) };
        let (deleted, declared) = self.answer(action, During::AlarmWait, replacing).await?;
        let came = deleted
            .and_then(|came| declared.map(|_| came))
            .map_err(|error| self.explain(action, &error))?;
        // Somebody who had it still has come with it. It is lost, and says what this one does not know: whoever misses it
        // next waits for others first.
        if came > 0 {
            return Ok(false);
        }
        // The client library sends what is published before anything else that waits, so this comes afterwards.
        let mut batch = Batch::new(channel);
        ledger::publish(&mut batch, name, ledger, None)?;
        self.commit(action, During::AlarmWait, channel, batch)
            .await?;
        Ok(true)
    }

    async fn write_after(
        &self,
        limit: Duration,
        channel: &Channel,
        name: &str,
        kind: QueueType,
        ledger: &Ledger,
        action: Action<'_>,
    ) -> Result<bool, BrokerError> {
        let queue = wire::name(action.queue)?;
        let arguments = wire::explicit(wire::queue_arguments(kind, Some(1)), self.version());
        let durable = QueueDeclareOptions::durable();
        let declaring = channel.queue_declare(queue, durable, arguments);
        self.answer(action, During::AlarmWait, declaring).await?;
        let found = self.await_ledger(limit, channel, action).await?;
        let mut batch = Batch::new(channel);
        match &found {
            // Not by closing the channel: that is answered before the message is back, and the next one to have the lock
            // would miss it.
            Some(delivery) => batch.give_back(delivery.delivery_tag)?,
            None => ledger::publish(&mut batch, name, ledger, None)?,
        }
        let writing = Action {
            needs: "write",
            ..action
        };
        let returned = self
            .commit(writing, During::AlarmWait, channel, batch)
            .await?;
        if returned.is_empty() {
            Ok(found.is_none())
        } else {
            let queue = action.queue.to_owned();
            Err(BrokerError::NoQueue { queue })
        }
    }

    /// The ledger in a queue that is there, if it is there within so long. It is consumed meanwhile.
    pub(super) async fn await_ledger(
        &self,
        limit: Duration,
        channel: &Channel,
        action: Action<'_>,
    ) -> Result<Option<Delivery>, BrokerError> {
        let queue = wire::name(action.queue)?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consuming = channel.basic_consume(queue, ShortString::default(), options, none);
        let reading = Action {
            verb: "wait for a ledger",
            needs: "read",
            ..action
        };
        let mut consumer = self.answer(reading, During::AlarmWait, consuming).await?;
        let mut found = self
            .next_after_alarms(limit, channel, &mut consumer, action)
            .await?;
        // Nothing that is given back or written comes here again.
        let cancelling = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        self.answer(action, During::AlarmWait, cancelling).await?;
        if found.is_none() {
            // What came just before.
            found = consumer
                .next()
                .now_or_never()
                .flatten()
                .and_then(Result::ok);
        }
        Ok(found)
    }

    /// A delivery within so long without a resource alarm. Only who publishes is told of one, and while it lasts nobody can
    /// give anything back: so again and again something is published that has to wait as what others have published, and
    /// after the last of it there is a moment for theirs.
    async fn next_after_alarms(
        &self,
        limit: Duration,
        channel: &Channel,
        consumer: &mut Consumer,
        action: Action<'_>,
    ) -> Result<Option<Delivery>, BrokerError> {
        let lock = action.queue.to_owned() + LOCK;
        let (mut alarms, mut quiet) = (self.alarms(), 0);
        loop {
            let mut probe = Batch::new(channel);
            probe.publish(wire::name(&lock)?, BasicProperties::default(), b"", 1)?;
            self.commit(action, During::AlarmWait, channel, probe)
                .await?;
            if self.alarms() != alarms {
                (alarms, quiet) = (self.alarms(), 0);
            }
            if quiet == PROBES {
                return self.next_within(AFTER_PROBE, consumer).await;
            }
            if let Some(delivery) = self.next_within(limit / PROBES, consumer).await? {
                return Ok(Some(delivery));
            }
            quiet += 1;
        }
    }

    /// A delivery within so long without a resource alarm that is known of.
    async fn next_within(
        &self,
        limit: Duration,
        consumer: &mut Consumer,
    ) -> Result<Option<Delivery>, BrokerError> {
        loop {
            tokio::select! {
                delivery = consumer.next() => return match delivery {
                    Some(Ok(delivery)) => Ok(Some(delivery)),
                    Some(Err(error)) => Err(BrokerError::ChannelClosed { reason: error.to_string() }),
                    None => Err(BrokerError::ChannelClosed { reason: "the queue of the ledger was deleted".into() }),
                },
                () = sleep(limit) => return Ok(None),
                () = self.blocked_is(true) => self.blocked_is(false).await,
                lost = self.lost() => return Err(lost),
            }
        }
    }

    /// Gives back a name that was reserved, and the channel.
    async fn unlock(&self, channel: &Channel, lock: &str) {
        let unlocking = async {
            if !channel.status().connected() {
                return self.release(lock).await;
            }
            let deleting = channel.queue_delete(wire::name(lock)?, QueueDeleteOptions::default());
            let action = action("delete a queue", "configure", lock);
            self.answer(action, During::AlarmWait, deleting).await?;
            self.farewell(channel).await;
            Ok(())
        };
        if let Err(error) = unlocking.await {
            debug!(%error, lock, "it goes with the connection");
        }
    }
}

/// The queue that its connection writes the ledger under.
fn lock_queue_name(name: &str) -> String {
    ledger_queue_name(name) + LOCK
}

fn action<'a>(verb: &'static str, needs: &'static str, queue: &'a str) -> Action<'a> {
    Action { verb, needs, queue }
}
