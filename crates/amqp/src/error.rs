//! What can go wrong between the operator and a broker, in words for the person who has to do something about it.

mod explain;
mod tls;

use bucket::machine::{Class, Failure};

/// Why the broker did not do what was asked. No variant carries a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// No AMQP connection could be made.
    #[error(
        "no connection to {endpoint}: {reason}. Is the broker running, and is this its AMQP address (usually 5672, by TLS 5671)?"
    )]
    Unreachable {
        /// The broker, without password.
        endpoint: String,
        /// What the network or the broker said.
        reason: String,
    },
    /// The broker's certificate is not one that is trusted for its address.
    #[error("the certificate of {endpoint} is refused: {reason}")]
    CertificateRefused {
        /// The broker, without password.
        endpoint: String,
        /// What is wrong with the certificate, and what to do.
        reason: String,
    },
    /// The broker asks for a certificate, or for another one.
    #[error("{endpoint} does not let the operator in: {reason}")]
    ClientCertificateRefused {
        /// The broker, without password.
        endpoint: String,
        /// What it wants.
        reason: String,
    },
    /// User name or password are wrong.
    #[error(
        "{endpoint} refused user name or password. Correct the credentials, or create the user"
    )]
    AuthenticationRefused {
        /// The broker, without password.
        endpoint: String,
    },
    /// The virtual host does not exist, or is not open to the user.
    #[error(
        "the broker refused virtual host {vhost}: {message}. Create it, or give the user permissions on it"
    )]
    VhostRefused {
        /// The virtual host.
        vhost: String,
        /// The broker's own words.
        message: String,
    },
    /// The user lacks a permission.
    #[error(
        "the broker's user may not {what}. Give it that permission (rabbitmqctl set_permissions)"
    )]
    AccessRefused {
        /// The permission and its object.
        what: String,
    },
    /// Somebody else consumes the queue.
    #[error(
        "queue {queue} is in use by another consumer or connection. Stop it, or give the buckets a refillQueue of their own"
    )]
    InUse {
        /// The queue.
        queue: String,
    },
    /// The queue is exclusive to another connection.
    #[error(
        "queue {queue} is exclusive to another connection, and goes when that ends. Stop the program that has declared it, or \
         use another name"
    )]
    Locked {
        /// The queue.
        queue: String,
    },
    /// The queue is there, and cannot be reached at present.
    #[error(
        "queue {queue} is not available: {message}. Its node is down, or its process; refills go on when it is back"
    )]
    QueueUnavailable {
        /// The queue.
        queue: String,
        /// The broker's own words.
        message: String,
    },
    /// The broker has ended the connection over an error of its own.
    #[error(
        "the broker ended the connection over an error of its own: {message}. Its log says more"
    )]
    Internal {
        /// The broker's own words.
        message: String,
    },
    /// The queue does not exist.
    #[error("there is no queue {queue}")]
    NoQueue {
        /// The queue.
        queue: String,
    },
    /// The queue exists with other arguments.
    #[error(
        "queue {queue} exists with other arguments: {message}. Use another queue; this one stays as it is"
    )]
    OtherArguments {
        /// The queue.
        queue: String,
        /// The broker's own words.
        message: String,
    },
    /// There is something in the queue.
    #[error("queue {queue} is not empty")]
    NotEmpty {
        /// The queue.
        queue: String,
    },
    /// The queue of parked requests has room for no more.
    #[error(
        "queue {queue}, where requests are kept that cannot be carried out, is full: no more requests are taken, so that none \
         is lost. Look at what is in it, and purge it"
    )]
    ParkedQueueFull {
        /// The queue of parked requests.
        queue: String,
    },
    /// The broker is too old for what the buckets want.
    #[error(
        "{broker} may lose refills on quorum queues: it does not carry out a transaction on them as a whole, RabbitMQ \
         3.13 and newer do. Upgrade the broker, or {instead}"
    )]
    UnsupportedVersion {
        /// Product and version.
        broker: String,
        /// What to do instead of an upgrade.
        instead: &'static str,
    },
    /// A limit is reached that somebody has set at the broker.
    #[error(
        "the broker has reached a limit: {message}. Raise it; the operator needs one connection, four channels and one more for each \
         refill queue, and two queues for each bucket beside the refill queues"
    )]
    Limit {
        /// The broker's own words.
        message: String,
    },
    /// The broker has ended the connection because one more channel was one too many.
    #[error(
        "the broker has reached a limit: {message}. Raise it; the operator needs four channels and one more for each refill \
         queue, and {most} were open"
    )]
    ChannelLimit {
        /// How many there may be, as far as one can tell.
        most: usize,
        /// The broker's own words.
        message: String,
    },
    /// A queue did not take a message of a transaction, the rest of which was carried out.
    #[error(
        "the bucket's queue or its ledger's refuses messages, and of a refill only a part is there: a policy limits it with \
         reject-publish. Take the queues of buckets out of that policy, or raise its max-length (rabbitmqctl list_policies, \
         list_operator_policies)"
    )]
    PartlyRefused,
    /// The broker did not take responsibility for a message.
    #[error(
        "queue {queue} refuses messages: a policy limits it with reject-publish. Take it out of that policy, or raise its \
         max-length (rabbitmqctl list_policies, list_operator_policies)"
    )]
    MessageRefused {
        /// The queue.
        queue: String,
    },
    /// A resource alarm is in force; the broker answers nobody who has published.
    #[error(
        "the broker accepts nothing at present because it is short of memory or disk space (resource alarm)"
    )]
    Blocked,
    /// The broker did not answer, though its connection is alive. The connection is given up.
    #[error("the broker did not answer in time: {doing}")]
    Timeout {
        /// What was asked.
        doing: &'static str,
    },
    /// The connection is gone.
    #[error("the connection to the broker is lost: {reason}")]
    ConnectionLost {
        /// What ended it.
        reason: String,
    },
    /// The connection has been used up, and is replaced by a new one.
    #[error(
        "the connection to the broker is used up: the broker has closed very many channels over errors"
    )]
    WornOut,
    /// The channel is gone, the connection is not.
    #[error("the broker closed the channel: {reason}")]
    ChannelClosed {
        /// What ended it.
        reason: String,
    },
    /// Something that should not happen.
    #[error("unexpected answer of the broker or of its client library: {message}")]
    Protocol {
        /// What it was.
        message: String,
    },
}

