//! Why queues could not be removed.

use bucket::machine::{Failure, RemoveFailure};

/// Why queues could not be removed; try again later.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no connection to the broker at the moment.
    #[error("the broker is not connected")]
    NotConnected,
    /// The broker refused, or went away meanwhile.
    #[error("{}", .0.message)]
    Broker(Failure),
}

impl RemoveError {
    /// One of a fixed set of CamelCase words.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected => "NotConnected",
            Self::Broker(failure) => failure.reason,
        }
    }
}

impl From<RemoveFailure> for RemoveError {
    fn from(failure: RemoveFailure) -> Self {
        match failure {
            RemoveFailure::NotConnected => Self::NotConnected,
            RemoveFailure::Broker(failure) => Self::Broker(failure),
        }
    }
}
