//! What an answer of the broker means.

use lapin::ErrorKind;

use super::{Action, BrokerError, quoted};
use endpoint::{Endpoint, is_unavailable};

/// The broker's reply code for an error of its own, which ends the connection.
const INTERNAL_ERROR: u16 = 541;

impl BrokerError {
    /// For what happens while connecting.
    pub(crate) fn connecting(endpoint: &Endpoint, error: &lapin::Error) -> Self {
        let (name, vhost) = (endpoint.to_string(), endpoint.vhost().to_owned());
        match error.kind() {
            ErrorKind::ProtocolError(error) => {
                match (error.get_id(), quoted(error.get_message().as_str())) {
                    (_, message) if is_limit(&message) => Self::Limit { message },
                    (403, _) => Self::AuthenticationRefused { endpoint: name },
                    (402 | 530, message) => Self::VhostRefused { vhost, message },
                    (_, reason) => Self::Unreachable {
                        endpoint: name,
                        reason,
                    },
                }
            }
            ErrorKind::IOError(io) => {
                let inner = io.get_ref();
                match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    Some(error) => Self::of_tls(endpoint, error),
                    None => Self::Unreachable {
                        endpoint: name,
                        reason: quoted(&inner.map_or_else(|| io.to_string(), ToString::to_string)),
                    },
                }
            }
            _ => Self::Unreachable {
                endpoint: name,
                reason: quoted(&error.to_string()),
            },
        }
    }

    /// For what ends a connection.
    pub(crate) fn lost(error: &lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(error) if is_limit(error.get_message().as_str()) => {
                let message = quoted(error.get_message().as_str());
                Self::Limit { message }
            }
            ErrorKind::ProtocolError(error) if error.get_id() == INTERNAL_ERROR => Self::Internal {
                message: quoted(error.get_message().as_str()),
            },
            _ => Self::ConnectionLost {
                reason: quoted(&error.to_string()),
            },
        }
    }

    /// For what happens to `action`.
    pub(crate) fn doing(action: Action<'_>, error: &lapin::Error) -> Self {
        let queue = action.queue.to_owned();
        match error.kind() {
            ErrorKind::ProtocolError(error) => {
                match (error.get_id(), quoted(error.get_message().as_str())) {
                    (_, message) if is_limit(&message) => Self::Limit { message },
                    (403, message) if message.contains("exclusive use") => Self::InUse { queue },
                    (403, message) => Self::AccessRefused {
                        what: refused(&action, &message),
                    },
                    (404, message) if is_unavailable(&message) => {
                        Self::QueueUnavailable { queue, message }
                    }
                    (404, message) => Self::NoQueue {
                        queue: missing(&message).map_or(queue, str::to_owned),
                    },
                    (405, _) => Self::Locked { queue },
                    // Only a commit can be incomplete: whoever declares is told of arguments.
                    (406, message) if message.contains("partial tx completion") => {
                        Self::PartlyRefused
                    }
                    (406, message) => Self::OtherArguments { queue, message },
                    (INTERNAL_ERROR, message) => Self::Internal { message },
                    (_, reason)
                        if matches!(error.kind(), lapin::protocol::AMQPErrorKind::Hard(_)) =>
                    {
                        Self::ConnectionLost { reason }
                    }
                    (_, reason) => Self::ChannelClosed { reason },
                }
            }
            ErrorKind::InvalidChannel(_) | ErrorKind::InvalidChannelState(..) => {
                Self::ChannelClosed {
                    reason: quoted(&error.to_string()),
                }
            }
            ErrorKind::ChannelsLimitReached => Self::WornOut,
            _ => Self::lost(error),
        }
    }
}

/// Whether that is what the broker says of a limit. It has no reply code of its own: RabbitMQ answers 406 for queues, and 530
/// for connections and channels, as for many other things.
fn is_limit(message: &str) -> bool {
    ["limit", "maximum"]
        .iter()
        .any(|word| message.contains(word))
        && ["is reached", "has reached"]
            .iter()
            .any(|words| message.contains(words))
}

