//! The wire contract: names, arguments and messages, and what the broker's texts mean.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::error::BrokerError;
use super::version::Version;
use bucket::QueueType;

/// Most requests that are kept in the queue for rejected ones.
pub(super) const MOST_REJECTED: u64 = 10_000;

/// A queue's name as AMQP has it.
pub(super) fn name(queue: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(queue).map_err(|error| BrokerError::Protocol {
        message: format!("queue name: {error}"),
    })
}

/// Arguments of a bucket's or a ledger's queue.
pub(super) fn queue_arguments(kind: QueueType, maximum: Option<u64>) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Some(maximum) = maximum {
        arguments.insert(
            "x-max-length".into(),
            AMQPValue::LongLongInt(maximum.try_into().unwrap_or(i64::MAX)),
        );
    }
    if kind == QueueType::Quorum {
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
    }
    arguments
}

/// The same arguments for a broker that lets a virtual host choose the type of what is declared without one, which
/// RabbitMQ does from 3.11 on. A refill queue in particular must not
/// become a queue that knows no exclusive consumers.
pub(super) fn explicit(mut arguments: FieldTable, broker: Option<&Version>) -> FieldTable {
    let chooses = broker
        .and_then(Version::rabbitmq)
        .is_some_and(|series| series >= (3, 11));
    if chooses && !arguments.contains_key("x-queue-type") {
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("classic".into()),
        );
    }
    arguments
}

/// Arguments of a refill queue. A Celery app that sends to it declares it without any.
pub(super) fn refill_queue_arguments(kind: QueueType) -> FieldTable {
    let mut arguments = queue_arguments(kind, None);
    if kind == QueueType::Quorum {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments
}

/// Arguments of the queue for rejected requests.
pub(super) fn rejected_queue_arguments() -> FieldTable {
    queue_arguments(QueueType::Classic, Some(MOST_REJECTED))
}

/// Properties of what has to survive a restart of the broker.
pub(super) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// Reads the broker's refusal of a declaration: when it is about `x-max-length`, the limit in force (None: no limit).
pub(super) fn other_limit(message: &str) -> Option<Option<u64>> {
    let (_, rest) = message.split_once("inequivalent arg 'x-max-length'")?;
    let (_, current) = rest.rsplit_once("current is ")?;
    if current.starts_with("none") {
        return Some(None);
    }
    current.split('\'').nth(1)?.parse().ok().map(Some)
}

/// Reads the broker's refusal of a declaration: the argument or property that differs. Not every broker names it.
pub(super) fn other_argument(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("inequivalent arg '")?;
    rest.split_once('\'').map(|(name, _)| name)
}

/// Reads the broker's refusal of a declaration: when it is about the type of the queue, the type that it has.
pub(super) fn other_type(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("inequivalent arg 'x-queue-type'")?;
    let (_, current) = rest.rsplit_once("current is ")?;
    if current.starts_with("none") {
        return Some("classic");
    }
    current.split('\'').nth(1)
}

/// An AMQP integer of any width, unless it is negative.
pub(super) fn integer(value: &AMQPValue) -> Option<u64> {
    match *value {
        AMQPValue::ShortShortInt(value) => value.try_into().ok(),
        AMQPValue::ShortShortUInt(value) => Some(value.into()),
        AMQPValue::ShortInt(value) => value.try_into().ok(),
        AMQPValue::ShortUInt(value) => Some(value.into()),
        AMQPValue::LongInt(value) => value.try_into().ok(),
        AMQPValue::LongUInt(value) => Some(value.into()),
        AMQPValue::LongLongInt(value) => value.try_into().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_refusal_tells_the_limit_in_force() {
        let text = |rest: &str| format!("PRECONDITION_FAILED - inequivalent arg {rest}");
        for (message, limit) in [
            (
                "'x-max-length' for queue 'q' in vhost '/': received '10' but current is '3'",
                Some(Some(3)),
            ),
            (
                "'x-max-length' for queue 'q' in vhost '/': received the value '10' of type 'signedint' but current is none",
                Some(None),
            ),
            (
                "'x-max-length' for queue 'q' in vhost '/': received none but current is the value '3' of type 'signedint'",
                Some(Some(3)),
            ),
            (
                "'x-queue-type' for queue 'q' in vhost '/': received none but current is the value 'quorum' of type 'longstr'",
                None,
            ),
            (
                "'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
                None,
            ),
        ] {
            assert_eq!(other_limit(&text(message)), limit, "{message}");
            assert_eq!(other_argument(&text(message)), message.split('\'').nth(1));
        }
        // LavinMQ.
        let unnamed = "PRECONDITION_FAILED - Existing queue 'q' declared with other arguments";
        assert_eq!(
            (other_limit(unnamed), other_argument(unnamed)),
            (None, None)
        );
        for (message, kind) in [
            (
                "'x-queue-type' for queue 'q' in vhost '/': received none but current is the value 'quorum' of type 'longstr'",
                Some("quorum"),
            ),
            (
                "'x-queue-type' for queue 'q' in vhost '/': received 'classic' but current is 'stream'",
                Some("stream"),
            ),
            (
                "'x-queue-type' for queue 'q' in vhost '/': received the value 'quorum' of type 'longstr' but current is none",
                Some("classic"),
            ),
            (
                "'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
                None,
            ),
        ] {
            assert_eq!(other_type(&text(message)), kind, "{message}");
        }
    }
}
