//! What is done to single queues.

use futures::future::{join, try_join_all};
use futures::stream::{self, Stream, StreamExt};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::wire;
use bucket::QueueType;

/// Queues that are counted in one flight, which costs a fraction of counting each, and flights that are under way at one
/// time: enough to keep the broker busy.
const FLIGHT: usize = 64;
const MOST_FLIGHTS: usize = 4;

/// What declaring a queue found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    /// It is there as asked for.
    Ok {
        /// Ready messages in it.
        tokens: u64,
    },
    /// It is there with another `x-max-length`, and only that is different.
    OtherLimit {
        /// The limit in force; None: there is none.
        current: Option<u64>,
    },
    /// It is there and is something else.
    Different {
        /// The broker's own words.
        message: String,
    },
}

/// When to delete a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteIf {
    /// In any case.
    Always,
    /// When there is no ready message in it.
    Empty,
    /// When there is no ready message in it and nobody consumes it.
    EmptyAndUnused,
}

/// What became of a queue that was to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or was not there.
    Gone {
        /// Ready messages that went with it.
        messages: u64,
    },
    /// It is still there; the text says why.
    Kept(String),
}

impl Broker {
    /// Declares the queue of a bucket with exactly the arguments of the wire contract.
    ///
    /// # Errors
    /// When the broker or the connection does not let it; a queue with other arguments is no error.
    pub async fn declare_bucket(
        &self,
        queue: &str,
        kind: QueueType,
        maximum: u64,
    ) -> Result<Declared, BrokerError> {
        let message = match self
            .declare(queue, wire::queue_arguments(kind, Some(maximum)))
            .await
        {
            Ok(tokens) => return Ok(Declared::Ok { tokens }),
            Err(BrokerError::OtherArguments { message, .. }) => message,
            Err(error) => return Err(error),
        };
        let Some(current) = wire::other_limit(&message) else {
            return Ok(Declared::Different { message });
        };
        // The broker names the first difference only; there may be more behind it.
        match self
            .declare(queue, wire::queue_arguments(kind, current))
            .await
        {
            Ok(_) => Ok(Declared::OtherLimit { current }),
            Err(BrokerError::OtherArguments { message, .. }) => Ok(Declared::Different { message }),
            Err(error) => Err(error),
        }
    }

    /// Declares the queue of a ledger.
    ///
    /// # Errors
    /// As for [`Broker::declare_bucket`].
    pub async fn declare_ledger(
        &self,
        queue: &str,
        kind: QueueType,
    ) -> Result<Declared, BrokerError> {
        match self
            .declare(queue, wire::queue_arguments(kind, Some(1)))
            .await
        {
            Ok(tokens) => Ok(Declared::Ok { tokens }),
            Err(BrokerError::OtherArguments { message, .. }) => Ok(Declared::Different { message }),
            Err(error) => Err(error),
        }
    }

    /// Declares a durable queue; answers its ready messages.
    pub(super) async fn declare(
        &self,
        queue: &str,
        arguments: FieldTable,
    ) -> Result<u64, BrokerError> {
        let action = Action {
            verb: "declare a queue",
            needs: "configure",
            queue,
        };
        let name = wire::name(queue)?;
        let channel = self.lease(action).await?;
        let arguments = wire::explicit(arguments, self.version());
        let answer = channel.queue_declare(name, QueueDeclareOptions::durable(), arguments);
        let declared = self.answer(action, During::AlarmFail, answer).await;
        channel.answered(&declared);
        Ok(declared?.message_count().into())
    }

    /// Counts the ready messages of a queue. None: there is no such queue.
    ///
    /// # Errors
    /// When the broker or the connection does not let it.
    pub async fn count(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        Ok(self.look_at(queue).await?.map(|(messages, _)| messages))
    }

