//! Refill queues as fences. A ledger names the refill queue whose only consumer may write it; who wants to write it from
//! another refill queue has to be sure first that nobody consumes that one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::connection::Broker;
use super::error::BrokerError;
use super::refill_channel::RefillChannel;
use bucket::QueueType;

/// A request that is delivered to a fence goes back when the fence goes.
const PREFETCH: u16 = 1;

/// Keeps every other connection from consuming a refill queue as long as it lives.
#[derive(Debug)]
pub struct Fence {
    _held: Option<Arc<RefillChannel>>,
}

/// Refill queues that a connection consumes, and those that it keeps others from.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// All that were to be consumed, with the number of channels that do so now: one that is gone may be dropped after its
    /// successor has come.
    consumed: Mutex<BTreeMap<String, usize>>,
    /// The lock is held while one is opened, so that those who want the same one share it.
    opened: tokio::sync::Mutex<HashMap<String, Weak<RefillChannel>>>,
}

impl Fences {
    /// `queue` is to be consumed.
    pub(super) fn remember(&self, queue: &str) {
        self.consumed().entry(queue.to_owned()).or_default();
    }

    pub(super) fn begin(&self, queue: &str) {
        *self.consumed().entry(queue.to_owned()).or_default() += 1;
    }

    pub(super) fn end(&self, queue: &str) {
        if let Some(channels) = self.consumed().get_mut(queue) {
            *channels -= 1;
        }
    }

    fn consumes(&self, queue: &str) -> bool {
        self.consumed()
            .get(queue)
            .is_some_and(|channels| *channels > 0)
    }

    /// All that were to be consumed.
    pub(super) fn remembered(&self) -> Vec<String> {
        self.consumed().keys().cloned().collect()
    }

    fn consumed(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.consumed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Makes sure that nobody but this connection consumes `queue`, as long as the answer lives. What does not exist, or
    /// is no refill queue, is consumed by nobody.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] while somebody else consumes it.
    pub async fn fence(self: &Arc<Self>, queue: &str) -> Result<Fence, BrokerError> {
        let mut opened = self.fences().opened.lock().await;
        if let Some(channel) = opened.get(queue).and_then(Weak::upgrade) {
            return Ok(Fence {
                _held: Some(channel),
            });
        }
        opened.remove(queue);
        if self.fences().consumes(queue) || self.look_at(queue).await?.is_none() {
            return Ok(Fence { _held: None });
        }
        for kind in [QueueType::Classic, QueueType::Quorum] {
            match self.consume_requests(queue, kind, PREFETCH).await {
                Ok(channel) => {
                    let channel = Arc::new(channel);
                    opened.insert(queue.to_owned(), Arc::downgrade(&channel));
                    return Ok(Fence {
                        _held: Some(channel),
                    });
                }
                Err(BrokerError::OtherArguments { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Fence { _held: None })
    }
}
