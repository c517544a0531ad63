//! The end of a connection.

use tokio::time::{Duration, timeout};
use tracing::warn;

use super::connection::Broker;
use super::error::BrokerError;
use super::unreadable;

/// Limit for the removal of a message that cannot be read.
const CLEAN_LIMIT: Duration = Duration::from_secs(30);

impl Broker {
    /// Says goodbye. Everything that is under way on the connection ends with an error. When it has ended over a message
    /// that cannot be read, that message is removed from the refill queues that were consumed: the next connection
    /// would end like this one.
    pub async fn close(&self) {
        if self.end().await != BrokerError::UnreadableMessage {
            return;
        }
        for queue in self.consumed() {
            match timeout(CLEAN_LIMIT, unreadable::remove(self.endpoint(), &queue)).await {
                Ok(Ok(true)) => warn!(
                    queue,
                    "removed a message that cannot be read: not UTF-8 text"
                ),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    warn!(queue, %error, "a message that cannot be read may be in the way")
                }
                Err(_) => warn!(queue, "a message that cannot be read may be in the way"),
            }
        }
    }
}
