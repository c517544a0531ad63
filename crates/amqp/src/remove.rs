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
use bucket::{DeletionPolicy, Ledger, ledger_queue_name, queue_name};

/// Who refills holds the ledger for some milliseconds: an empty queue is asked again, so often and after so long. A
/// bucket that another resource has taken over must not be deleted for that.
const GETS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// What became of the queues of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// They are gone, or were not there.
    Deleted,
    /// They stay, and belong to no resource.
    Kept,
    /// They belong to another resource, or nothing says that they belong to this one; nothing happened to them.
    NotOurs,
    /// They belong to an older resource again, `namespace/name`, from which they were taken over: it may still be there, and
    /// would have said so with its next refill.
    HandedBack(String),
}

/// What is done about the queues of a bucket whose resource is deleted.
enum Parting {
    Delete,
    Leave(Removed),
    /// The ledger says from now on whose they are.
    Write(Removed, Ledger),
}

impl Parting {
    fn of(ledger: Option<&Ledger>, uid: &str, policy: DeletionPolicy, established: bool) -> Self {
        let owner = ledger.and_then(|ledger| ledger.owner.as_ref());
        match (ledger, owner, policy) {
            (_, Some(owner), _) if *owner.uid != *uid => Self::Leave(Removed::NotOurs),
            (_, None, DeletionPolicy::Delete) if !established => Self::Leave(Removed::NotOurs),
            (_, None, DeletionPolicy::Delete) => Self::Delete,
            (Some(ledger), Some(owner), DeletionPolicy::Delete) => match &ledger.rival {
                Some(rival) if rival.precedes(owner) => {
                    let removed = Removed::HandedBack(rival.resource.to_string());
                    Self::Write(removed, ledger.left_to(Some(rival.clone())))
                }
                _ => Self::Delete,
            },
            (Some(ledger), Some(_), DeletionPolicy::Retain) => {
                Self::Write(Removed::Kept, ledger.left_to(None))
            }
            _ => Self::Leave(Removed::Kept),
        }
    }
}

impl Broker {
    /// Deletes the queues of the bucket `name`, or says in its ledger that it belongs to no resource any more, as the
    /// policy wants it. What belongs to another resource than `uid` stays as it is. A ledger that is absent or cannot be
    /// read tells of no other: then the queues are deleted if they are `established` as those of `uid`.
    ///
    /// # Errors
    /// When the broker or the connection does not let it: do it again.
    pub async fn remove_bucket(
        &self,
        name: &str,
        uid: &str,
        policy: DeletionPolicy,
        established: bool,
    ) -> Result<Removed, BrokerError> {
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
        let (removed, left) = match parting {
            Parting::Delete => {
                self.delete_both(&channel, name, action).await?;
                return Ok(Removed::Deleted);
            }
            Parting::Leave(removed) => (removed, None),
            Parting::Write(removed, left) => (removed, Some(left)),
        };
        if let Some(message) = got {
            match left {
                Some(ledger) => {
                    ledger::publish(&mut batch, name, &ledger, None)?;
                    batch.acknowledge(message.delivery_tag)?;
                }
                None => batch.give_back(message.delivery_tag)?,
            }
            self.commit(action, During::AlarmFail, &channel, batch)
                .await?;
        }
        self.farewell(&channel).await;
        Ok(removed)
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
