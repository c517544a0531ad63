//! What is published and settled on a channel: at once, or in a transaction.

use std::sync::Arc;

use super::{Broker, ChannelId, Entry, Refused};

/// What became of a message that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in the queue.
    Routed,
    /// There is no such queue.
    Unroutable,
    /// A policy makes the full queue refuse it.
    Rejected,
    /// It waits for the commit.
    Buffered,
}

#[derive(Clone, Debug)]
pub(super) struct Publish<M> {
    queue: Arc<str>,
    body: M,
    mandatory: bool,
}

impl<M: Clone> Broker<M> {
    /// Publishes through the default exchange.
    ///
    /// # Errors
    /// When the channel is gone, or stalls.
    pub fn publish(
        &mut self,
        channel: ChannelId,
        queue: &str,
        body: M,
        mandatory: bool,
    ) -> Result<Published, Refused> {
        let alarm = self.alarm;
        let open = self.channel(channel)?;
        if alarm {
            let connection = open.connection;
            self.connections.insert(connection, true);
            return Err(Refused::Stalled);
        }
        if open.transactional {
            let queue = queue.into();
            open.publishes.push(Publish {
                queue,
                body,
                mandatory,
            });
            return Ok(Published::Buffered);
        }
        Ok(self.enqueue(queue, body))
    }

    /// Acknowledges a message, or gives it back: at the commit if the channel is transactional.
    ///
    /// # Errors
    /// When the channel does not hold it.
    pub fn settle(&mut self, channel: ChannelId, tag: u64, ack: bool) -> Result<(), Refused> {
        let open = self.channel(channel)?;
        let known = open.unacked.contains_key(&tag)
            && !open.settled.iter().any(|(settled, _)| *settled == tag);
        if !known {
            return self.refuse(channel, Refused::Precondition);
        }
        if open.transactional {
            open.settled.push((tag, ack));
        } else {
            self.settle_now(channel, tag, ack);
        }
        Ok(())
    }

    fn settle_now(&mut self, channel: ChannelId, tag: u64, ack: bool) {
        let channel = self.channels.get_mut(&channel);
        let Some(held) = channel.and_then(|channel| channel.unacked.remove(&tag)) else {
            return;
        };
        if ack {
            self.note(Entry::Taken(held.queue, held.stored.body));
        } else {
            self.requeue(&held.queue, held.incarnation, held.stored);
        }
    }

    /// Commits: first what is published, then what is settled. Answers the mandatory messages that no queue took.
    ///
    /// # Errors
    /// When the channel is gone, or when a queue refused a message; all the rest is applied then.
    pub fn commit(&mut self, channel: ChannelId) -> Result<Vec<M>, Refused> {
        self.commit_where(channel, |_| true)
    }

    /// As much of a commit as a dying broker has done: what concerns the queues that it got to.
    ///
    /// # Errors
    /// As [`Broker::commit`].
    pub fn commit_where(
        &mut self,
        channel: ChannelId,
        mut done: impl FnMut(&str) -> bool,
    ) -> Result<Vec<M>, Refused> {
        let open = self.channel(channel)?;
        let publishes = std::mem::take(&mut open.publishes);
        let settled = std::mem::take(&mut open.settled);
        let (mut returned, mut rejected) = (Vec::new(), false);
        for publish in publishes {
            if !done(&publish.queue) {
                continue;
            }
            let body = publish.mandatory.then(|| publish.body.clone());
            match self.enqueue(&publish.queue, publish.body) {
                Published::Unroutable => returned.extend(body),
                // A quorum queue refuses silently.
                Published::Rejected => {
                    rejected |= self
                        .arguments(&publish.queue)
                        .is_some_and(|arguments| !arguments.quorum);
                }
                Published::Routed | Published::Buffered => {}
            }
        }
        for (tag, ack) in settled {
            let queue = self.channels.get(&channel);
            let queue = queue.and_then(|channel| channel.unacked.get(&tag));
            if queue.is_some_and(|held| done(&held.queue)) {
                self.settle_now(channel, tag, ack);
            }
        }
        self.note(Entry::Committed(channel));
        if rejected {
            return self.refuse(channel, Refused::Partial);
        }
        Ok(returned)
    }
}