impl BrokerError {
    /// The class of the error: one of a fixed set of names, for metrics and conditions.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "BrokerUnreachable",
            Self::CertificateRefused { .. } => "CertificateRefused",
            Self::ClientCertificateRefused { .. } => "ClientCertificateRefused",
            Self::AuthenticationRefused { .. } => "AuthenticationRefused",
            Self::VhostRefused { .. } => "VhostRefused",
            Self::AccessRefused { .. } => "AccessRefused",
            Self::InUse { .. } => "QueueInUse",
            Self::Locked { .. } => "QueueLocked",
            Self::QueueUnavailable { .. } => "QueueUnavailable",
            Self::Internal { .. } => "BrokerInternalError",
            Self::NoQueue { .. } => "NoQueue",
            Self::OtherArguments { .. } => "QueueArgumentsDiffer",
            Self::NotEmpty { .. } => "QueueNotEmpty",
            Self::ParkedQueueFull { .. } => "ParkedQueueFull",
            Self::UnsupportedVersion { .. } => "UnsupportedBrokerVersion",
            Self::Limit { .. } | Self::ChannelLimit { .. } => "BrokerLimit",
            Self::MessageRefused { .. } | Self::PartlyRefused => "MessageRefused",
            Self::Blocked => "BrokerBlocked",
            Self::Timeout { .. } => "BrokerTimeout",
            Self::ConnectionLost { .. } => "ConnectionLost",
            Self::WornOut => "ConnectionWornOut",
            Self::ChannelClosed { .. } => "ChannelClosed",
            Self::Protocol { .. } => "ProtocolError",
        }
    }

    /// The connection it happened on is of no use any more.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(
            self,
            Self::ConnectionLost { .. }
                | Self::ChannelLimit { .. }
                | Self::Internal { .. }
                | Self::Timeout { .. }
                | Self::WornOut
        )
    }

    /// Trying again does not help; a person has to change something first.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        matches!(
            self,
            Self::AuthenticationRefused { .. }
                | Self::VhostRefused { .. }
                | Self::AccessRefused { .. }
                | Self::InUse { .. }
                | Self::Locked { .. }
                | Self::OtherArguments { .. }
                | Self::NotEmpty { .. }
                | Self::ParkedQueueFull { .. }
                | Self::UnsupportedVersion { .. }
                | Self::Limit { .. }
                | Self::PartlyRefused
        )
    }

    /// What it means for what comes next.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let class = match self {
            Self::Internal { .. } => Class::Crash,
            error if error.is_connection_lost() => Class::ConnectionLost,
            Self::Blocked => Class::Blocked,
            Self::NoQueue { .. } => Class::NoQueue,
            Self::InUse { .. } | Self::Locked { .. } => Class::InUse,
            Self::MessageRefused { .. } => Class::Refused,
            Self::QueueUnavailable { .. } => Class::Unavailable,
            error if error.needs_person() => Class::Person,
            _ => Class::Transient,
        };
        Failure {
            reason: self.kind(),
            message: self.to_string(),
            class,
        }
    }
}

/// A server's words as they may stand in a condition, an event or a log: cut, and without control characters.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 400;
    let mut quoted = String::new();
    for character in text.chars().take(MOST) {
        if character.is_control() {
            quoted.extend(character.escape_default());
        } else {
            quoted.push(character);
        }
    }
    quoted
}

/// Something asked of the broker, for error messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action<'a> {
    /// What is done, as one says it.
    pub(super) verb: &'static str,
    /// The permission that it takes.
    pub(super) needs: &'static str,
    /// The queue that it is about.
    pub(super) queue: &'a str,
}
