//! Messages that the client library cannot parse: a property, or the name of a header, that is not UTF-8. The broker
//! lets them pass; whoever receives one loses its connection, and so does the next, until it is removed.

use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use tokio::time::{Duration, sleep};

use super::connection::{Broker, During};
use super::endpoint::Endpoint;
use super::error::{Action, BrokerError};
use super::wire;

/// What a lost connection held is back in its place by then.
const SETTLE: Duration = Duration::from_millis(100);

/// Removes the first such message of `queue`, which nobody should consume meanwhile; false when there is none. It is
/// found at the price of one connection, and removed at the price of another: the broker takes a message that it need
/// not have acknowledged for delivered once it is sent.
pub(super) async fn remove(endpoint: &Endpoint, queue: &str) -> Result<bool, BrokerError> {
    let action = Action {
        verb: "look for unreadable messages",
        needs: "read",
        queue,
    };
    let name = wire::name(queue)?;
    sleep(SETTLE).await;
    let broker = Broker::connect(endpoint, "look for unreadable messages").await?;
    let channel = broker.channel(action).await?;
    let mut readable = 0;
    loop {
        let get = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false });
        match broker.answer(action, During::AlarmFail, get).await {
            Ok(Some(_)) => readable += 1,
            Ok(None) => return Ok(false),
            Err(BrokerError::UnreadableMessage) => break,
            Err(error) => return Err(error),
        }
    }
    sleep(SETTLE).await;
    let broker = Broker::connect(endpoint, "remove an unreadable message").await?;
    let channel = broker.channel(action).await?;
    for _ in 0..readable {
        let get = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false });
        broker.answer(action, During::AlarmFail, get).await?;
    }
    let get = channel.basic_get(name.clone(), BasicGetOptions { no_ack: true });
    match broker.answer(action, During::AlarmFail, get).await {
        Err(BrokerError::UnreadableMessage) => Ok(true),
        Err(error) => Err(error),
        Ok(None) => Ok(false),
        // Somebody has moved the queue on. What was taken by mistake goes back.
        Ok(Some(message)) => {
            let back = async {
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
                let options = BasicPublishOptions::default();
                let properties = message.delivery.properties;
                channel
                    .basic_publish(
                        ShortString::default(),
                        name,
                        options,
                        &message.delivery.data,
                        properties,
                    )
                    .await?
                    .await
            };
            broker.answer(action, During::AlarmWait, back).await?;
            Ok(false)
        }
    }
}
