//! What is done with channels of one's own, whatever they are for.

use futures::future::{FutureExt, join_all};
use lapin::Channel;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicGetOptions;
use lapin::types::ShortString;
use tracing::debug;

use super::allowance::{OwnChannel, Use};
use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::transport::Batch;
use super::wire;

impl Broker {
    /// A channel of its own in transaction mode.
    pub(super) async fn transaction_channel(
        &self,
        what: Use,
        action: Action<'_>,
    ) -> Result<OwnChannel, BrokerError> {
        let channel = self.channel(what, action).await?;
        self.answer(action, During::AlarmFail, channel.tx_select())
            .await?;
        Ok(channel)
    }

    /// Sends a batch and commits it. Answers the queues of mandatory messages that came back.
    ///
    /// The broker returns messages before it answers the commit, and the client library keeps them until it is asked for
    /// them; outside of confirm mode that is no waiting.
    pub(super) async fn commit(
        &self,
        action: Action<'_>,
        during: During,
        channel: &Channel,
        batch: Batch,
    ) -> Result<Vec<String>, BrokerError> {
        let committing = async {
            batch.commit(channel).await?;
            channel.wait_for_confirms().await
        };
        let returned = self.answer(action, during, committing).await?;
        let queue = |message: &BasicReturnMessage| message.routing_key.to_string();
        Ok(returned.iter().map(queue).collect())
    }

    /// Counts what is ready in a queue of tokens, with everything that it was sent before.
    ///
    /// # Errors
    /// When the broker or the connection does not let it.
    pub async fn recount(&self, queue: &str) -> Result<u64, BrokerError> {
        let counts = self.exact_counts(vec![wire::name(queue)?]).await?;
        Ok(counts.into_iter().sum())
    }

    /// Counts what is ready in queues of tokens, with everything that they were sent before. A queue that is asked for its
    /// count answers ahead of what it has not taken in yet; one that is asked for a message answers behind that, and
    /// tells how many are left. Another token takes the place of the one that was got: giving it back again and again
    /// would make RabbitMQ 4 drop it from a quorum queue.
    pub(super) async fn exact_counts(
        &self,
        queues: Vec<ShortString>,
    ) -> Result<Vec<u64>, BrokerError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let action = Action {
            verb: "count tokens",
            needs: "read",
            queue: "",
        };
        let channel = self.transaction_channel(Use::Verb, action).await?;
        let options = BasicGetOptions { no_ack: false };
        let gets = queues
            .iter()
            .map(|queue| channel.basic_get(queue.clone(), options));
        let gets = join_all(gets).map(Ok);
        let gets = self.answer(action, During::AlarmWait, gets).await?;
        let gets = gets.into_iter().collect::<lapin::Result<Vec<_>>>();
        let gets = gets.map_err(|error| self.explain(action, &error))?;
        let mut batch = Batch::new(&channel);
        let mut counts = Vec::with_capacity(queues.len());
        for (queue, got) in queues.into_iter().zip(gets) {
            counts.push(match got {
                Some(message) => {
                    batch.publish(queue, wire::persistent(), b"", 1)?;
                    batch.acknowledge(message.delivery_tag)?;
                    u64::from(message.message_count) + 1
                }
                None => 0,
            });
        }
        let action = Action {
            needs: "write",
            ..action
        };
        self.commit(action, During::AlarmWait, &channel, batch)
            .await?;
        self.farewell(&channel).await;
        Ok(counts)
    }

    /// Closes a channel: what it holds goes back. One that cannot be closed is gone already, which is as good.
    pub(super) async fn farewell(&self, channel: &Channel) {
        let action = Action {
            verb: "close a channel",
            needs: "read",
            queue: "",
        };
        let closing = channel.close(200, "OK".into());
        if let Err(error) = self.answer(action, During::AlarmFail, closing).await {
            debug!(%error, "a channel was not closed in order");
        }
    }
}
