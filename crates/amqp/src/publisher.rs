//! Publishes refill requests and waits until the broker has taken them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use futures::future::{FutureExt, join_all};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use tokio::sync::Mutex;

use super::allowance::{OwnChannel, Use};
use super::celery;
use super::connection::{Broker, During};
use super::error::{Action, BrokerError};
use super::wire;
use bucket::RefillRequest;

/// A channel in confirm mode.
pub struct RequestPublisher {
    broker: Arc<Broker>,
    /// One batch at a time: a message that comes back does not say to which batch. None: there is to be another.
    channel: Mutex<Option<OwnChannel>>,
}

impl Broker {
    /// Opens a channel for refill requests.
    ///
    /// # Errors
    /// When the broker or the connection does not let it.
    pub async fn publisher(self: &Arc<Self>) -> Result<RequestPublisher, BrokerError> {
        let channel = open_channel(self).await?;
        Ok(RequestPublisher {
            broker: Arc::clone(self),
            channel: Mutex::new(Some(channel)),
        })
    }
}

impl RequestPublisher {
    /// Publishes requests, each to its refill queue, all in one flight. Answers for each, in order: Ok when the broker
    /// has taken it, [`BrokerError::NoQueue`] when its refill queue is not there. After any other error the request may
    /// arrive nevertheless.
    pub async fn publish<Q: AsRef<str> + Sync>(
        &self,
        requests: &[(Q, RefillRequest)],
    ) -> Vec<Result<(), BrokerError>> {
        let mut channel = self.channel.lock().await;
        let results = self.flight(&mut channel, requests).await;
        if self.broker.has_few_channels() {
            *channel = None;
        }
        match results {
            Ok(results) => results,
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn flight<Q: AsRef<str>>(
        &self,
        slot: &mut Option<OwnChannel>,
        requests: &[(Q, RefillRequest)],
    ) -> Result<Vec<Result<(), BrokerError>>, BrokerError> {
        let open = slot.take_if(|channel| channel.status().connected());
        // One that is closed goes before another comes.
        *slot = None;
        let channel = match open {
            Some(channel) => channel,
            None => open_channel(&self.broker).await?,
        };
        let channel = &*slot.insert(channel);
        // Checked first: no part of a flight may be missing from its results.
        let names = requests
            .iter()
            .map(|(queue, _)| wire::name(queue.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let flight = join_all(
            names
                .into_iter()
                .zip(requests)
                .map(|(name, (_, request))| confirmed(channel, name, request)),
        );
        let confirmations = self
            .broker
            .answer(action(""), During::AlarmFail, flight.map(Ok))
            .await?;
        // A message that comes back is handed over with the next confirmation, which need not be its own.
        let mut returned = HashSet::new();
        let mut results = Vec::with_capacity(requests.len());
        for (confirmation, (queue, _)) in confirmations.into_iter().zip(requests) {
            results.push(match confirmation {
                Ok(Confirmation::Nack(_)) => Err(BrokerError::MessageRefused {
                    queue: queue.as_ref().to_owned(),
                }),
                Ok(confirmation) => {
                    let message = confirmation.take_message();
                    returned
                        .extend(message.and_then(|message| celery::task_id(&message.properties)));
                    Ok(())
                }
                Err(error) => Err(self.broker.explain(action(queue.as_ref()), &error)),
            });
        }
        for (result, (queue, request)) in results.iter_mut().zip(requests) {
            if result.is_ok() && returned.contains(&celery::id_of(request)) {
                *result = Err(BrokerError::NoQueue {
                    queue: queue.as_ref().to_owned(),
                });
            }
        }
        Ok(results)
    }
}

fn action(queue: &str) -> Action<'_> {
    Action {
        verb: "publish refill requests",
        needs: "write",
        queue,
    }
}

async fn open_channel(broker: &Broker) -> Result<OwnChannel, BrokerError> {
    let channel = broker.channel(Use::Verb, action("")).await?;
    broker
        .answer(
            action(""),
            During::AlarmFail,
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
    Ok(channel)
}

async fn confirmed(
    channel: &Channel,
    queue: ShortString,
    request: &RefillRequest,
) -> lapin::Result<Confirmation> {
    let (properties, body) = celery::encode(request);
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    channel
        .basic_publish(ShortString::default(), queue, options, &body, properties)
        .await?
        .await
}

impl fmt::Debug for RequestPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestPublisher").finish_non_exhaustive()
    }
}
