//! Takes tokens that are there. A token is the caller's only when the broker has let go of it, so none is ever there twice.

use futures::future::{join_all, try_join};
use lapin::Channel;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;

use crate::failure::Failure;
use crate::link::Link;
use crate::name::Name;

/// Takes one token, if there is one. The broker forgets it with the answer: when that does not come, the token is lost.
pub(crate) async fn one(link: &Link, bucket: &Name) -> Result<bool, Failure> {
    let channel = link.lease().await?;
    let get = channel.basic_get(bucket.wire(), BasicGetOptions { no_ack: true });
    let got = link.answer(get).await?;
    channel.put_back();
    Ok(got.is_some())
}

/// Counts the tokens that are ready.
pub(crate) async fn count(link: &Link, bucket: &Name) -> Result<u32, Failure> {
    let channel = link.lease().await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(bucket.wire(), passive, FieldTable::default());
    let queue = link.answer(declare).await?;
    channel.put_back();
    Ok(queue.message_count())
}

/// Holds these many tokens of each bucket, until one is short: then it is which one. `held` has the delivery tags of each bucket, also after
/// an error, which comes with the bucket that it is about.
pub(crate) async fn hold(
    link: &Link,
    channel: &Channel,
    wanted: &[(Name, u32)],
    held: &mut Vec<Vec<u64>>,
) -> Result<Option<usize>, (usize, Failure)> {
    for (at, (bucket, count)) in wanted.iter().enumerate() {
        let get = || channel.basic_get(bucket.wire(), BasicGetOptions { no_ack: false });
        let gets = join_all((0..*count).map(|_| get()));
        let gets = link.answer(async { Ok(gets.await) }).await;
        let mut tokens = Vec::new();
        let mut failed = None;
        for got in gets.map_err(|failure| (at, failure))? {
            match link.answer(async { got }).await {
                Ok(Some(got)) => tokens.push(got.delivery.delivery_tag),
                Ok(None) => {}
                // The others fail with it.
                Err(failure) => {
                    failed = Some(failure);
                    break;
                }
            }
        }
        let is_short = tokens.len() < *count as usize;
        held.push(tokens);
        match failed {
            Some(failure) => return Err((at, failure)),
            None if is_short => return Ok(Some(at)),
            None => {}
        }
    }
    Ok(None)
}

/// Takes everything that is held on a channel up to this one. When it has answered, the broker has let go of them: it handles what
/// comes on a channel in order, and the question behind the acknowledgement costs it nothing.
pub(crate) async fn take_up_to(
    link: &Link,
    channel: &Channel,
    tag: u64,
    prefetch: u16,
) -> Result<(), Failure> {
    let ack = channel.basic_ack(tag, BasicAckOptions { multiple: true });
    let answered = channel.basic_qos(prefetch, BasicQosOptions::default());
    link.answer(try_join(ack, answered)).await.map(drop)
}

/// Gives everything back that is held on a channel up to this one.
pub(crate) async fn give_back_up_to(
    link: &Link,
    channel: &Channel,
    tag: u64,
) -> Result<(), Failure> {
    let options = BasicNackOptions {
        multiple: true,
        requeue: true,
    };
    let nack = channel.basic_nack(tag, options);
    let answered = channel.basic_qos(0, BasicQosOptions::default());
    link.answer(try_join(nack, answered)).await.map(drop)
}
