//! One queue: its messages in order, and what bounds them.

use std::collections::VecDeque;

use super::{ChannelId, ConnectionId};

/// What a durable queue is declared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Arguments {
    /// `x-queue-type: quorum`.
    pub quorum: bool,
    /// `x-max-length`; the oldest messages beyond it are dropped.
    pub max_length: Option<u64>,
}

/// What an administrator's policy does to a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// `max-length`: the smaller one counts.
    pub max_length: Option<u64>,
    /// `overflow: reject-publish`.
    pub reject_publish: bool,
}

/// A message in its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stored<M> {
    pub(super) position: u64,
    /// How often it was given back.
    pub(super) deliveries: u32,
    pub(super) body: M,
}

#[derive(Clone, Debug)]
pub(super) struct Queue<M> {
    pub(super) arguments: Arguments,
    pub(super) policy: Policy,
    /// Its only user, if it is exclusive.
    pub(super) owner: Option<ConnectionId>,
    /// Who consumes it, and whether nobody else may.
    pub(super) consumers: Vec<(ChannelId, bool)>,
    /// In ascending order of their positions.
    pub(super) ready: VecDeque<Stored<M>>,
    pub(super) incarnation: u32,
    next: u64,
}

impl<M> Queue<M> {
    pub(super) fn new(arguments: Arguments, owner: Option<ConnectionId>, incarnation: u32) -> Self {
        Self {
            arguments,
            policy: Policy::default(),
            owner,
            consumers: Vec::new(),
            ready: VecDeque::new(),
            incarnation,
            next: 0,
        }
    }

    fn limit(&self) -> Option<u64> {
        let limits = [self.arguments.max_length, self.policy.max_length];
        limits.into_iter().flatten().min()
    }

    pub(super) fn is_full(&self) -> bool {
        self.limit()
            .is_some_and(|limit| self.ready.len() as u64 >= limit)
    }

    pub(super) fn push(&mut self, body: M) {
        let position = self.next;
        self.next += 1;
        self.ready.push_back(Stored {
            position,
            deliveries: 0,
            body,
        });
    }

    /// A message that comes back takes its old place.
    pub(super) fn give_back(&mut self, stored: Stored<M>) {
        let place = self
            .ready
            .partition_point(|other| other.position < stored.position);
        self.ready.insert(place, stored);
    }

    /// Removes the oldest message beyond the limit. Messages that are held do not count.
    pub(super) fn overflow(&mut self) -> Option<Stored<M>> {
        let limit = self.limit()?;
        (self.ready.len() as u64 > limit)
            .then(|| self.ready.pop_front())
            .flatten()
    }
}
