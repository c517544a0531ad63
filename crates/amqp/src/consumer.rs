//! Refill queues are consumed on channels of their own. That there is one consumer keeps operators from working against
//! each other, and foreign programs from taking requests; it keeps nobody from refilling.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use futures::future::FutureExt;
use futures::stream::StreamExt;
use lapin::Consumer;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};

use super::allowance::{OwnChannel, Use};
use super::connection::{Broker, During};
use super::delivery::{Delivery, Forward, Message};
use super::error::{Action, BrokerError};
use super::transport::Batch;
use super::{properties, queues, wire};
use bucket::{QueueType, parked_queue_name};

/// Octets of messages that are in memory. Requests have some hundred each, so this is for those of others.
const MOST_HELD: usize = 16 * 1024 * 1024;

/// That part of those that are parked, and one, are parked together: what a policy makes the broker drop for them is little.
const PARKED_AT_ONCE: u64 = 10;

/// The consumer of a refill queue, on a channel in transaction mode. After an error of any verb it is of no use any more:
/// drop it, and what was not settled goes back to the queue.
pub struct RefillConsumer {
    broker: Arc<Broker>,
    queue: String,
    channel: OwnChannel,
    consumer: Consumer,
    is_ours: bool,
    /// Requests that may be delivered and not settled, and those that are.
    prefetch: usize,
    unsettled: usize,
    /// Octets of those, by tag and in all.
    sizes: HashMap<u64, usize>,
    held: usize,
}

impl Broker {
    /// Becomes the consumer of the refill queue `queue`, which is declared together with its queue for parked requests. At
    /// most `prefetch` requests are delivered and not settled at one time. A classic queue has no other consumer as long
    /// as this one lives; a quorum queue delivers to one at a time.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] while somebody else consumes it; [`BrokerError::OtherArguments`] when it is a stream;
    /// [`BrokerError::ParkedQueueFull`]; [`BrokerError::UnsupportedVersion`]. Nothing that was opened remains.
    pub async fn consume(
        self: &Arc<Self>,
        queue: &str,
        kind: QueueType,
        prefetch: u16,
    ) -> Result<RefillConsumer, BrokerError> {
        self.supports(kind, "start the operator with --refill-queue-type classic")?;
        let arguments = wire::refill_queue_arguments(kind);
        let (kind, is_ours) = match self.declare(queue, arguments).await {
            Ok(_) => (kind, true),
            Err(error) => (self.kind_of_other(kind, error)?, false),
        };
        // Quorum queues know no exclusive consumers: a second one waits without being told so. That is as good when two
        // come at the same moment.
        if kind == QueueType::Quorum
            && let Some((_, 1..)) = self.look_at(queue).await?
        {
            return Err(BrokerError::InUse {
                queue: queue.to_owned(),
            });
        }
        if self.room_for_parked(queue).await?.1 == 0 {
            return Err(parked_queue_full(queue));
        }
        let action = consuming(queue);
        let name = wire::name(queue)?;
        let channel = self.transaction_channel(Use::Consumer, action).await?;
        let opening = async {
            channel
                .basic_qos(prefetch, BasicQosOptions::default())
                .await?;
            let options = BasicConsumeOptions {
                exclusive: kind == QueueType::Classic,
                ..Default::default()
            };
            channel
                .basic_consume(name, ShortString::default(), options, FieldTable::default())
                .await
        };
        let consumer = self.answer(action, During::AlarmFail, opening).await?;
        Ok(RefillConsumer {
            broker: Arc::clone(self),
            queue: queue.to_owned(),
            channel,
            consumer,
            is_ours,
            prefetch: prefetch.into(),
            unsettled: 0,
            sizes: HashMap::new(),
            held: 0,
        })
    }

    /// The kind of a refill queue that could not be declared as ours. It serves as well with other arguments, such as a
    /// priority or a time to live: requests are taken from it at once, and a lost one is made anew from the ledger.
    fn kind_of_other(&self, kind: QueueType, error: BrokerError) -> Result<QueueType, BrokerError> {
        let BrokerError::OtherArguments { message, .. } = &error else {
            return Err(error);
        };
        match wire::other_type(message) {
            None => Ok(kind),
            Some("classic") => Ok(QueueType::Classic),
            Some("quorum") => {
                let instead = "give the buckets a refillQueue of their own";
                self.supports(QueueType::Quorum, instead)?;
                Ok(QueueType::Quorum)
            }
            // A stream keeps what is acknowledged.
            Some(_) => Err(error),
        }
    }

