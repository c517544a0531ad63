//! Scripts of what clients do at a broker and what they see. They are run on the broker in memory, and by an integration
//! test on real ones.

mod scripts;

use std::collections::HashMap;

use crate::broker::{Arguments, Broker, ChannelId, ConnectionId, Refused};

pub use scripts::scripts;

/// Something that a client does. Connections and channels are named by the script; a message is known by its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opens a connection.
    Connect(&'static str),
    /// Ends a connection.
    Disconnect(&'static str),
    /// Opens a channel of a connection.
    Open(&'static str, &'static str),
    /// The same, transactional.
    OpenTx(&'static str, &'static str),
    /// Closes a channel.
    Close(&'static str),
    /// Declares a durable queue.
    Declare(&'static str, &'static str, Arguments),
    /// Declares an exclusive queue.
    Lock(&'static str, &'static str),
    /// Counts by a passive declare.
    Count(&'static str, &'static str),
    /// Gets a message, which has to be acknowledged.
    Get(&'static str, &'static str),
    /// Publishes a persistent message.
    Publish(&'static str, &'static str, &'static str),
    /// The same, `mandatory`.
    PublishMandatory(&'static str, &'static str, &'static str),
    /// Acknowledges a message.
    Ack(&'static str, &'static str),
    /// Gives a message back.
    Nack(&'static str, &'static str),
    /// Commits.
    Commit(&'static str),
    /// Consumes exclusively.
    Consume(&'static str, &'static str),
    /// Looks at what a consumer was handed.
    Deliver(&'static str, &'static str),
    /// Deletes a queue.
    Delete(&'static str, &'static str),
    /// Purges a queue.
    Purge(&'static str, &'static str),
}

/// What is seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is done.
    Done,
    /// A number of messages.
    Number(u64),
    /// A message.
    Message(String),
    /// There was no message.
    Nothing,
    /// Messages that came back.
    Returned(Vec<String>),
    /// The channel is closed with this code.
    Refused(u16),
}

/// A script.
#[derive(Clone, Debug)]
pub struct Script {
    /// What it shows.
    pub name: &'static str,
    /// What is done, and what has to be seen.
    pub steps: Vec<(Op, Seen)>,
    /// It needs a broker that has a delivery limit.
    pub delivery_limit: bool,
}

/// Carries out scripts on the broker in memory.
#[derive(Debug)]
pub struct InMemory {
    broker: Broker<&'static str>,
    connections: HashMap<&'static str, ConnectionId>,
    channels: HashMap<&'static str, ChannelId>,
    tags: HashMap<(&'static str, &'static str), u64>,
}

impl InMemory {
    /// An empty broker.
    #[must_use]
    pub fn new(delivery_limit: Option<u32>) -> Self {
        Self {
            broker: Broker::new(delivery_limit),
            connections: HashMap::new(),
            channels: HashMap::new(),
            tags: HashMap::new(),
        }
    }

    /// Does one thing.
    pub fn step(&mut self, op: Op) -> Seen {
        self.carry_out(op).unwrap_or_else(|refused| match refused {
            Refused::NotFound => Seen::Refused(404),
            Refused::Locked => Seen::Refused(405),
            Refused::InUse => Seen::Refused(403),
            Refused::Precondition | Refused::Partial => Seen::Refused(406),
            Refused::Gone | Refused::Stalled => Seen::Refused(504),
        })
    }

    fn carry_out(&mut self, op: Op) -> Result<Seen, Refused> {
        let gone = Refused::Gone;
        let channel = |name| self.channels.get(name).copied().ok_or(gone);
        let tag = |channel, text| self.tags.get(&(channel, text)).copied().ok_or(gone);
        let broker = &mut self.broker;
        let seen = match op {
            Op::Connect(name) => {
                self.connections.insert(name, broker.connect());
                Seen::Done
            }
            Op::Disconnect(name) => {
                broker.disconnect(self.connections.remove(name).ok_or(gone)?);
                Seen::Done
            }
            Op::Open(name, connection) | Op::OpenTx(name, connection) => {
                let connection = *self.connections.get(connection).ok_or(gone)?;
                let opened = broker.open(connection, matches!(op, Op::OpenTx(..)))?;
                self.channels.insert(name, opened);
                Seen::Done
            }
            Op::Close(name) => {
                broker.close(channel(name)?);
                Seen::Done
            }
            Op::Declare(on, queue, arguments) => {
                Seen::Number(broker.declare(channel(on)?, queue, arguments, false)?)
            }
            Op::Lock(on, queue) => {
                Seen::Number(broker.declare(channel(on)?, queue, Arguments::default(), true)?)
            }
            Op::Count(on, queue) => Seen::Number(broker.count(channel(on)?, queue)?),
            Op::Get(on, queue) => match broker.get(channel(on)?, queue, false)? {
                None => Seen::Nothing,
                Some(got) => {
                    self.tags.insert((on, got.body), got.tag);
                    Seen::Message(got.body.into())
                }
            },
            Op::Publish(on, queue, text) | Op::PublishMandatory(on, queue, text) => {
                let mandatory = matches!(op, Op::PublishMandatory(..));
                broker.publish(channel(on)?, queue, text, mandatory)?;
                Seen::Done
            }
            Op::Ack(on, text) | Op::Nack(on, text) => {
                broker.settle(channel(on)?, tag(on, text)?, matches!(op, Op::Ack(..)))?;
                Seen::Done
            }
            Op::Commit(on) => {
                let returned = broker.commit(channel(on)?)?;
                Seen::Returned(returned.into_iter().map(Into::into).collect())
            }
            Op::Consume(on, queue) => {
                broker.consume(channel(on)?, queue, true)?;
                Seen::Done
            }
            Op::Deliver(on, queue) => match broker.deliver(channel(on)?, queue)? {
                None => Seen::Nothing,
                Some(got) => Seen::Message(got.body.into()),
            },
            Op::Delete(on, queue) => Seen::Number(broker.delete(channel(on)?, queue, false)?),
            Op::Purge(on, queue) => Seen::Number(broker.purge(channel(on)?, queue)?),
        };
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_in_memory_does_what_the_scripts_say() {
        for script in scripts(false).into_iter().chain(scripts(true)) {
            let mut broker = InMemory::new(Some(20));
            for (number, (op, expected)) in script.steps.iter().enumerate() {
                let seen = broker.step(*op);
                assert_eq!(seen, *expected, "{}: step {number}, {op:?}", script.name);
            }
        }
    }

    #[test]
    fn without_a_delivery_limit_a_message_stays() {
        let script = scripts(true)
            .into_iter()
            .find(|script| script.delivery_limit);
        let mut steps = script.unwrap().steps;
        let (last, _) = steps.pop().unwrap();
        let mut broker = InMemory::new(None);
        for (op, expected) in steps {
            assert_eq!(broker.step(op), expected);
        }
        assert_eq!(broker.step(last), Seen::Message("1".into()));
    }
}
