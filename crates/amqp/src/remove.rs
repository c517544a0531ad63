//! The end of a bucket.

use futures::future::join;
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, QueueDeleteOptions};
use tokio::time::{Duration, sleep};

use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::queues::DeleteIf;
use super::transport::Batch;
use super::{ledger, wire};
use bucket::{DeletionPolicy, Ledger, Parting, ledger_queue_name, queue_name};

/// Who refills holds the ledger for some milliseconds: an empty queue is asked again, so often and after so long. A
/// bucket that another resource has taken over must not be deleted for that.
const GETS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);

impl Broker {
    /// Carries out what is decided about the queues of the bucket `name`, whose resource `uid` is deleted, and answers it.
    ///
    /// # Errors
    /// When the broker or the connection does not let it: do it again.
    pub async fn remove_bucket(
        &self,
        name: &str,
        uid: &str,
        policy: DeletionPolicy,
        established: bool,
    ) -> Result<Parting, BrokerError> {
        let queue = ledger_queue_name(name);
        let action = Action {
            verb: "remove a bucket",
            needs: "read",
            queue: &queue,
        };
        let channel = self.transaction_channel(action).await?;
        let got = self.get_patiently(&channel, action).await?;
        let read = got
            .as_ref()
            .and_then(|message| Ledger::from_json(&message.data).ok());
        let mut batch = Batch::new(&channel);
        let parting = Parting::of(read.as_ref(), uid, policy, established);
        if parting == Parting::Delete {
            self.delete_both(&channel, name, action).await?;
            return Ok(parting);
        }
        if let Some(message) = got {
            match parting.ledger() {
                Some(ledger) => {
                    ledger::publish(&mut batch, name, ledger, None)?;
                    batch.acknowledge(message.delivery_tag)?;
                }
                None => batch.give_back(message.delivery_tag)?,
            }
            self.commit(action, During::AlarmFail, &channel, batch)
                .await?;
        }
        self.farewell(&channel).await;
        Ok(parting)
    }

    /// The ledger, if there is one. Where there is no queue for it the channel is closed.
    async fn get_patiently(
        &self,
        channel: &Channel,
        action: Action<'_>,
    ) -> Result<Option<BasicGetMessage>, BrokerError> {
        let name = wire::name(action.queue)?;
        for attempt in 0..GETS {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            let get = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false });
            match self.answer(action, During::AlarmFail, get).await {
                Ok(None) => {}
                Err(BrokerError::NoQueue { .. }) => return Ok(None),
                got => return got,
            }
        }
        Ok(None)
    }

    /// Deletes the bucket's queue and then the ledger's, which is held meanwhile: nobody refills between the two.
    async fn delete_both(
        &self,
        channel: &Channel,
        name: &str,
        action: Action<'_>,
    ) -> Result<(), BrokerError> {
        let bucket = queue_name(name);
        if !channel.status().connected() {
            return self.delete_queue(&bucket, DeleteIf::Always).await.map(drop);
        }
        let action = Action {
            needs: "configure",
            ..action
        };
        let delete = |queue| channel.queue_delete(queue, QueueDeleteOptions::default());
        let both = join(
            delete(wire::name(&bucket)?),
            delete(wire::name(action.queue)?),
        );
        let (first, second) = self
            .answer(action, During::AlarmFail, async { Ok(both.await) })
            .await?;
        for deleted in [first, second] {
            match deleted.map_err(|error| self.explain(action, &error)) {
                Ok(_) | Err(BrokerError::NoQueue { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.farewell(channel).await;
        Ok(())
    }
}
