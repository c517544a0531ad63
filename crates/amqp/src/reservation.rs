//! Names of queues that are reserved. An exclusive queue belongs to its connection: it can be declared only where there is
//! none, and keeps everybody else from declaring one. So it is a test and a lock in one, and unlike a passive declaration
//! of a queue that is missing it is no error for the broker, which closes the channel and logs each of those.

use futures::future::{join, try_join};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Queue};

use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::queues::DeleteIf;
use super::wire;
use bucket::Bucket;

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

    /// Whether there is a queue for the bucket, where there is none for its ledger; None when there is one for that, or
    /// somebody else has reserved it.
    ///
    /// # Errors
    /// When the broker or the connection does not let it.
    pub(super) async fn bucket_without_ledger(
        &self,
        bucket: &Bucket,
    ) -> Result<Option<bool>, BrokerError> {
        let (queue, ledger_queue) = (bucket.queue(), bucket.ledger_queue());
        let action = Action {
            verb: "look for queues",
            needs: "configure",
            queue: &ledger_queue,
        };
        let channel = self.lease(action).await?;
        // In one go: over a ledger that is there the broker closes the channel, and does not come to the other name.
        let both = join(
            self.exclusive_queue(&channel, &ledger_queue)?,
            self.exclusive_queue(&channel, &queue)?,
        );
        let both = async { Ok(both.await) };
        let (ledger, bucket) = self.answer(action, During::AlarmWait, both).await?;
        if !reserved(ledger.map_err(|error| self.explain(action, &error)))? {
            return Ok(None);
        }
        if let Err(error) = bucket {
            let action = Action {
                queue: &queue,
                ..action
            };
            reserved::<()>(Err(self.explain(action, &error)))?;
            // Unless that was somebody else's reservation.
            let there = self.count(&queue).await;
            self.delete_queue(&ledger_queue, DeleteIf::Always).await?;
            return Ok(Some(there?.is_some()));
        }
        let options = QueueDeleteOptions::default();
        // The ledger's last: whoever can reserve that has the other to itself.
        let deleting = try_join(
            channel.queue_delete(wire::name(&queue)?, options),
            channel.queue_delete(wire::name(&ledger_queue)?, options),
        );
        self.answer(action, During::AlarmWait, deleting).await?;
        channel.put_back_after(4);
        Ok(Some(false))
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
        Err(BrokerError::InUse { .. } | BrokerError::OtherArguments { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
