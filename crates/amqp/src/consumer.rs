//! Refill queues are consumed on channels of their own. That there is one consumer keeps operators from working against
//! each other, and foreign programs from taking requests; it keeps nobody from refilling.

use std::fmt;
use std::sync::Arc;

use futures::future::FutureExt;
use futures::stream::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};

use super::connection::{Broker, During};
use super::delivery::{Delivery, Forward};
use super::error::{Action, BrokerError};
use super::transport::Batch;
use super::{queues, wire};
use bucket::{QueueType, parked_queue_name};

/// The consumer of a refill queue, on a channel in transaction mode. After an error of any verb it is of no use any more:
/// drop it, and what was not settled goes back to the queue.
pub struct RefillConsumer {
    broker: Arc<Broker>,
    queue: String,
    channel: Channel,
    consumer: Consumer,
    /// Requests that may be delivered and not settled, and those that are.
    prefetch: usize,
    unsettled: usize,
}

impl Broker {
    /// Becomes the consumer of the refill queue `queue`, which is declared together with its queue for parked requests. At
    /// most `prefetch` requests are delivered and not settled at one time. A classic queue has no other consumer as long
    /// as this one lives; a quorum queue delivers to one at a time.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] while somebody else consumes it; [`BrokerError::OtherArguments`] when the queue is of
    /// another kind; [`BrokerError::UnsupportedVersion`]. Nothing that was opened remains.
    pub async fn consume(
        self: &Arc<Self>,
        queue: &str,
        kind: QueueType,
        prefetch: u16,
    ) -> Result<RefillConsumer, BrokerError> {
        self.supports(kind, "start the operator with --refill-queue-type classic")?;
        self.declare(queue, wire::refill_queue_arguments(kind))
            .await?;
        // Quorum queues know no exclusive consumers: a second one waits without being told so. That is as good when two
        // come at the same moment.
        if kind == QueueType::Quorum
            && let Some((_, 1..)) = self.look_at(queue).await?
        {
            return Err(BrokerError::InUse {
                queue: queue.to_owned(),
            });
        }
        self.declare_parked(queue).await?;
        let action = consuming(queue);
        let name = wire::name(queue)?;
        let channel = self.transaction_channel(action).await?;
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
            prefetch: prefetch.into(),
            unsettled: 0,
        })
    }

    /// A queue for parked requests with other arguments than ours does as well.
    async fn declare_parked(&self, refill_queue: &str) -> Result<(), BrokerError> {
        let parked = parked_queue_name(refill_queue);
        match self
            .declare(&parked, wire::rejected_queue_arguments())
            .await
        {
            Ok(_) | Err(BrokerError::OtherArguments { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl RefillConsumer {
    /// The refill queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
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
                Ok(Delivery::new(delivery))
            }
            Some(Err(error)) => Err(self.broker.explain(consuming(&self.queue), &error)),
            None if self.channel.status().connected() => Err(BrokerError::NoQueue {
                queue: self.queue.clone(),
            }),
            None => Err(self.broker.explain(consuming(&self.queue), &closed())),
        }
    }

    /// Acknowledges deliveries by their tags, and publishes those that move elsewhere, in one AMQP transaction; the
    /// acknowledgements of these are among the tags. Waits while a resource alarm is in force.
    ///
    /// # Errors
    /// It was not applied, or nobody knows whether it was. The same holds when this future is dropped before it is
    /// ready.
    pub async fn settle(
        &mut self,
        acks: Vec<u64>,
        forwards: Vec<Forward>,
    ) -> Result<(), BrokerError> {
        if acks.is_empty() && forwards.is_empty() {
            return Ok(());
        }
        let parked = parked_queue_name(&self.queue);
        if forwards.iter().any(|forward| forward.queue == parked) {
            // Somebody may have deleted it after reading it, and the commit would not notice.
            self.broker.declare_parked(&self.queue).await?;
        }
        let mut batch = Batch::new(&self.channel);
        for Forward {
            queue,
            properties,
            body,
        } in forwards
        {
            batch.publish(wire::name(&queue)?, properties, &body, 1)?;
        }
        self.unsettled = self.unsettled.saturating_sub(acks.len());
        for tag in acks {
            batch.acknowledge(tag)?;
        }
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
