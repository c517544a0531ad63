//! What has to be known of RabbitMQ's answers and of the client library by whoever opens channels.

use lapin::protocol::AMQPErrorKind;
use lapin::{Channel, Connection, ErrorKind};

/// Opens a channel. The client library remembers by its number that the broker has closed a channel with an error, and
/// refuses the next one with that number: then it is tried with another.
///
/// # Errors
/// When the connection ends, or has no more numbers.
pub async fn open_channel(connection: &Connection) -> lapin::Result<Channel> {
    loop {
        match connection.create_channel().await {
            Err(error) if closes_channel(&error) => {}
            opened => return opened,
        }
    }
}

/// Whether the broker has closed a channel with this error, and not the connection.
#[must_use]
pub fn closes_channel(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => matches!(error.kind(), AMQPErrorKind::Soft(_)),
        _ => false,
    }
}

/// Whether a queue that was not found (404) is there all the same. RabbitMQ has one reply code for both, and takes for missing
/// what has messages in it; so what it says of each is what there is to go by (`rabbit_amqqueue:absent/2`, 3.10 to 4.0).
#[must_use]
pub fn is_unavailable(message: &str) -> bool {
    [
        "is down or inaccessible",
        "due to timeout",
        "process is stopped by supervisor",
        "has crashed and failed to restart",
        "may be stopping or being demoted",
    ]
    .iter()
    .any(|words| message.contains(words))
}
