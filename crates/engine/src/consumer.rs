//! The consumer of one refill queue: hands over what comes, and settles what was dealt with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use amqp::{Broker, BrokerError, DeleteIf, Deleted, Delivery, RefillConsumer};
use bucket::machine::{ConsumerId, Delivered, Event, Move};
use bucket::{QueueType, parked_queue_name};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// Requests that may be unacknowledged at one time.
const MOST_REQUESTS: u16 = 2_000;

/// How often a queue that is left is tried to be deleted, and the pause between two tries.
const TRIES: usize = 6;
const PAUSE: Duration = Duration::from_millis(100);

/// What a consumer is to do.
pub(crate) enum Order {
    /// Acknowledge and move.
    Settle { acks: Vec<u64>, moves: Vec<Move> },
    /// Hand over what waits.
    Drain,
    /// Stop consuming; the queue may not be needed any more.
    Release { delete: bool },
}

/// What is to be consumed.
pub(crate) struct Consuming {
    pub(crate) queue: Arc<str>,
    pub(crate) kind: QueueType,
    /// Only while there is nothing in it.
    pub(crate) if_empty: bool,
}

struct Consumer {
    id: ConsumerId,
    consumer: RefillConsumer,
    /// What was handed over and not settled.
    deliveries: HashMap<u64, Delivery>,
    events: mpsc::UnboundedSender<Event>,
}

/// Runs until it is released, nobody gives orders any more, or there is a failure; says which.
pub(crate) async fn run(
    broker: Arc<Broker>,
    consuming: Consuming,
    id: ConsumerId,
    mut orders: mpsc::UnboundedReceiver<Order>,
    events: mpsc::UnboundedSender<Event>,
) -> Event {
    let Consuming {
        queue,
        kind,
        if_empty,
    } = consuming;
    let ended = |error: BrokerError| {
        warn!(refill_queue = %queue, %error, "refill queue is not available");
        Event::ConsumerEnded {
            consumer: id,
            failure: Some(error.failure()),
        }
    };
    let consuming = async {
        if if_empty && broker.count(&queue).await?.is_some_and(|count| count > 0) {
            return Err(BrokerError::NotEmpty {
                queue: queue.to_string(),
            });
        }
        broker.consume(&queue, kind, MOST_REQUESTS).await
    };
    let consumer = match consuming.await {
        Ok(consumer) => consumer,
        Err(error) => return ended(error),
    };
    info!(refill_queue = %queue, "refill queue is ours");
    let mut this = Consumer {
        id,
        consumer,
        deliveries: HashMap::new(),
        events,
    };
    let _ = this.events.send(Event::Consuming(id));
    let delete_it = match this.serve(&mut orders).await {
        Ok(delete_it) => delete_it,
        Err(error) => return ended(error),
    };
    let delete_it = delete_it && this.consumer.is_ours();
    this.consumer.release().await;
    if delete_it && let Err(error) = delete_after(&broker, &queue).await {
        warn!(refill_queue = %queue, %error, "unused refill queue not deleted");
    }
    Event::ConsumerEnded {
        consumer: id,
        failure: None,
    }
}

impl Consumer {
    /// Until it is to be released. Answers whether the queue is not needed any more.
    async fn serve(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Result<bool, BrokerError> {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return Ok(false),
                    Some(Order::Release { delete }) => return Ok(delete),
                    Some(Order::Settle { acks, moves }) => self.settle(acks, moves).await?,
                    Some(Order::Drain) => self.drain().await?,
                },
                deliveries = self.consumer.next(MOST_REQUESTS.into()) => self.hand_over(deliveries?),
            }
        }
    }

    fn hand_over(&mut self, deliveries: Vec<Delivery>) {
        if deliveries.is_empty() {
            return;
        }
        let delivered = |delivery: &Delivery| Delivered {
            tag: delivery.tag,
            request: delivery.request.clone(),
            window: delivery.window,
        };
        let consumer = self.id;
        let event = Event::Delivered {
            consumer,
            deliveries: deliveries.iter().map(delivered).collect(),
        };
        let tagged = deliveries.into_iter().map(|it| (it.tag, it));
        self.deliveries.extend(tagged);
        let _ = self.events.send(event);
    }

    async fn settle(&mut self, mut acks: Vec<u64>, moves: Vec<Move>) -> Result<(), BrokerError> {
        for tag in &acks {
            self.deliveries.remove(tag);
        }
        let mut forwards = Vec::new();
        for Move { tag, to, reason } in moves {
            let delivery = self.deliveries.remove(&tag);
            forwards.extend(delivery.map(|delivery| delivery.forward(&to, reason.as_deref())));
            acks.push(tag);
        }
        self.consumer.settle(acks, forwards).await?;
        let _ = self.events.send(Event::Settled(self.id));
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), BrokerError> {
        let waiting = self.consumer.waiting().await?;
        let deliveries = self.consumer.ready(MOST_REQUESTS.into())?;
        let empty = waiting == 0 && deliveries.is_empty();
        self.hand_over(deliveries);
        let consumer = self.id;
        let _ = self.events.send(Event::Drained { consumer, empty });
        Ok(())
    }
}

/// Deletes a refill queue that we have just consumed: a quorum queue has its last consumer for a moment longer.
async fn delete_after(broker: &Broker, queue: &str) -> Result<(), BrokerError> {
    for _ in 1..TRIES {
        if delete(broker, queue).await? {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    delete(broker, queue).await.map(drop)
}

/// Deletes a refill queue that is not needed any more. What is not empty, or consumed by somebody else, stays; parked
/// requests are for a person to look at. Answers whether it is gone.
pub(crate) async fn delete(broker: &Broker, queue: &str) -> Result<bool, BrokerError> {
    if let Deleted::Kept(reason) = broker.delete_queue(queue, DeleteIf::EmptyAndUnused).await? {
        debug!(refill_queue = queue, reason, "refill queue kept");
        return Ok(false);
    }
    broker
        .delete_queue(&parked_queue_name(queue), DeleteIf::Empty)
        .await?;
    Ok(true)
}
