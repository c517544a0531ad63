//! A few channels for queue verbs. Each carries one verb at a time: when the broker answers with 404, 406 or 403 it
//! closes the channel, and nobody else's verb may go with it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use lapin::Channel;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::allowance::OwnChannel;
use super::error::BrokerError;

/// Channels that wait for an answer at most: the oldest has it by then.
const MOST_ABANDONED: usize = 64;
/// More channels than this make nothing faster.
const CHANNELS: usize = 16;
/// The client library remembers every queue that a channel has named until the channel is closed.
const MOST_USES: usize = 250;

/// Channels of one connection, opened when needed.
pub(super) struct Pool {
    permits: Semaphore,
    /// Each with how often it was used.
    idle: Mutex<Vec<(OwnChannel, usize)>>,
    /// Those that an answer is on its way to, the oldest first.
    abandoned: Mutex<VecDeque<OwnChannel>>,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            permits: Semaphore::new(CHANNELS),
            idle: Mutex::new(Vec::new()),
            abandoned: Mutex::default(),
        }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        let Ok(permit) = self.permits.acquire().await else {
            unreachable!("the semaphore is never closed")
        };
        permit
    }

    /// A channel that somebody has given back, with how often it was used.
    pub(super) fn idle(&self) -> Option<(OwnChannel, usize)> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    /// A channel for one verb.
    pub(super) fn lend<'a>(
        &'a self,
        turn: SemaphorePermit<'a>,
        (channel, uses): (OwnChannel, usize),
    ) -> Lease<'a> {
        Lease {
            pool: self,
            channel,
            uses,
            is_back: false,
            _turn: turn,
        }
    }

    /// Keeps a channel until the broker has answered on it: when both sides close one at the same time, the client library gives
    /// up the connection.
    fn abandon(&self, channel: OwnChannel) {
        let mut abandoned = self
            .abandoned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        abandoned.retain(|channel| channel.status().connected());
        abandoned.push_back(channel);
        if abandoned.len() > MOST_ABANDONED {
            abandoned.pop_front();
        }
    }
}

/// A channel on loan. Dropped without being put back it is used no more: an answer may still be on its way to it.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    channel: OwnChannel,
    uses: usize,
    is_back: bool,
    _turn: SemaphorePermit<'a>,
}

impl Lease<'_> {
    /// Gives the channel back after this, unless the answer of the broker is still to come.
    pub(super) fn answered<T>(self, answer: &Result<T, BrokerError>) {
        if !matches!(answer, Err(BrokerError::QueueUnavailable { .. })) {
            self.put_back();
        }
    }

    /// Gives the channel back for others, unless the broker has closed it or it is worn.
    pub(super) fn put_back(self) {
        self.put_back_after(1);
    }

    /// The same after several verbs.
    pub(super) fn put_back_after(mut self, verbs: usize) {
        self.is_back = true;
        let uses = self.uses + verbs;
        let is_kept = uses < MOST_USES && !self.channel.is_scarce();
        if is_kept && self.channel.status().connected() {
            let channel = self.channel.take();
            let idle = self.pool.idle.lock();
            idle.unwrap_or_else(PoisonError::into_inner)
                .push((channel, uses));
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.is_back && self.channel.status().connected() {
            self.pool.abandon(self.channel.take());
        }
    }
}

impl Deref for Lease<'_> {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}
