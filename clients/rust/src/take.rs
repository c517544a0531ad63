//! Takes tokens that are there. A token is the caller's only when the broker has let go of it, so none is ever there twice.

use futures::future::{join_all, try_join, try_join_all};
use lapin::Channel;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};

use crate::failure::Failure;
use crate::link::Link;
use crate::name::Name;

/// How often a quorum queue has given the message out before. RabbitMQ 4 drops it after a number of times, 20 unless a policy says
/// another.
const DELIVERY_COUNT: &str = "x-delivery-count";

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

/// A token that the broker has given out, and gets back unless it is acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldToken {
    pub(crate) tag: u64,
    /// It was given back before. The next time it may be dropped.
    pub(crate) is_worn: bool,
}

impl HeldToken {
    pub(crate) fn new(tag: u64, headers: Option<&FieldTable>) -> Self {
        let count = headers.and_then(|headers| headers.inner().get(DELIVERY_COUNT));
        let is_worn = match count {
            None => false,
            Some(AMQPValue::LongLongInt(count)) => *count > 0,
            Some(AMQPValue::LongInt(count)) => *count > 0,
            Some(AMQPValue::ShortShortUInt(count)) => *count > 0,
            Some(_) => true,
        };
        Self { tag, is_worn }
    }
}

/// Holds these many tokens of each bucket, or those that there are of the first that is short.
pub(crate) async fn hold(
    link: &Link,
    channel: &Channel,
    wanted: &[(Name, u32)],
) -> Result<Result<Vec<HeldToken>, (usize, Vec<HeldToken>)>, Failure> {
    let mut tokens = Vec::new();
    for (at, (bucket, count)) in wanted.iter().enumerate() {
        let get = || channel.basic_get(bucket.wire(), BasicGetOptions { no_ack: false });
        let gets = join_all((0..*count).map(|_| get()));
        let got = link.answer(async { Ok(gets.await) }).await?;
        for got in got {
            if let Some(got) = link.answer(async { got }).await? {
                let headers = got.properties.headers().as_ref();
                tokens.push(HeldToken::new(got.delivery.delivery_tag, headers));
            }
        }
        let before: usize = wanted[..=at].iter().map(|(_, count)| *count as usize).sum();
        if tokens.len() < before {
            return Ok(Err((at, tokens)));
        }
    }
    Ok(Ok(tokens))
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

/// Gives those back that were never given back before. The others are the caller's to replace.
pub(crate) async fn give_back(
    link: &Link,
    channel: &Channel,
    held: &[HeldToken],
) -> Result<(), Failure> {
    let options = BasicNackOptions {
        multiple: false,
        requeue: true,
    };
    let fresh = held.iter().filter(|token| !token.is_worn);
    let nacks = fresh.map(|token| channel.basic_nack(token.tag, options));
    link.answer(try_join_all(nacks)).await.map(drop)
}

/// Drops these, for which others were published.
pub(crate) async fn drop_worn(
    link: &Link,
    channel: &Channel,
    held: &[HeldToken],
) -> Result<(), Failure> {
    let worn = held.iter().filter(|token| token.is_worn);
    let acks = worn.map(|token| channel.basic_ack(token.tag, BasicAckOptions { multiple: false }));
    link.answer(try_join_all(acks)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_worn_that_a_quorum_queue_has_got_back_before() {
        let with = |value| {
            let mut headers = FieldTable::default();
            headers.insert(DELIVERY_COUNT.into(), value);
            HeldToken::new(1, Some(&headers)).is_worn
        };
        assert!(!HeldToken::new(1, None).is_worn);
        assert!(!HeldToken::new(1, Some(&FieldTable::default())).is_worn);
        assert!(!with(AMQPValue::LongLongInt(0)));
        assert!(with(AMQPValue::LongLongInt(1)));
        assert!(with(AMQPValue::LongString("many".into())));
    }
}