    /// How many requests are parked, and how many more can be before the broker drops the oldest. A queue for them with other
    /// arguments than ours does as well.
    async fn room_for_parked(&self, refill_queue: &str) -> Result<(u64, u64), BrokerError> {
        let parked = parked_queue_name(refill_queue);
        let declaring = self.declare(&parked, wire::rejected_queue_arguments());
        let (kept, most) = match declaring.await {
            Ok(kept) => (kept, Some(wire::MOST_REJECTED)),
            Err(BrokerError::OtherArguments { message, .. }) => {
                let kept = self.count(&parked).await?.unwrap_or_default();
                (kept, wire::other_limit(&message).flatten())
            }
            Err(error) => return Err(error),
        };
        let most = most.into_iter().chain(self.parked().limit(&parked)).min();
        Ok((
            kept,
            most.map_or(u64::MAX, |most| most.saturating_sub(kept)),
        ))
    }
}

impl RefillConsumer {
    /// The refill queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Whether it is as this program declares it; else somebody else did, and may need it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Waits for a delivery and takes it and those that have arrived already, at most `most`. May be dropped while it
    /// waits; no delivery is lost by that.
    ///
    /// # Errors
    /// When there will be no more deliveries: [`BrokerError::NoQueue`] when the queue was deleted, or the channel or the
    /// connection is gone.
    pub async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, BrokerError> {
        let first = self.consumer.next().await;
        let mut deliveries = vec![self.delivery(first)?];
        deliveries.extend(self.ready(most.saturating_sub(1))?);
        Ok(deliveries)
    }

    /// The deliveries that have arrived already, at most `most`.
    ///
    /// # Errors
    /// As for [`RefillConsumer::next`].
    pub fn ready(&mut self, most: usize) -> Result<Vec<Delivery>, BrokerError> {
        let mut deliveries = Vec::new();
        while deliveries.len() < most {
            match self.consumer.next().now_or_never() {
                Some(next) => deliveries.push(self.delivery(next)?),
                None => break,
            }
        }
        Ok(deliveries)
    }

