//! What an answer of the broker means for what comes next.

use lapin::ErrorKind;
use lapin::protocol::AMQPErrorKind;
use token_bucket_endpoint::is_unavailable;

/// Why something asked of the broker did not happen.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// There is no queue, or the operator is just making it.
    NoQueue,
    /// Its node is down, or its process.
    Unavailable(String),
    /// Not allowed.
    Refused(String),
    /// The connection is of no use any more.
    Lost(String),
    /// The channel is gone, the connection is not.
    Channel(String),
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let text = amqp.get_message().as_str();
                match (amqp.get_id(), amqp.kind()) {
                    (_, AMQPErrorKind::Hard(_)) => Self::Lost(text.to_owned()),
                    (404, _) if is_unavailable(text) => Self::Unavailable(text.to_owned()),
                    // Its name is reserved while it is made.
                    (404 | 405, _) => Self::NoQueue,
                    (403, _) => Self::Refused(text.to_owned()),
                    _ => Self::Channel(text.to_owned()),
                }
            }
            ErrorKind::InvalidChannel(_) | ErrorKind::InvalidChannelState(..) => {
                Self::Channel(error.to_string())
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}
