//! The end of a bucket.

use futures::future::join;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, QueueDeleteOptions, QueuePurgeOptions};
use tokio::time::{Duration, sleep};

use super::allowance::Use;
use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::queues::DeleteIf;
use super::transport::Batch;
use super::{ledger, wire};
use bucket::{Contents, DeletionPolicy, Ledger, Parting, ledger_queue_name, queue_name};

/// Who refills holds the ledger for some milliseconds: an empty queue is asked again, so often and after so long.
const GETS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// A bucket that leaves a broker.
#[derive(Clone, Copy, Debug)]
pub struct Leaving<'a> {
    /// Its name.
    pub name: &'a str,
    /// UID of its resource.
    pub uid: &'a str,
    /// Whether its queues go or stay.
    pub policy: DeletionPolicy,
    /// It takes its tokens along, also from queues that stay.
    pub moves: bool,
    /// The queues are known to be those of the resource. Otherwise only the ledger can say so.
    pub established: bool,
}

impl Broker {
    /// Carries out what is decided about the queues of a bucket that leaves, and answers it, with what a bucket that moves
    /// had where the queues were its own. A connection that ends between the count of the tokens and the answer costs these tokens:
    /// they are never at two brokers.
    ///
    /// Who holds the ledger could come with it when there is another bucket of that name. So one that is absent is waited
    /// for: for a moment; then, unless nothing says that the queues are those of `uid`, for `hold_limit`, and a resource
    /// alarm, before it counts as lost. Without that limit None is answered when it is to be waited for.
    ///
    /// # Errors
    /// When the broker or the connection does not let it: do it again.
    pub async fn remove_bucket(
        &self,
        leaving: Leaving<'_>,
        hold_limit: Option<Duration>,
    ) -> Result<Option<(Parting, Option<Contents>)>, BrokerError> {
        let Leaving {
            name,
            uid,
            policy,
            moves,
            established,
        } = leaving;
        let queue = ledger_queue_name(name);
        let action = Action {
            verb: "remove a bucket",
            needs: "read",
            queue: &queue,
        };
        let what = match hold_limit {
            Some(_) => Use::Wait,
            None => Use::Steps,
        };
        let channel = self.transaction_channel(what, action).await?;
        let found = match hold_limit {
            Some(limit) => self.await_ledger(limit, &channel, action).await,
            None => self.get_patiently(&channel, action).await,
        };
        let found = match found {
            Err(BrokerError::NoQueue { .. }) => None,
            Ok(None) if established && hold_limit.is_none() => return Ok(None),
            found => found?,
        };
        let read = found
            .as_ref()
            .and_then(|message| Ledger::from_json(&message.data).ok());
        let parting = Parting::of(read.as_ref(), uid, policy, established);
        let mut had = None;
        if moves && matches!(parting, Parting::Delete | Parting::Keep(_)) {
            let tokens = self.purge(name).await?;
            let ledger = read.map(Box::new);
            had = Some(Contents { tokens, ledger });
        }
        if parting == Parting::Delete {
            self.delete_both(&channel, name, action).await?;
            return Ok(Some((parting, had)));
        }
        if let Some(message) = found {
            let mut batch = Batch::new(&channel);
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
        Ok(Some((parting, had)))
    }

    /// Takes the tokens out of the bucket's queue and counts them, while the ledger is held. What a deletion counts, workers
    /// may have taken in the same moment.
    async fn purge(&self, name: &str) -> Result<u64, BrokerError> {
        let queue = queue_name(name);
        let action = Action {
            verb: "purge a queue",
            needs: "read",
            queue: &queue,
        };
        let name = wire::name(&queue)?;
        let channel = self.lease(action).await?;
        let purged = channel.queue_purge(name, QueuePurgeOptions::default());
        let purged = self.answer(action, During::AlarmFail, purged).await;
        channel.answered(&purged);
        match purged {
            Ok(tokens) => Ok(tokens.into()),
            Err(BrokerError::NoQueue { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The ledger, if it is there now or in a moment.
    async fn get_patiently(
        &self,
        channel: &Channel,
        action: Action<'_>,
    ) -> Result<Option<Delivery>, BrokerError> {
        let name = wire::name(action.queue)?;
        for attempt in 0..GETS {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            let get = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false });
            if let Some(got) = self.answer(action, During::AlarmFail, get).await? {
                return Ok(Some(got.delivery));
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
