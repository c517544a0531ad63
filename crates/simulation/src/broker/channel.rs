//! What clients do on a channel, apart from its transactions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::queue::{Queue, Stored};
use super::transaction::Publish;
use super::{Arguments, Broker, ChannelId, ConnectionId, Entry, Refused};

/// A message that was got or delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got<M> {
    /// What to acknowledge it by.
    pub tag: u64,
    /// How often it was given back before, in a quorum queue.
    pub deliveries: u32,
    /// Contents.
    pub body: M,
}

#[derive(Clone, Debug)]
pub(super) struct Held<M> {
    pub(super) queue: Arc<str>,
    pub(super) incarnation: u32,
    pub(super) stored: Stored<M>,
}

#[derive(Clone, Debug)]
pub(super) struct Channel<M> {
    pub(super) connection: ConnectionId,
    pub(super) transactional: bool,
    pub(super) unacked: BTreeMap<u64, Held<M>>,
    last_tag: u64,
    pub(super) publishes: Vec<Publish<M>>,
    /// Tags, and whether they are acknowledged or given back.
    pub(super) settled: Vec<(u64, bool)>,
}

impl<M: Clone> Broker<M> {
    /// Opens a channel; in a transactional one, what is published and settled waits for the commit.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn open(
        &mut self,
        connection: ConnectionId,
        transactional: bool,
    ) -> Result<ChannelId, Refused> {
        if !self.connected(connection) {
            return Err(Refused::Gone);
        }
        let id = ChannelId(self.id());
        let channel = Channel {
            connection,
            transactional,
            unacked: BTreeMap::new(),
            last_tag: 0,
            publishes: Vec::new(),
            settled: Vec::new(),
        };
        self.channels.insert(id, channel);
        Ok(id)
    }

    /// The channel ends: what it holds goes back, what was not committed never was.
    pub fn close(&mut self, channel: ChannelId) {
        let Some(closed) = self.channels.remove(&channel) else {
            return;
        };
        let mut cancelled = Vec::new();
        for (name, queue) in &mut self.queues {
            let before = queue.consumers.len();
            queue.consumers.retain(|(consumer, _)| *consumer != channel);
            if queue.consumers.len() < before {
                cancelled.push(name.clone());
            }
        }
        for name in cancelled {
            self.note(Entry::Cancelled(name));
        }
        for held in closed.unacked.into_values() {
            self.requeue(&held.queue, held.incarnation, held.stored);
        }
    }

    /// Whether the channel can be used.
    #[must_use]
    pub fn is_open(&self, channel: ChannelId) -> bool {
        self.channels.contains_key(&channel)
    }

    pub(super) fn channel(&mut self, id: ChannelId) -> Result<&mut Channel<M>, Refused> {
        let channel = self.channels.get_mut(&id).ok_or(Refused::Gone)?;
        match self.connections.get(&channel.connection) {
            None => Err(Refused::Gone),
            Some(true) => Err(Refused::Stalled),
            Some(false) => Ok(channel),
        }
    }

    pub(super) fn refuse<T>(&mut self, channel: ChannelId, why: Refused) -> Result<T, Refused> {
        self.close(channel);
        Err(why)
    }

    /// The queue, if this channel may use it.
    fn queue(&mut self, channel: ChannelId, name: &str) -> Result<Arc<str>, Refused> {
        let connection = self.channel(channel)?.connection;
        match self.queues.get_key_value(name) {
            None => self.refuse(channel, Refused::NotFound),
            Some((_, queue)) if queue.owner.is_some_and(|owner| owner != connection) => {
                self.refuse(channel, Refused::Locked)
            }
            Some((name, _)) => Ok(name.clone()),
        }
    }

    /// Declares a durable queue, or an exclusive one; answers its ready messages.
    ///
    /// # Errors
    /// When it is there with other arguments, or belongs to another connection.
    pub fn declare(
        &mut self,
        channel: ChannelId,
        name: &str,
        arguments: Arguments,
        exclusive: bool,
    ) -> Result<u64, Refused> {
        let connection = self.channel(channel)?.connection;
        let owner = exclusive.then_some(connection);
        let Some(queue) = self.queues.get(name) else {
            let incarnation = self.id();
            let name: Arc<str> = name.into();
            let queue = Queue::new(arguments, owner, incarnation);
            self.queues.insert(name.clone(), queue);
            self.note(Entry::Declared(name, arguments.max_length));
            return Ok(0);
        };
        if queue.owner.is_some_and(|owner| owner != connection) {
            self.refuse(channel, Refused::Locked)
        } else if queue.owner.is_some() != exclusive || queue.arguments != arguments {
            self.refuse(channel, Refused::Precondition)
        } else {
            Ok(queue.ready.len() as u64)
        }
    }

    /// Ready messages, by a passive declare.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn count(&mut self, channel: ChannelId, name: &str) -> Result<u64, Refused> {
        let name = self.queue(channel, name)?;
        Ok(self.ready(&name).unwrap_or_default())
    }

    /// Gets the first ready message.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn get(
        &mut self,
        channel: ChannelId,
        name: &str,
        no_ack: bool,
    ) -> Result<Option<Got<M>>, Refused> {
        let name = self.queue(channel, name)?;
        let Some(queue) = self.queues.get_mut(&name) else {
            return Ok(None);
        };
        let incarnation = queue.incarnation;
        // Whoever consumes it is handed everything at once.
        if queue
            .consumers
            .first()
            .is_some_and(|(consumer, _)| *consumer != channel)
        {
            return Ok(None);
        }
        let Some(stored) = queue.ready.pop_front() else {
            return Ok(None);
        };
        let channel = self.channel(channel)?;
        channel.last_tag += 1;
        let got = Got {
            tag: channel.last_tag,
            deliveries: stored.deliveries,
            body: stored.body.clone(),
        };
        if no_ack {
            self.note(Entry::Taken(name, stored.body));
        } else {
            let held = Held {
                queue: name.clone(),
                incarnation,
                stored,
            };
            channel.unacked.insert(got.tag, held);
            self.note(Entry::Got(name));
        }
        Ok(Some(got))
    }

    /// Begins to consume a queue; [`Broker::deliver`] hands over its messages.
    ///
    /// # Errors
    /// When there is no such queue, or when it is consumed already and one of the two wants to be alone.
    pub fn consume(
        &mut self,
        channel: ChannelId,
        name: &str,
        exclusive: bool,
    ) -> Result<(), Refused> {
        let name = self.queue(channel, name)?;
        let Some(queue) = self.queues.get_mut(&name) else {
            return Err(Refused::NotFound);
        };
        let alone = !queue.arguments.quorum
            && (exclusive || queue.consumers.iter().any(|(_, exclusive)| *exclusive));
        if alone && !queue.consumers.is_empty() {
            return self.refuse(channel, Refused::InUse);
        }
        queue.consumers.push((channel, exclusive));
        Ok(())
    }

    /// Whether the channel consumes the queue. A consumer ends with its queue.
    #[must_use]
    pub fn consumes(&self, channel: ChannelId, name: &str) -> bool {
        let queue = self.queues.get(name);
        queue.is_some_and(|queue| queue.consumers.iter().any(|(id, _)| *id == channel))
    }

    /// The next message for a consumer, if there is one.
    ///
    /// # Errors
    /// When there is no such consumer any more.
    pub fn deliver(&mut self, channel: ChannelId, name: &str) -> Result<Option<Got<M>>, Refused> {
        self.channel(channel)?;
        if !self.consumes(channel, name) {
            return Err(Refused::NotFound);
        }
        // Of several consumers one is active: the first.
        let active = self
            .queues
            .get(name)
            .and_then(|queue| queue.consumers.first());
        if active.is_some_and(|(active, _)| *active != channel) {
            return Ok(None);
        }
        self.get(channel, name, false)
    }

    /// Deletes a queue and answers how many ready messages went with it; none when there is no such queue.
    ///
    /// # Errors
    /// With `if_idle`, when there is something in it or somebody consumes it.
    pub fn delete(
        &mut self,
        channel: ChannelId,
        name: &str,
        if_idle: bool,
    ) -> Result<u64, Refused> {
        self.channel(channel)?;
        let Some(name) = self.name(name) else {
            return Ok(0);
        };
        self.queue(channel, &name)?;
        let idle = |queue: &Queue<M>| queue.ready.is_empty() && queue.consumers.is_empty();
        if if_idle && !self.queues.get(&name).is_some_and(idle) {
            return self.refuse(channel, Refused::Precondition);
        }
        Ok(self.remove(&name).unwrap_or_default())
    }

    /// Removes the ready messages of a queue and answers how many there were.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn purge(&mut self, channel: ChannelId, name: &str) -> Result<u64, Refused> {
        let name = self.queue(channel, name)?;
        Ok(self.empty(&name).unwrap_or_default())
    }
}
