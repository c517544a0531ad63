//! Puts tokens into a bucket: those that were taken and not used. Confirmed by the broker.

use futures::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

use crate::failure::Failure;
use crate::link::Link;
use crate::name::Name;

/// Tokens under way at the same time.
const MOST_AT_ONCE: usize = 1_000;
const PERSISTENT: u8 = 2;

/// What became of tokens that were sent.
pub(crate) enum Sent {
    /// They are there.
    All,
    /// So many came back: there is no queue.
    Returned(u32),
    /// Some were refused.
    Refused,
    /// The connection or the channel was lost in between: they may be there or not.
    Unknown(String),
}

/// A channel on which the broker confirms.
async fn channel(link: &Link) -> Result<Channel, Failure> {
    let channel = link.channel().await?;
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    link.answer(select).await?;
    Ok(channel)
}

/// Whether the user may send anything: to where nobody is.
pub(crate) async fn is_allowed(link: &Link) -> Result<(), Failure> {
    let channel = channel(link).await?;
    let options = BasicPublishOptions::default();
    let probe = async {
        let nowhere = "token_bucket_client.nowhere".into();
        let properties = BasicProperties::default();
        channel
            .basic_publish("".into(), nowhere, options, b"", properties)
            .await?
            .await
    };
    link.answer(probe).await?;
    link.close_channel(&channel).await;
    Ok(())
}

/// Sends tokens on a channel of its own. An error means that none are there.
pub(crate) async fn tokens(link: &Link, bucket: &Name, tokens: u32) -> Result<Sent, Failure> {
    let channel = channel(link).await?;
    let sent = send(link, &channel, bucket, tokens).await;
    link.close_channel(&channel).await;
    match sent {
        Err(Failure::Lost(reason) | Failure::Channel(reason)) => Ok(Sent::Unknown(reason)),
        sent => sent,
    }
}

async fn send(link: &Link, channel: &Channel, bucket: &Name, tokens: u32) -> Result<Sent, Failure> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let publish = async || {
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let confirm = channel.basic_publish("".into(), bucket.wire(), options, b"{}", properties);
        confirm.await?.await
    };
    let (mut returned, mut left) = (0, tokens as usize);
    while left > 0 {
        let part = left.min(MOST_AT_ONCE);
        let confirmed = link
            .answer(try_join_all((0..part).map(|_| publish())))
            .await?;
        for confirmation in confirmed {
            match confirmation {
                Confirmation::Ack(None) | Confirmation::NotRequested => {}
                Confirmation::Ack(Some(_)) => returned += 1,
                Confirmation::Nack(_) => return Ok(Sent::Refused),
            }
        }
        left -= part;
    }
    Ok(match returned {
        0 => Sent::All,
        returned => Sent::Returned(returned),
    })
}
