//! A broker in memory: as much of RabbitMQ as refills depend on, and no more. Time does not pass in it; what takes time
//! (a dead connection that is noticed late, messages that expire) is somebody else's call. The conformance scripts hold
//! it against real ones.

mod channel;
mod queue;
mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use channel::Got;
pub use queue::{Arguments, Policy};
pub use transaction::Published;

use channel::Channel;
use queue::{Queue, Stored};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);
    };
}

id!(
    /// A connection, as the broker sees it.
    ConnectionId
);
id!(
    /// A channel of a connection.
    ChannelId
);

/// Why the broker does not do something. All of these but `Stalled` close the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// 404: there is no such queue.
    NotFound,
    /// 406: the queue has other arguments, is in use, or a tag is unknown.
    Precondition,
    /// 405: the queue belongs to another connection.
    Locked,
    /// 403: somebody else consumes the queue.
    InUse,
    /// 406 after a commit of which a queue refused a part.
    Partial,
    /// The channel or its connection is gone.
    Gone,
    /// Nothing is read from this connection while the alarm is in force: try again.
    Stalled,
}

/// What has happened to a message, in the order in which it did. Accountants read it.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry<M> {
    /// It was put into a queue.
    Published(Arc<str>, M),
    /// It went to a queue that does not exist.
    Unroutable(Arc<str>, M),
    /// It was taken for good, by an acknowledgement or without one.
    Taken(Arc<str>, M),
    /// It is held by a channel.
    Got(Arc<str>),
    /// It was given back.
    Requeued(Arc<str>, M),
    /// A limit of the queue removed it.
    Dropped(Arc<str>, M),
    /// It was given back too often.
    Exhausted(Arc<str>, M),
    /// The queue refused it.
    Rejected(Arc<str>, M),
    /// It went with its queue, or was purged or expired.
    Removed(Arc<str>, M),
    /// What stood before belongs to one transaction.
    Committed(ChannelId),
    /// The queue is there anew, with this limit.
    Declared(Arc<str>, Option<u64>),
    /// The queue is gone.
    Deleted(Arc<str>),
    /// A consumer of the queue is gone: another one may be active now.
    Cancelled(Arc<str>),
}

/// The broker.
#[derive(Clone, Debug)]
pub struct Broker<M> {
    queues: BTreeMap<Arc<str>, Queue<M>>,
    channels: BTreeMap<ChannelId, Channel<M>>,
    /// Each with whether it has published during the alarm.
    connections: BTreeMap<ConnectionId, bool>,
    next: u32,
    alarm: bool,
    /// How often a message of a quorum queue is given back before it is removed.
    delivery_limit: Option<u32>,
    /// What has happened since somebody emptied it.
    pub journal: Vec<Entry<M>>,
    keep_journal: bool,
}

impl<M: Clone> Broker<M> {
    /// An empty broker: RabbitMQ 4 has a delivery limit of 20, 3.10 has none.
    #[must_use]
    pub fn new(delivery_limit: Option<u32>) -> Self {
        Self {
            queues: BTreeMap::new(),
            channels: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 0,
            alarm: false,
            delivery_limit,
            journal: Vec::new(),
            keep_journal: false,
        }
    }

    /// The same broker, which writes down what happens.
    #[must_use]
    pub fn with_journal(self) -> Self {
        Self {
            keep_journal: true,
            ..self
        }
    }