/// The queue that is missing, of many that were named at one time.
fn missing(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("no queue '")?;
    rest.split_once("' in vhost").map(|(queue, _)| queue)
}

/// The permission that is missing. Since 3.12 or so the broker's text names it; before that only the object.
fn refused(action: &Action<'_>, message: &str) -> String {
    let text = message.strip_prefix("ACCESS_REFUSED - ").unwrap_or(message);
    let named = ["configure", "write", "read"]
        .into_iter()
        .any(|name| text.starts_with(name));
    if named {
        format!("{} ({text})", action.verb)
    } else {
        format!(
            "{}: it takes {} permission ({text})",
            action.verb, action.needs
        )
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn told(code: u16, message: &str) -> BrokerError {
        let action = Action {
            verb: "read queue q",
            needs: "read",
            queue: "q",
        };
        let error = AMQPError::from_id(code, message.into()).unwrap();
        BrokerError::doing(action, &ErrorKind::ProtocolError(error).into())
    }

    #[test]
    fn the_brokers_codes_become_what_a_person_can_act_on() {
        assert_eq!(
            told(
                403,
                "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
            ),
            BrokerError::InUse { queue: "q".into() }
        );
        assert_eq!(
            told(405, "RESOURCE_LOCKED - cannot obtain exclusive access"),
            BrokerError::Locked { queue: "q".into() }
        );
        assert_eq!(
            told(404, "NOT_FOUND - no queue 'q' in vhost '/'"),
            BrokerError::NoQueue { queue: "q".into() }
        );
        assert!(
            told(320, "CONNECTION_FORCED - broker forced connection closure").is_connection_lost()
        );
        assert!(told(541, "INTERNAL_ERROR").is_connection_lost());
        assert_eq!(told(541, "INTERNAL_ERROR").kind(), "BrokerInternalError");
        assert_eq!(told(311, "CONTENT_TOO_LARGE").kind(), "ChannelClosed");
    }

    #[test]
    fn a_queue_that_cannot_be_reached_is_not_missing() {
        for words in [
            "home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
            "failed to perform operation on queue 'q' in vhost '/' due to timeout",
            "queue 'q' in vhost '/' process is stopped by supervisor",
            "queue 'q' in vhost '/' has crashed and failed to restart",
            "failed to perform operation on queue 'q' in vhost '/': its master replica <1.2.3> may be stopping or being demoted",
        ] {
            let error = told(404, &format!("NOT_FOUND - {words}"));
            assert_eq!(error.kind(), "QueueUnavailable", "{words}");
            assert_eq!(error.failure().class, bucket::machine::Class::Unavailable);
            assert!(
                error.to_string().starts_with("queue q is not available"),
                "{error}"
            );
        }
        // LavinMQ.
        for words in ["Queue 'q' doesn't exists", "Queue 'q' not found"] {
            assert_eq!(told(404, words), BrokerError::NoQueue { queue: "q".into() });
        }
        assert_eq!(
            told(405, "RESOURCE_LOCKED - Exclusive queue").kind(),
            "QueueLocked"
        );
    }

    #[test]
    fn the_words_of_a_server_are_cut_and_escaped() {
        let text = format!("a\nlevel=error \u{1b}[31m{}", "x".repeat(10_000));
        let quoted = quoted(&text);
        assert!(
            quoted.starts_with(r"a\nlevel=error \u{1b}[31mxxx"),
            "{quoted}"
        );
        assert!(quoted.len() < 500);
    }

    #[test]
    fn a_missing_permission_is_named_also_when_the_broker_does_not() {
        let old = told(
            403,
            "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'",
        )
        .to_string();
        assert!(old.contains("it takes read permission"), "{old}");
        let new = told(
            403,
            "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'u'",
        )
        .to_string();
        assert!(
            !new.contains("it takes") && new.contains("read access to queue 'q'"),
            "{new}"
        );
    }
}