    /// Counts the ready messages of many queues. Answers for each, in order, as [`Broker::count`] does.
    pub fn counts(
        &self,
        queues: &[String],
    ) -> impl Stream<Item = Result<Option<u64>, BrokerError>> + use<'_> {
        // Owned names: a stream of futures that borrow them is beyond the compiler in a spawned task.
        let flights: Vec<_> = queues.chunks(FLIGHT).map(<[_]>::to_vec).collect();
        stream::iter(flights)
            .map(async |queues| self.flight_of_counts(&queues).await)
            .buffered(MOST_FLIGHTS)
            .flat_map(stream::iter)
    }

    async fn flight_of_counts(&self, queues: &[String]) -> Vec<Result<Option<u64>, BrokerError>> {
        if let Ok(counts) = self.counts_of_present(queues).await {
            return counts.into_iter().map(|count| Ok(Some(count))).collect();
        }
        // One that is missing ends the channel, and the others with it.
        let mut counts = Vec::with_capacity(queues.len());
        for queue in queues {
            counts.push(self.count(queue).await);
        }
        counts
    }

    async fn counts_of_present(&self, queues: &[String]) -> Result<Vec<u64>, BrokerError> {
        let action = Action {
            verb: "count queues",
            needs: "configure",
            queue: queues.first().map_or("", String::as_str),
        };
        let names = queues.iter().map(|queue| wire::name(queue));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let channel = self.lease(action).await?;
        let declares = names
            .into_iter()
            .map(|name| channel.queue_declare(name, passive(), FieldTable::default()));
        let counts = self
            .answer(action, During::AlarmFail, try_join_all(declares))
            .await?;
        channel.put_back_after(queues.len());
        Ok(counts
            .iter()
            .map(|queue| queue.message_count().into())
            .collect())
    }

    /// Ready messages and consumers of a queue.
    pub(super) async fn look_at(&self, queue: &str) -> Result<Option<(u64, u64)>, BrokerError> {
        let action = Action {
            verb: "count a queue",
            needs: "configure",
            queue,
        };
        let name = wire::name(queue)?;
        let channel = self.lease(action).await?;
        let answer = channel.queue_declare(name, passive(), FieldTable::default());
        let found = self.answer(action, During::AlarmFail, answer).await;
        channel.answered(&found);
        match found {
            Ok(found) => Ok(Some((
                found.message_count().into(),
                found.consumer_count().into(),
            ))),
            Err(BrokerError::NoQueue { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a queue. One that is not there is fine.
    ///
    /// # Errors
    /// When the broker or the connection does not let it.
    pub async fn delete_queue(
        &self,
        queue: &str,
        only_if: DeleteIf,
    ) -> Result<Deleted, BrokerError> {
        // Not by the flags of queue.delete: a quorum queue answers them by closing the connection.
        if only_if != DeleteIf::Always
            && let Some((messages, consumers)) = self.look_at(queue).await?
        {
            if messages > 0 {
                return Ok(Deleted::Kept(format!("it holds {messages} messages")));
            }
            if only_if == DeleteIf::EmptyAndUnused && consumers > 0 {
                return Ok(Deleted::Kept(format!("it has {consumers} consumers")));
            }
        }
        let action = Action {
            verb: "delete a queue",
            needs: "configure",
            queue,
        };
        let name = wire::name(queue)?;
        let channel = self.lease(action).await?;
        let answer = channel.queue_delete(name, QueueDeleteOptions::default());
        let deleted = self.answer(action, During::AlarmFail, answer).await;
        channel.answered(&deleted);
        match deleted {
            Ok(messages) => Ok(Deleted::Gone {
                messages: messages.into(),
            }),
            Err(BrokerError::NoQueue { .. }) => Ok(Deleted::Gone { messages: 0 }),
            Err(error) => Err(error),
        }
    }

    /// Deletes the queue of a bucket and declares it anew with `maximum`, in one go: who takes tokens meanwhile
    /// notices almost nothing. Answers how many ready messages went with the old queue. Of a quorum queue the broker
    /// counts them a moment before, and what workers take in that moment is counted although they have it: take the
    /// messages out first.
    ///
    /// # Errors
    /// When the broker or the connection does not let it. After [`BrokerError::is_connection_lost`] either queue may be
    /// there, or none.
    pub async fn replace_bucket(
        &self,
        queue: &str,
        kind: QueueType,
        maximum: u64,
    ) -> Result<u64, BrokerError> {
        let action = Action {
            verb: "replace a queue",
            needs: "configure",
            queue,
        };
        let name = wire::name(queue)?;
        let channel = self.lease(action).await?;
        let both = join(
            channel.queue_delete(name.clone(), QueueDeleteOptions::default()),
            channel.queue_declare(
                name,
                QueueDeclareOptions::durable(),
                wire::explicit(wire::queue_arguments(kind, Some(maximum)), self.version()),
            ),
        );
        let answer = self
            .answer(action, During::AlarmWait, async { Ok(both.await) })
            .await;
        channel.put_back();
        let (deleted, declared) = answer?;
        let taken = deleted
            .map_err(|error| self.explain(action, &error))?
            .into();
        match declared.map_err(|error| self.explain(action, &error)) {
            // Somebody was quicker with other arguments. The count must not get lost over it; the next declare tells.
            Ok(_) | Err(BrokerError::OtherArguments { .. }) => Ok(taken),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions {
        passive: true,
        ..Default::default()
    }
}
