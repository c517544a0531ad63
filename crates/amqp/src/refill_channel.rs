//! The fence: one channel carries both the exclusive consumer of a refill queue and the transactions that refill. A
//! holder that was cut off, whatever it still believes, has no channel to commit on.

use std::fmt;
use std::sync::Arc;

use futures::future::{FutureExt, join_all, try_join_all};
use futures::stream::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::time::{Duration, sleep};
use tracing::debug;

use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::frames::Frames;
use super::queues::DeleteIf;
use super::transaction::{Delivery, Forward, Transaction};
use super::wire;
use bucket::{QueueType, parked_queue_name};

/// Messages asked for in one flight.
const GETS: u64 = 256;
/// A holder before this one may just have died. Its channels end one by one; by now what it held has come back, a
/// ledger that it was reading for example.
const SETTLE: Duration = Duration::from_millis(100);

/// The exclusive consumer of a refill queue and the transactions on its channel. Whoever holds it is the only one who
/// refills: when the channel is gone, nothing more can be committed.
pub struct RefillChannel {
    broker: Arc<Broker>,
    queue: String,
    channel: Channel,
    consumer: Consumer,
    /// The queue that makes us the only consumer of a quorum queue.
    holder: Option<String>,
}

impl RefillChannel {
    pub(super) async fn open(
        broker: Arc<Broker>,
        queue: &str,
        kind: QueueType,
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let action = Action {
            verb: "consume a refill queue",
            needs: "read",
            queue,
        };
        broker
            .declare(queue, wire::refill_queue_arguments(kind))
            .await?;
        let holder = (kind == QueueType::Quorum).then(|| wire::holder_queue_name(queue));
        // Also one that knows nothing of the holder's queue is in the way.
        if holder.is_some()
            && broker
                .look_at(queue)
                .await?
                .is_some_and(|(_, consumers)| consumers > 0)
        {
            return Err(BrokerError::InUse {
                queue: queue.to_owned(),
            });
        }
        let channel = broker.channel(action).await?;
        let consumer = {
            let name = wire::name(queue)?;
            let lock = holder.as_deref().map(wire::name).transpose()?;
            let opening = async {
                // Quorum queues know no exclusive consumers: a second one would wait without being told so, and take
                // itself for the holder. A queue that belongs to a connection tells, and goes with it.
                if let Some(lock) = lock {
                    let options = QueueDeclareOptions {
                        exclusive: true,
                        ..Default::default()
                    };
                    channel
                        .queue_declare(lock, options, FieldTable::default())
                        .await?;
                }
                channel.tx_select().await?;
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
            broker.answer(action, During::AlarmFail, opening).await?
        };
        broker.fences().begin(queue);
        let this = Self {
            broker,
            queue: queue.to_owned(),
            channel,
            consumer,
            holder,
        };
        this.declare_rejected().await?;
        sleep(SETTLE).await;
        Ok(this)
    }

    /// A queue for rejected requests with other arguments than ours does as well.
    async fn declare_rejected(&self) -> Result<(), BrokerError> {
        match self
            .broker
            .declare(&self.rejected_queue(), wire::rejected_queue_arguments())
            .await
        {
            Ok(_) | Err(BrokerError::OtherArguments { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The queue that rejected requests are forwarded to.
    #[must_use]
    pub fn rejected_queue(&self) -> String {
        parked_queue_name(&self.queue)
    }

    /// Waits for a delivery and takes it and those that have arrived already, at most `most`. May be dropped while it
    /// waits; no delivery is lost by that.
    ///
    /// # Errors
    /// When there will be no more deliveries: the queue was deleted, the channel or the connection is gone.
    pub async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, BrokerError> {
        let first = self.consumer.next().await;
        let mut deliveries = vec![self.delivery(first)?];
        deliveries.extend(self.ready(most.saturating_sub(1))?);
        Ok(deliveries)
    }

    /// The deliveries that have arrived already, at most `most`.
    ///
    /// # Errors
    /// As for [`RefillChannel::next`].
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
        &self,
        next: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Result<Delivery, BrokerError> {
        match next {
            Some(Ok(delivery)) => Ok(Delivery::new(delivery)),
            Some(Err(error)) => Err(self.ended(&error)),
            None if self.channel.status().connected() => Err(BrokerError::NoQueue {
                queue: self.queue.clone(),
            }),
            None => Err(self.ended(&closed())),
        }
    }

    /// Why the channel is gone. What the broker said about it need not have to do with the refill queue.
    fn ended(&self, error: &lapin::Error) -> BrokerError {
        let action = self.action("consume a refill queue", "read");
        match self.broker.explain(action, error) {
            error if error.is_connection_lost() => error,
            _ => BrokerError::ChannelClosed {
                reason: error.to_string(),
            },
        }
    }

    fn usable(&self) -> Result<(), BrokerError> {
        if self.channel.status().connected() {
            Ok(())
        } else {
            Err(self.ended(&closed()))
        }
    }

    fn action<'a>(&'a self, verb: &'static str, needs: &'static str) -> Action<'a> {
        Action {
            verb,
            needs,
            queue: &self.queue,
        }
    }

    /// Publishes and acknowledges everything as one AMQP transaction. Waits while a resource alarm is in force.
    ///
    /// # Errors
    /// It was not applied, or nobody knows whether it was: drop the channel, open another and read the ledgers again.
    /// The same holds when this future is dropped before it is ready.
    pub async fn commit(&mut self, mut transaction: Transaction) -> Result<(), BrokerError> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.usable()?;
        let rejected = self.rejected_queue();
        if transaction
            .forwards
            .iter()
            .any(|forward| forward.queue == rejected)
        {
            // Somebody may have deleted it after reading it, and the commit would not notice.
            self.declare_rejected().await?;
        }
        let forwards = std::mem::take(&mut transaction.forwards)
            .into_iter()
            .map(|forward| Ok((wire::name(&forward.queue)?, forward)))
            .collect::<Result<Vec<_>, BrokerError>>()?;
        let frames = encode(&self.channel, transaction)?;
        let committing = async {
            forward(&self.channel, forwards).await?;
            frames.send(&self.channel).await?;
            self.channel.tx_commit().await
        };
        let action = self.action("commit a transaction", "write");
        let committed = self
            .broker
            .answer(action, During::AlarmWait, committing)
            .await;
        match committed {
            Err(BrokerError::ChannelClosed { reason }) => Err(self.why_closed(reason).await),
            committed => committed,
        }
    }

    /// Asks the broker for nothing: what it had sent on this channel by then has arrived afterwards.
    ///
    /// # Errors
    /// As for [`RefillChannel::commit`].
    pub async fn round_trip(&self) -> Result<(), BrokerError> {
        self.usable()?;
        let action = self.action("commit a transaction", "write");
        self.broker
            .answer(action, During::AlarmWait, self.channel.tx_commit())
            .await
    }

    /// Why a commit found its channel closed. The broker closes it at the first message that it refuses; when the rest of
    /// the transaction was still to be sent, only the consumer has been told the reason.
    async fn why_closed(&mut self, reason: String) -> BrokerError {
        let action = Action {
            verb: "commit a transaction",
            needs: "write",
            queue: &self.queue,
        };
        let consumer = &mut self.consumer;
        let ended = async {
            while let Some(delivery) = consumer.next().await {
                delivery?;
            }
            Ok(())
        };
        match self.broker.answer(action, During::AlarmWait, ended).await {
            Err(
                error @ (BrokerError::AccessRefused { .. } | BrokerError::ChannelClosed { .. }),
            ) => error,
            Err(error) if error.is_connection_lost() => error,
            _ => BrokerError::ChannelClosed { reason },
        }
    }

    /// Takes up to `most` messages out of `queue`; answers their tags. They are gone when a transaction acknowledges
    /// them, and return when the channel ends without that.
    ///
    /// # Errors
    /// Drop the channel; what was taken returns.
    pub async fn take_out(&mut self, queue: &str, most: u64) -> Result<Vec<u64>, BrokerError> {
        let action = Action {
            verb: "take messages out of a queue",
            needs: "read",
            queue,
        };
        let name = wire::name(queue)?;
        self.usable()?;
        let options = BasicGetOptions { no_ack: false };
        let mut tags = Vec::new();
        while (tags.len() as u64) < most {
            let wanted = (most - tags.len() as u64).min(GETS);
            let gets = join_all((0..wanted).map(|_| self.channel.basic_get(name.clone(), options)));
            let mut got = 0;
            for message in self
                .broker
                .answer(action, During::AlarmWait, gets.map(Ok))
                .await?
            {
                if let Some(message) =
                    message.map_err(|error| self.broker.explain(action, &error))?
                {
                    tags.push(message.delivery_tag);
                    got += 1;
                }
            }
            if got < wanted {
                break;
            }
        }
        Ok(tags)
    }

    /// Stops consuming and closes the channel: what is not acknowledged goes back to the queue, and the next one can
    /// consume it.
    pub async fn release(self) {
        let action = self.action("close a channel", "read");
        let closing = self.channel.close(200, "OK".into());
        // A channel that cannot be closed is gone already, which is as good.
        if let Err(error) = self.broker.answer(action, During::AlarmFail, closing).await {
            debug!(%error, queue = self.queue, "the refill channel was not closed in order");
        }
        if let Some(holder) = &self.holder
            && let Err(error) = self.broker.delete_queue(holder, DeleteIf::Always).await
        {
            debug!(%error, queue = holder, "it goes with the connection");
        }
    }
}

impl Drop for RefillChannel {
    fn drop(&mut self) {
        self.broker.fences().end(&self.queue);
    }
}

fn closed() -> lapin::Error {
    lapin::ErrorKind::InvalidChannelState(lapin::ChannelState::Closed, "refill channel").into()
}

/// Publishes messages that move. They are as large as somebody made them, so the client library cuts them to frames. It
/// takes them all when their futures are polled first; awaiting each in turn would be slower.
async fn forward(channel: &Channel, forwards: Vec<(ShortString, Forward)>) -> lapin::Result<()> {
    let publications = forwards.into_iter().map(async |(queue, forward)| {
        let (exchange, options) = (ShortString::default(), BasicPublishOptions::default());
        channel
            .basic_publish(exchange, queue, options, &forward.body, forward.properties)
            .await
            .map(drop)
    });
    try_join_all(publications).await.map(drop)
}

/// Everything else of a transaction.
fn encode(channel: &Channel, transaction: Transaction) -> Result<Frames, BrokerError> {
    let Transaction {
        tokens,
        ledgers,
        forwards: _,
        acks,
    } = transaction;
    let mut frames = Frames::new(channel);
    for tag in acks {
        frames.acknowledge(tag)?;
    }
    for (queue, times) in tokens {
        frames.publish(wire::name(&queue)?, wire::persistent(), b"", times)?;
    }
    for (queue, ledger) in ledgers {
        let body = serde_json::to_vec(&ledger).map_err(|error| BrokerError::Protocol {
            message: format!("the ledger cannot be written: {error}"),
        })?;
        let properties = wire::persistent().with_content_type("application/json".into());
        frames.publish(wire::name(&queue)?, properties, &body, 1)?;
    }
    Ok(frames)
}

impl fmt::Debug for RefillChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefillChannel")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