    fn delivery(
        &mut self,
        next: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Result<Delivery, BrokerError> {
        match next {
            Some(Ok(delivery)) => {
                self.unsettled += 1;
                if self.unsettled > self.prefetch {
                    return Err(self.broker.give_up(BrokerError::ConnectionLost {
                        reason: "the server delivers more than was agreed upon".to_owned(),
                    }));
                }
                let mut delivery = Delivery::new(delivery);
                if self.held + delivery.octets() > MOST_HELD {
                    delivery.forget_message();
                }
                self.held += delivery.octets();
                self.sizes.insert(delivery.tag, delivery.octets());
                Ok(delivery)
            }
            Some(Err(error)) => Err(self.broker.explain(consuming(&self.queue), &error)),
            None if self.channel.status().connected() => Err(BrokerError::NoQueue {
                queue: self.queue.clone(),
            }),
            None => Err(self.broker.explain(consuming(&self.queue), &closed())),
        }
    }

    /// Acknowledges deliveries by their tags, and publishes those that move elsewhere; the acknowledgements of these are the last of
    /// the tags, and are carried out together with that, or, of those that are parked, after it. One that is in memory no more, because there were too many large
    /// ones, goes back to its queue and comes again. Waits while a resource alarm is in force.
    ///
    /// # Errors
    /// [`BrokerError::ParkedQueueFull`] when not all could be parked: the others stay. Else it was not applied, or nobody knows
    /// whether it was. The same holds when this future is dropped before it is
    /// ready.
    pub async fn settle(
        &mut self,
        mut acks: Vec<u64>,
        forwards: Vec<Forward>,
    ) -> Result<(), BrokerError> {
        let moving = acks.split_off(acks.len().saturating_sub(forwards.len()));
        let parked = parked_queue_name(&self.queue);
        let (parks, moves): (Vec<_>, Vec<_>) = moving
            .into_iter()
            .zip(forwards)
            .partition(|(_, forward)| forward.queue == parked);
        let mut parks = VecDeque::from(parks);
        if !acks.is_empty() || !moves.is_empty() {
            let mut batch = Batch::new(&self.channel);
            for (tag, forward) in moves {
                let is_there = self.publish(&mut batch, &forward)?;
                self.end(&mut batch, tag, is_there)?;
            }
            for tag in acks {
                self.end(&mut batch, tag, true)?;
            }
            self.commit(batch).await?;
        }
        while !parks.is_empty() {
            // Somebody may have deleted it after reading it, and the commit would not notice.
            let (kept, room) = self.broker.room_for_parked(&self.queue).await?;
            // A policy may limit it too, and that shows only afterwards.
            let most = room.min(kept / PARKED_AT_ONCE + 1);
            let most = parks.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            if most == 0 {
                return Err(parked_queue_full(&self.queue));
            }
            let now: Vec<_> = parks.drain(..most).collect();
            let added = now.iter().filter(|(_, it)| it.message.is_some()).count() as u64;
            // Where a queue refuses what is published, the rest of a transaction is carried out.
            let mut batch = Batch::new(&self.channel);
            for (_, forward) in &now {
                self.publish(&mut batch, forward)?;
            }
            match self.commit(batch).await {
                Err(BrokerError::PartlyRefused) => return Err(parked_queue_full(&self.queue)),
                published => published?,
            }
            let mut batch = Batch::new(&self.channel);
            for (tag, forward) in now {
                self.end(&mut batch, tag, forward.message.is_some())?;
            }
            self.commit(batch).await?;
            if let Some((after, 0)) = self.broker.look_at(&parked).await? {
                self.broker.parked().see(&parked, kept, added, after);
            }
        }
        Ok(())
    }

    /// Answers false for one that is in memory no more.
    fn publish(&self, batch: &mut Batch, forward: &Forward) -> Result<bool, BrokerError> {
        let Some(Message { properties, body }) = &forward.message else {
            return Ok(false);
        };
        let reason = forward.reason.as_deref();
        let properties = properties::forwarded(properties, reason, self.broker.frame_max());
        batch.publish_encoded(wire::name(&forward.queue)?, &properties, body)?;
        Ok(true)
    }

    /// A delivery is dealt with, or comes again when there is room.
    fn end(&mut self, batch: &mut Batch, tag: u64, is_done: bool) -> Result<(), BrokerError> {
        self.held -= self.sizes.remove(&tag).unwrap_or_default();
        self.unsettled = self.unsettled.saturating_sub(1);
        if is_done {
            batch.acknowledge(tag)
        } else {
            batch.give_back(tag)
        }
    }

    async fn commit(&self, batch: Batch) -> Result<(), BrokerError> {
        let settling = batch.commit(&self.channel);
        let action = Action {
            verb: "settle refill requests",
            needs: "write",
            queue: &self.queue,
        };
        self.broker
            .answer(action, During::AlarmWait, settling)
            .await
    }

    /// Counts the requests that the queue has not handed out. Those that it has handed out have arrived when this is
    /// answered: [`RefillConsumer::ready`] has them.
    ///
    /// # Errors
    /// As for [`RefillConsumer::next`].
    pub async fn waiting(&mut self) -> Result<u64, BrokerError> {
        let name = wire::name(&self.queue)?;
        let looking = async {
            let declaring =
                self.channel
                    .queue_declare(name, queues::passive(), FieldTable::default());
            let waiting = declaring.await?.message_count().into();
            // What was handed out before the queue was counted arrives before the answer to what is asked afterwards.
            Batch::new(&self.channel).commit(&self.channel).await?;
            Ok(waiting)
        };
        let action = Action {
            verb: "count a refill queue",
            needs: "configure",
            queue: &self.queue,
        };
        self.broker.answer(action, During::AlarmWait, looking).await
    }

    /// Stops consuming: what is not settled goes back to the queue, and the next one can consume it.
    pub async fn release(self) {
        self.broker.farewell(&self.channel).await;
    }
}

fn parked_queue_full(refill_queue: &str) -> BrokerError {
    BrokerError::ParkedQueueFull {
        queue: parked_queue_name(refill_queue),
    }
}

fn consuming(queue: &str) -> Action<'_> {
    Action {
        verb: "consume a refill queue",
        needs: "read",
        queue,
    }
}

fn closed() -> lapin::Error {
    lapin::ErrorKind::InvalidChannelState(lapin::ChannelState::Closed, "refill consumer").into()
}

impl fmt::Debug for RefillConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefillConsumer")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
