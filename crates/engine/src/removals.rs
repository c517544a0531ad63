//! Removals that are under way. Queues of many buckets are deleted at the same time; a bucket of the same name waits
//! until its predecessor's queues are gone.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Removal, RemoveError};
use amqp::{Broker, DeleteIf};
use bucket::{BucketId, ledger_queue_name, queue_name};

/// Where the result of a removal is awaited.
pub(super) type Answer = oneshot::Sender<Result<(), RemoveError>>;

/// Deletions of queues that are under way. They end with the session.
#[derive(Default)]
pub(super) struct Removals {
    tasks: JoinSet<Removed>,
    /// Bucket name to how many removals of it are under way and who waits for the name.
    names: HashMap<String, (usize, Option<BucketId>)>,
    /// Refill queue to how many removals of its buckets are under way.
    refill_queues: HashMap<String, usize>,
}

/// A removal whose queues are gone, or could not be deleted.
pub(super) struct Removed {
    pub(super) removal: Removal,
    pub(super) answer: Answer,
    pub(super) result: Result<(), RemoveError>,
}

/// What the end of a removal makes possible.
pub(super) struct Freed {
    /// Who waited for the name.
    pub(super) waiting: Option<BucketId>,
    /// No other removal is at the same refill queue.
    pub(super) refill_queue: bool,
}

impl Removals {
    /// Starts to delete the queues of a bucket that nobody works on any more.
    pub(super) fn start(&mut self, broker: Arc<Broker>, removal: Removal, answer: Answer) {
        self.names.entry(removal.name.clone()).or_default().0 += 1;
        *self
            .refill_queues
            .entry(removal.refill_queue.clone())
            .or_default() += 1;
        self.tasks.spawn(async move {
            let result = delete(&broker, &removal.name).await;
            Removed {
                removal,
                answer,
                result,
            }
        });
    }

    /// Whether queues of this name are being deleted; then `id` is the one that waits for it.
    pub(super) fn hold_up(&mut self, name: &str, id: &BucketId) -> bool {
        match self.names.get_mut(name) {
            Some((_, waiting)) => {
                *waiting = Some(id.clone());
                true
            }
            None => false,
        }
    }

    /// The next one that has ended; waits for ever when none is under way. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Removed {
        match self.tasks.join_next().await {
            Some(Ok(removed)) => removed,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    /// Forgets a removal that has ended.
    pub(super) fn ended(&mut self, removal: &Removal) -> Freed {
        let waiting = match self.names.get_mut(&removal.name) {
            Some((count, _)) if *count > 1 => {
                *count -= 1;
                None
            }
            _ => self
                .names
                .remove(&removal.name)
                .and_then(|(_, waiting)| waiting),
        };
        let others = match self.refill_queues.get_mut(&removal.refill_queue) {
            Some(count) => {
                *count -= 1;
                *count
            }
            None => 0,
        };
        if others == 0 {
            self.refill_queues.remove(&removal.refill_queue);
        }
        Freed {
            waiting,
            refill_queue: others == 0,
        }
    }
}

/// The ledger goes last: while it is there, what is owed is not forgotten.
async fn delete(broker: &Broker, name: &str) -> Result<(), RemoveError> {
    for queue in [queue_name(name), ledger_queue_name(name)] {
        broker.delete_queue(&queue, DeleteIf::Always).await?;
    }
    Ok(())
}
