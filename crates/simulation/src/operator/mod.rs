//! The shell of a simulated operator: carries out the effects of the machine at the broker in memory, one primitive step
//! of one effect at a time. Whoever calls decides which effect goes on when, and what is lost.

mod ledgers;
mod removal;
mod steps;
mod take;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bucket::machine::{BatchId, Class, ConsumerId, Delivered, Event, Failure};
use bucket::{Ledger, RefillRequest, Rejection, Window};

use crate::broker::{Arguments, Broker, ChannelId, ConnectionId, Got, Refused};

pub use work::{Progress, Work};

/// Contents of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A token.
    Token,
    /// A ledger.
    Ledger(Arc<Ledger>),
    /// A refill request.
    Request(Arc<RefillRequest>),
    /// Something that nobody understands.
    Garbage,
}

/// What is wrong with an operator on purpose, so that the accountant has to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A bucket is counted before its ledger is got.
    CountsFirst,
    /// A ledger is written and the one before it not acknowledged.
    KeepsOldLedger,
    /// The tick of a ledger counts as not carried out yet.
    RepeatsTick,
    /// What is owed is not written down.
    ForgetsOwed,
    /// A ledger that was lost is written anew with an older tick.
    ForgetsTicks,
}

/// One connection of an operator, as the operator sees it.
#[derive(Clone, Debug)]
pub struct Shell {
    pub(crate) connection: ConnectionId,
    pub(crate) consumers: BTreeMap<ConsumerId, (ChannelId, Arc<str>)>,
    batches: BTreeMap<BatchId, Batch>,
    /// Transaction channels between two batches.
    free: Vec<ChannelId>,
    publisher: Option<ChannelId>,
    /// Buckets whose ledgers are being written: the connection's own lock does not keep it out.
    writing: BTreeSet<Arc<str>>,
    pub(crate) mutant: Option<Mutant>,
    /// Refill queues are quorum queues, of which one consumer is active.
    single_active: bool,
    /// Something that no shell has to put up with.
    pub(crate) complaint: Option<String>,
    /// Ready tokens that went with queues that were replaced.
    pub(crate) replaced: Vec<(Arc<str>, u64)>,
}

#[derive(Clone, Debug)]
struct Batch {
    channel: ChannelId,
    ledgers: Vec<u64>,
}

impl Shell {
    /// A new connection.
    pub fn new(connection: ConnectionId, mutant: Option<Mutant>, single_active: bool) -> Self {
        Self {
            connection,
            consumers: BTreeMap::new(),
            batches: BTreeMap::new(),
            free: Vec::new(),
            publisher: None,
            writing: BTreeSet::new(),
            mutant,
            single_active,
            complaint: None,
            replaced: Vec::new(),
        }
    }

    /// Messages that are handed over to a consumer, at most so many.
    pub fn deliveries(
        &self,
        broker: &mut Broker<Body>,
        consumer: ConsumerId,
        most: usize,
    ) -> Result<Option<Event>, Refused> {
        let Some((channel, queue)) = self.consumers.get(&consumer) else {
            return Ok(None);
        };
        if !broker.consumes(*channel, queue) {
            return Err(Refused::NotFound);
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < most
            && let Some(got) = broker.deliver(*channel, queue)?
        {
            deliveries.push(delivered(got));
        }
        Ok((!deliveries.is_empty()).then_some(Event::Delivered {
            consumer,
            deliveries,
        }))
    }

    fn refill_arguments(&self) -> Arguments {
        Arguments {
            quorum: self.single_active,
            max_length: None,
        }
    }

    /// How many batches hold a channel.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    fn transaction_channel(&mut self, broker: &mut Broker<Body>) -> Result<ChannelId, Refused> {
        match self.free.pop() {
            Some(channel) => Ok(channel),
            None => broker.open(self.connection, true),
        }
    }

    /// The batch is over: nothing may be held for it any more.
    fn end(&mut self, broker: &mut Broker<Body>, batch: BatchId) {
        let Some(Batch { channel, .. }) = self.batches.remove(&batch) else {
            return;
        };
        if !broker.is_open(channel) {
            return;
        }
        let held = broker.unacked(channel);
        if held > 0 && self.mutant != Some(Mutant::KeepsOldLedger) {
            self.complaint = Some(format!("a batch ended and still held {held} messages"));
        }
        self.free.push(channel);
    }
}

/// A refusal as a real shell would tell it.
pub(crate) fn failure(refused: Refused, connected: bool) -> Failure {
    let (reason, class) = match refused {
        _ if !connected => ("ConnectionLost", Class::ConnectionLost),
        Refused::NotFound => ("QueueMissing", Class::NoQueue),
        Refused::InUse => ("QueueInUse", Class::InUse),
        Refused::Locked => ("QueueLocked", Class::InUse),
        Refused::Precondition => ("OtherArguments", Class::Person),
        Refused::Partial => ("PublishRejected", Class::Person),
        Refused::Gone => ("ChannelClosed", Class::Transient),
        Refused::Stalled => ("BrokerBlocked", Class::Blocked),
    };
    Failure {
        reason,
        message: format!("{refused:?}"),
        class,
    }
}

fn delivered(got: Got<Body>) -> Delivered {
    let request = match got.body {
        Body::Request(request) => Ok((*request).clone()),
        _ => Err(Rejection::NotCelery),
    };
    Delivered {
        tag: got.tag,
        request,
        window: Window::default(),
    }
}
