//! What can go wrong, in words for the person who has to do something about it.

use std::path::PathBuf;
use std::time::Duration;

use token_bucket_endpoint::{EndpointError, SecretError};

/// Why a token was not taken or not given back. No variant carries a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// That is no name of a bucket.
    #[error(
        "{0:?} is no name of a bucket: it has 1 to 200 letters, digits and underscores, as spec.name of its TokenBucket says"
    )]
    InvalidName(String),
    /// No or too many tokens at one time.
    #[error("{tokens} tokens at one time: ask for 1 to {most}")]
    InvalidCount {
        /// So many were asked for.
        tokens: u32,
        /// So many may be.
        most: u32,
    },
    /// The URI of the broker cannot be used.
    #[error(transparent)]
    InvalidUri(#[from] EndpointError),
    /// The Secret that is mounted here cannot be used.
    #[error("the Secret in {path}: {source}")]
    InvalidSecret {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        source: SecretError,
    },
    /// The Secret that should be mounted here cannot be read.
    #[error("the Secret in {path} cannot be read: {reason}. Is it mounted there?")]
    UnreadableSecret {
        /// Its folder.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// No AMQP connection could be made for as long as a call may wait for one.
    #[error(
        "no connection to {endpoint}: {reason}. Is the broker running, and is this its AMQP address (usually 5672, by TLS 5671)?"
    )]
    Unreachable {
        /// The broker, without password.
        endpoint: String,
        /// What the network or the broker said.
        reason: String,
    },
    /// User name or password are wrong.
    #[error("{endpoint} refused user name or password")]
    AuthenticationRefused {
        /// The broker, without password.
        endpoint: String,
    },
    /// The virtual host does not exist, or is not open to the user.
    #[error("{endpoint} refused the virtual host: {message}")]
    VhostRefused {
        /// The broker, without password.
        endpoint: String,
        /// The broker's own words.
        message: String,
    },
    /// The user lacks a permission, or the queue is not open to it.
    #[error(
        "the broker does not let bucket {bucket} (queue {queue}) be used: to {doing} takes {needs} ({message})"
    )]
    AccessRefused {
        /// The bucket.
        bucket: String,
        /// Its queue.
        queue: String,
        /// What was tried.
        doing: &'static str,
        /// The permission that it takes.
        needs: &'static str,
        /// The broker's own words.
        message: String,
    },
    /// There is no such queue, and has been none for some time.
    #[error(
        "bucket {bucket} has no queue {queue}: is there a TokenBucket with that spec.name, is it Ready, and at this broker and \
         virtual host? (kubectl get tokenbuckets --all-namespaces)"
    )]
    NoQueue {
        /// The bucket.
        bucket: String,
        /// Its queue.
        queue: String,
    },
    /// The queue is there, and cannot be reached at present.
    #[error("bucket {bucket}: queue {queue} is not available: {message}")]
    QueueUnavailable {
        /// The bucket.
        bucket: String,
        /// Its queue.
        queue: String,
        /// The broker's own words.
        message: String,
    },
    /// The deadline has passed, and there was no token.
    #[error("bucket {bucket} had no token within {within:?}")]
    Timeout {
        /// The bucket, or several.
        bucket: String,
        /// How long it was waited.
        within: Duration,
    },
    /// The queue does not take the token back.
    #[error(
        "queue {queue} of bucket {bucket} takes no token back: a policy limits it with reject-publish"
    )]
    RefundRefused {
        /// The bucket.
        bucket: String,
        /// Its queue.
        queue: String,
    },
    /// The connection was lost while a token was on its way back. It is not sent again, as there could be two then.
    #[error(
        "bucket {bucket} may have its token back or not: the connection was lost in between ({reason})"
    )]
    RefundUnknown {
        /// The bucket.
        bucket: String,
        /// What ended the connection.
        reason: String,
    },
    /// That is no schedule, or no time zone.
    #[error("{0}")]
    InvalidSchedule(String),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// Something that should not happen.
    #[error("unexpected answer of the broker or of the AMQP library: {0}")]
    Protocol(String),
}

impl Error {
    /// Whether the same may work later, without anybody changing anything here.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::NoQueue { .. }
                | Self::QueueUnavailable { .. }
                | Self::Timeout { .. }
        )
    }
}