    fn id(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn note(&mut self, entry: Entry<M>) {
        if self.keep_journal {
            self.journal.push(entry);
        }
    }

    /// A new connection.
    pub fn connect(&mut self) -> ConnectionId {
        let id = ConnectionId(self.id());
        self.connections.insert(id, false);
        id
    }

    /// Whether the broker still has this connection.
    #[must_use]
    pub fn connected(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    /// The connection ends, or its end is noticed: what its channels hold goes back, its exclusive queues go.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        let of_it = |(id, channel): (&ChannelId, &Channel<M>)| {
            (channel.connection == connection).then_some(*id)
        };
        let channels: Vec<_> = self.channels.iter().filter_map(of_it).collect();
        for channel in channels {
            self.close(channel);
        }
        let exclusive: Vec<_> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.owner == Some(connection))
            .map(|(name, _)| name.clone())
            .collect();
        for name in exclusive {
            self.remove(&name);
        }
        self.connections.remove(&connection);
    }

    /// All connections end, as when the broker starts anew. Durable queues and persistent messages stay.
    pub fn restart(&mut self) {
        let connections: Vec<_> = self.connections.keys().copied().collect();
        for connection in connections {
            self.disconnect(connection);
        }
    }

    /// A resource alarm begins or ends.
    pub fn set_alarm(&mut self, alarm: bool) {
        self.alarm = alarm;
        self.connections
            .values_mut()
            .for_each(|stalled| *stalled = false);
    }

    /// Whether there is an alarm.
    #[must_use]
    pub fn alarm(&self) -> bool {
        self.alarm
    }

    /// Ready messages of a queue, as an administrator sees them; None when there is none.
    #[must_use]
    pub fn ready(&self, queue: &str) -> Option<u64> {
        self.queues.get(queue).map(|queue| queue.ready.len() as u64)
    }

    /// The ready messages themselves.
    pub fn messages<'a>(&'a self, queue: &str) -> impl Iterator<Item = &'a M> {
        let queue = self.queues.get(queue);
        queue
            .into_iter()
            .flat_map(|queue| queue.ready.iter().map(|stored| &stored.body))
    }

    /// What a queue was declared with.
    #[must_use]
    pub fn arguments(&self, queue: &str) -> Option<Arguments> {
        self.queues.get(queue).map(|queue| queue.arguments)
    }

    /// Whether a queue is there for everybody, and stays.
    #[must_use]
    pub fn is_durable(&self, queue: &str) -> bool {
        let queue = self.queues.get(queue);
        queue.is_some_and(|queue| queue.owner.is_none())
    }

    /// How many messages of a queue channels hold.
    #[must_use]
    pub fn held(&self, queue: &str) -> usize {
        let Some(incarnation) = self.queues.get(queue).map(|queue| queue.incarnation) else {
            return 0;
        };
        let channels = self.channels.values();
        channels
            .flat_map(|channel| channel.unacked.values())
            .filter(|held| held.incarnation == incarnation)
            .count()
    }

    /// The connection of a channel.
    #[must_use]
    pub fn connection_of(&self, channel: ChannelId) -> Option<ConnectionId> {
        self.channels
            .get(&channel)
            .map(|channel| channel.connection)
    }

    /// How many messages a channel holds.
    #[must_use]
    pub fn unacked(&self, channel: ChannelId) -> usize {
        let channel = self.channels.get(&channel);
        channel.map_or(0, |channel| channel.unacked.len())
    }

    /// An administrator deletes a queue.
    pub fn remove(&mut self, name: &str) -> Option<u64> {
        let (name, queue) = self.queues.remove_entry(name)?;
        let count = queue.ready.len() as u64;
        for stored in queue.ready {
            self.note(Entry::Removed(name.clone(), stored.body));
        }
        self.note(Entry::Deleted(name));
        Some(count)
    }

    /// Ready messages go, by a purge or because they have expired; what is held stays.
    pub fn empty(&mut self, name: &str) -> Option<u64> {
        let name = self.name(name)?;
        let gone = std::mem::take(&mut self.queues.get_mut(&name)?.ready);
        let count = gone.len() as u64;
        for stored in gone {
            self.note(Entry::Removed(name.clone(), stored.body));
        }
        Some(count)
    }

    /// Somebody takes the first message, as workers do. Answers whether there was one.
    pub fn take_one(&mut self, name: &str) -> bool {
        let Some(name) = self.name(name) else {
            return false;
        };
        let first = self
            .queues
            .get_mut(&name)
            .and_then(|queue| queue.ready.pop_front());
        let Some(stored) = first else { return false };
        self.note(Entry::Taken(name, stored.body));
        true
    }

    /// A policy applies to a queue from now on.
    pub fn set_policy(&mut self, name: &str, policy: Policy) {
        let Some(name) = self.name(name) else { return };
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.policy = policy;
        }
        self.trim(&name);
    }

    /// Somebody without a channel of interest puts a message into a queue.
    pub fn put(&mut self, name: &str, body: M) -> Published {
        self.enqueue(name, body)
    }

    fn name(&self, name: &str) -> Option<Arc<str>> {
        self.queues
            .get_key_value(name)
            .map(|(name, _)| name.clone())
    }

    fn enqueue(&mut self, name: &str, body: M) -> Published {
        let Some(name) = self.name(name) else {
            self.note(Entry::Unroutable(name.into(), body));
            return Published::Unroutable;
        };
        let Some(queue) = self.queues.get_mut(&name) else {
            return Published::Unroutable;
        };
        if queue.policy.reject_publish && queue.is_full() {
            self.note(Entry::Rejected(name, body));
            return Published::Rejected;
        }
        queue.push(body.clone());
        self.note(Entry::Published(name.clone(), body));
        self.trim(&name);
        Published::Routed
    }

    fn requeue(&mut self, name: &Arc<str>, incarnation: u32, mut stored: Stored<M>) {
        let limit = self.delivery_limit;
        let Some(queue) = self
            .queues
            .get_mut(name)
            .filter(|queue| queue.incarnation == incarnation)
        else {
            self.note(Entry::Removed(name.clone(), stored.body));
            return;
        };
        if queue.arguments.quorum {
            stored.deliveries += 1;
            if limit.is_some_and(|limit| stored.deliveries > limit) {
                self.note(Entry::Exhausted(name.clone(), stored.body));
                return;
            }
        }
        let body = stored.body.clone();
        queue.give_back(stored);
        self.note(Entry::Requeued(name.clone(), body));
        self.trim(name);
    }

    fn trim(&mut self, name: &Arc<str>) {
        while let Some(dropped) = self.queues.get_mut(name).and_then(Queue::overflow) {
            self.note(Entry::Dropped(name.clone(), dropped.body));
        }
    }
}
