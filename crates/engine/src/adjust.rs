//! Gives a queue the limit and the contents that the specification wants. Tokens are interchangeable, so their count is
//! carried, not the messages; it is in the ledger while they are in no queue, and a crash at any point is finished
//! from there.

use chrono::Utc;
use tracing::{info, warn};

use super::ensure::QueueState;
use super::plan::MOST_TOKENS;
use super::slot::{Adjustment, Stage};
use super::worker::Worker;
use amqp::{BrokerError, RefillChannel, Transaction};
use bucket::BucketId;

impl Worker {
    /// One step for one of the buckets whose queue is to be put right, so that the others go on in between.
    pub(super) async fn adjust_one(
        &mut self,
        channel: &mut RefillChannel,
    ) -> Result<(), BrokerError> {
        let adjusting = self
            .work
            .iter()
            .find_map(|id| match self.slots.get(id)?.stage {
                Stage::Adjusting(queue) => Some((id.clone(), queue)),
                _ => None,
            });
        let Some((id, queue)) = adjusting else {
            return Ok(());
        };
        // Without its ledger nothing of a bucket may be moved.
        let Some(slot) = self.slots.get(&id).filter(|slot| slot.ledger.is_some()) else {
            return Ok(());
        };
        match queue.adjustment(slot.bucket.maximum) {
            Adjustment::None => self.ready(&id, queue),
            Adjustment::Trim(excess) => self.trim(channel, &id, queue, excess).await?,
            Adjustment::Carry => self.carry(channel, &id).await?,
            Adjustment::Replace => self.replace(channel, &id).await?,
        }
        Ok(())
    }

    /// Takes excess tokens away. Others take some meanwhile: what is more than excess by then is put back in the same
    /// transaction.
    async fn trim(
        &mut self,
        channel: &mut RefillChannel,
        id: &BucketId,
        queue: QueueState,
        excess: u64,
    ) -> Result<(), BrokerError> {
        let Some(slot) = self.slots.get_mut(id) else {
            return Ok(());
        };
        let (name, maximum) = (slot.bucket.queue(), slot.bucket.maximum);
        let acks = channel.take_out(&name, excess.min(MOST_TOKENS)).await?;
        let left = self.context.broker.count(&name).await?.unwrap_or(0);
        let taken = acks.len() as u64;
        let back = taken.min(maximum.saturating_sub(left));
        let tokens = if back > 0 {
            vec![(name, back)]
        } else {
            Vec::new()
        };
        channel
            .commit(Transaction {
                tokens,
                acks,
                ..Transaction::default()
            })
            .await?;
        info!(bucket = %id, removed = taken - back, maximum, "tokens above the maximum removed");
        slot.stage = Stage::Adjusting(QueueState {
            tokens: left + back,
            ..queue
        });
        self.counted(id, left + back, Utc::now());
        Ok(())
    }

    /// Takes all tokens out of a queue whose limit is too small; they are owed from then on.
    async fn carry(
        &mut self,
        channel: &mut RefillChannel,
        id: &BucketId,
    ) -> Result<(), BrokerError> {
        let Some(slot) = self.slots.get(id) else {
            return Ok(());
        };
        let acks = channel.take_out(&slot.bucket.queue(), MOST_TOKENS).await?;
        if acks.is_empty() {
            return self.replace(channel, id).await;
        }
        self.owe(channel, id, acks.len() as u64, acks).await
    }

    /// Declares an empty queue anew.
    async fn replace(
        &mut self,
        channel: &mut RefillChannel,
        id: &BucketId,
    ) -> Result<(), BrokerError> {
        let Some(slot) = self.slots.get(id) else {
            return Ok(());
        };
        let (name, maximum) = (slot.bucket.queue(), slot.bucket.maximum);
        let broker = &self.context.broker;
        let came = broker
            .replace_bucket(&name, slot.bucket.queue_type, maximum)
            .await?;
        if came > 0 {
            warn!(bucket = %id, tokens = came, "somebody else filled the queue while it was replaced; its tokens are kept");
            self.owe(channel, id, came, Vec::new()).await?;
        }
        info!(bucket = %id, maximum, "queue declared anew");
        self.ready(
            id,
            QueueState {
                tokens: 0,
                limit: Some(maximum),
            },
        );
        Ok(())
    }

    /// Writes into the ledger that so many tokens more are in no queue, in one transaction with the acknowledgements
    /// that take them out.
    async fn owe(
        &mut self,
        channel: &mut RefillChannel,
        id: &BucketId,
        tokens: u64,
        acks: Vec<u64>,
    ) -> Result<(), BrokerError> {
        let Some(slot) = self.slots.get_mut(id) else {
            return Ok(());
        };
        let Some(mut ledger) = slot.ledger.clone() else {
            return Ok(());
        };
        ledger.owed += tokens;
        let ledgers = vec![self.context.signed(&slot.bucket, &ledger)];
        channel
            .commit(Transaction {
                ledgers,
                acks,
                ..Transaction::default()
            })
            .await?;
        slot.ledger = Some(ledger);
        Ok(())
    }
}
