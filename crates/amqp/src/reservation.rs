//! Names of queues that are reserved. An exclusive queue belongs to its connection: it can be declared only where there is
//! none, and keeps everybody else from declaring one. So it is a test and a lock in one, and unlike a passive declaration
//! of a queue that is missing it is no error for the broker, which closes the channel and logs each of those.

use futures::future::join;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Queue};

use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::queues::DeleteIf;
use super::wire;

/// What could be reserved of the names of a bucket's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// Nothing: there is a queue for the ledger, or somebody else has reserved its name.
    Nothing,
    /// The ledger's alone: there is a queue for the bucket, or somebody else has reserved its name.
    Ledger,
    /// Both.
    Both,
}

impl Broker {
    /// Declares an exclusive queue. Answers false when there is a queue of that name, or somebody else has reserved it: then
    /// the channel is closed.
    pub(super) async fn reserve(
        &self,
        channel: &Channel,
        action: Action<'_>,
    ) -> Result<bool, BrokerError> {
        let declaring = self.exclusive_queue(channel, action.queue)?;
        reserved(self.answer(action, During::AlarmWait, declaring).await)
    }

    /// Reserves the names of both queues of a bucket; `action` names the ledger's. Unless both are, the channel is closed.
    pub(super) async fn reserve_both(
        &self,
        channel: &Channel,
        bucket_queue: &str,
        action: Action<'_>,
    ) -> Result<Reserved, BrokerError> {
        // In one go: over a ledger that is there the broker closes the channel, and does not come to the other name.
        let both = join(
            self.exclusive_queue(channel, action.queue)?,
            self.exclusive_queue(channel, bucket_queue)?,
        );
        let both = async { Ok(both.await) };
        let (ledger, bucket) = self.answer(action, During::AlarmWait, both).await?;
        if !reserved(ledger.map_err(|error| self.explain(action, &error)))? {
            return Ok(Reserved::Nothing);
        }
        let of_bucket = Action {
            queue: bucket_queue,
            ..action
        };
        match reserved(bucket.map_err(|error| self.explain(of_bucket, &error))) {
            Ok(true) => Ok(Reserved::Both),
            Ok(false) => Ok(Reserved::Ledger),
            Err(error) => {
                self.release(action.queue).await?;
                Err(error)
            }
        }
    }

    /// Gives back the name of a queue whose channel is closed. Whatever else goes wrong, it must not stay reserved as long as
    /// the connection lives.
    pub(super) async fn release(&self, queue: &str) -> Result<(), BrokerError> {
        loop {
            match self.delete_queue(queue, DeleteIf::Always).await {
                Err(BrokerError::Blocked) => tokio::select! {
                    () = self.blocked_is(false) => {}
                    lost = self.lost() => return Err(lost),
                },
                deleted => return deleted.map(drop),
            }
        }
    }

    fn exclusive_queue<'a>(
        &self,
        channel: &'a Channel,
        name: &str,
    ) -> Result<impl Future<Output = lapin::Result<Queue>> + use<'a>, BrokerError> {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let arguments = wire::explicit(FieldTable::default(), self.version());
        Ok(channel.queue_declare(wire::name(name)?, options, arguments))
    }
}

/// A durable queue is none that this connection could have.
fn reserved<T>(declared: Result<T, BrokerError>) -> Result<bool, BrokerError> {
    match declared {
        Ok(_) => Ok(true),
        Err(BrokerError::Locked { .. } | BrokerError::OtherArguments { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
