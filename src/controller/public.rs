//! What people may read about a broker. Whoever may look at a TokenBucket may perhaps not look at its Secret, and whoever may
//! write both must not learn by them what answers at which address. So a status tells the class of a problem; hosts, users,
//! virtual hosts, certificates and the words of a server are in the operator's log. No client required.

use api::TokenBucketSpec;
use engine::{ConnectionState, Phase};

/// Whose broker it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whose<'s> {
    /// The Secret that names it; None: it is the operator's own.
    pub(super) secret: Option<&'s str>,
    /// The virtual host there that the resource names.
    pub(super) vhost: Option<&'s str>,
}

impl Whose<'_> {
    /// That of buckets without `connection`.
    pub(super) const OPERATOR: Self = Self {
        secret: None,
        vhost: None,
    };
}

impl<'s> From<&'s TokenBucketSpec> for Whose<'s> {
    fn from(spec: &'s TokenBucketSpec) -> Self {
        Self {
            secret: spec.secret(),
            vhost: spec.vhost(),
        }
    }
}

/// What is told of a problem, by the reason and the message that it has in the log.
pub(super) fn text(reason: &str, message: &str, whose: Whose<'_>) -> String {
    let broker = match whose.secret {
        None => "the operator's broker".to_owned(),
        Some(name) => format!("the broker that Secret {name} names"),
    };
    let written = match whose.secret {
        None => "the operator's --amqp-url",
        Some(_) => "the Secret",
    };
    match reason {
        // Refused, silent, unknown or no broker at all: all the same, so that nobody looks for open ports by it.
        "BrokerUnreachable" | "ConnectionLost" | "BrokerTimeout" | "ConnectionWornOut" => format!(
            "{broker} cannot be reached: is it running, and are host and port in {written} right? The operator's log says \
             more"
        ),
        "CertificateRefused" => {
            let authority = match whose.secret {
                None => {
                    "have its authority given to the operator (SSL_CERT_FILE; in the chart: broker.tls.caSecret)"
                }
                Some(_) => "write its authority's certificate into the key ca.crt of the Secret",
            };
            format!(
                "{broker} has a certificate that is not trusted, is not for the host in {written}, or has expired: {authority}, correct \
                 the host, or renew it. The operator's log says which"
            )
        }
        "ClientCertificateRefused" => {
            let pair = match whose.secret {
                None => {
                    "name it by a Secret with tls.crt and tls.key (spec.connection), as --amqp-url has none"
                }
                Some(_) => {
                    "write tls.crt and tls.key into the Secret, of an authority that the broker trusts"
                }
            };
            format!(
                "{broker} asks for a client certificate, or refuses the one that it is shown: {pair}"
            )
        }
        "AuthenticationRefused" => format!(
            "{broker} refuses user name or password: correct them in {written}, or create the user"
        ),
        "VhostRefused" => {
            let vhost = whose.vhost.map_or_else(
                || format!("the virtual host in {written}"),
                |vhost| format!("virtual host {vhost} of spec.connection.vhost"),
            );
            format!("{broker} refuses {vhost}: create it, or give the user permissions on it")
        }
        "AccessRefused" => {
            let permission = permission(message).map_or_else(String::new, |it| format!("{it} "));
            format!(
                "{broker} refuses something for lack of {permission}permission: give the user in {written} configure and read on \
                 the queues of the bucket and on the refill queue, and write on amq.default (rabbitmqctl set_permissions). \
                 The operator's log says more"
            )
        }
        "BrokerLimit" => format!(
            "{broker} has reached a limit of queues, connections or channels: raise it. The operator's log says which, and how \
             much it needs"
        ),
        "QueueArgumentsDiffer" => {
            // What comes before is ours, what comes after it is the server's.
            let ours = message.split_once(" exists with other arguments");
            let queue = ours.map_or("a queue", |(queue, _)| queue);
            let argument = argument(message).map_or_else(String::new, |it| format!(" ({it})"));
            let what_to_do = if message.ends_with("it is declared anew.") {
                "its messages stay, and refills wait; when it is empty it is declared anew"
            } else {
                "it stays as it is. Compare its arguments with those of other queues of its kind (rabbitmqctl list_queues name \
                 arguments policy), or use another name"
            };
            format!(
                "{queue} exists at {broker} with other arguments{argument}: {what_to_do}. The operator's log says more"
            )
        }
        "UnsupportedBrokerVersion" if whose.secret.is_some() => {
            let instead = message.rsplit_once(". Upgrade the broker, or ");
            let instead = instead.map_or_else(String::new, |(_, it)| format!(", or {it}"));
            format!(
                "{broker} is older than RabbitMQ 3.13 and may lose refills on quorum queues: upgrade it{instead}"
            )
        }
        "QueueUnavailable" => {
            let queue = message.split_once(" is not available");
            let queue = queue.map_or("a queue of the bucket", |(queue, _)| queue);
            format!(
                "{queue} is not available at {broker}: its node is down, or its process. Refills go on when it is back; the operator's log \
                 says more"
            )
        }
        "BrokerInternalError" => format!(
            "{broker} ended the connection over an error of its own. The operator tries again; their logs say more"
        ),
        "NoQueue" => format!("a queue of the bucket is missing at {broker}"),
        "ChannelClosed" | "ProtocolError" => format!(
            "{broker} broke off what the operator asked of it. It tries again by itself; its log says more"
        ),
        // Words of this program, and names that are in the resource.
        _ => message.to_owned(),
    }
}

/// The state of a connection as it may be told.
pub(super) fn connection(state: &ConnectionState, whose: Whose<'_>) -> ConnectionState {
    match state {
        ConnectionState::Up => ConnectionState::Up,
        ConnectionState::Down { reason, message } => ConnectionState::Down {
            reason,
            message: text(reason, message, whose),
        },
    }
}

/// The phase of a bucket as it may be told.
pub(super) fn phase(phase: &Phase, whose: Whose<'_>) -> Phase {
    match phase {
        Phase::Ready => Phase::Ready,
        Phase::Progressing { reason, message } => {
            Phase::progressing(reason, text(reason, message, whose))
        }
        Phase::Stalled { reason, message } => Phase::stalled(reason, text(reason, message, whose)),
    }
}

/// What is told of a queue with other arguments that is declared anew.
pub(super) fn replaced(message: &str) -> String {
    let argument = argument(message).map_or_else(String::new, |it| format!(" ({it})"));
    format!(
        "Somebody had declared the queue of the bucket with other arguments{argument}. It was empty, and is declared anew."
    )
}

/// What a phase does not tell, for the log; what concerns the whole connection is there already.
pub(super) fn hidden(phase: &Phase) -> Option<&str> {
    let (Phase::Progressing { reason, message } | Phase::Stalled { reason, message }) = phase
    else {
        return None;
    };
    let hidden = [
        "AccessRefused",
        "BrokerLimit",
        "QueueArgumentsDiffer",
        "QueueUnavailable",
        "NoQueue",
        "ChannelClosed",
        "ProtocolError",
    ];
    hidden.contains(reason).then_some(message)
}

/// The permission that is missing.
fn permission(message: &str) -> Option<&'static str> {
    ["configure", "write", "read"].into_iter().find(|name| {
        message.contains(&format!("({name} access "))
            || message.contains(&format!(" takes {name} permission"))
    })
}

/// The argument that differs.
fn argument(message: &str) -> Option<&'static str> {
    let arguments = [
        "x-max-length-bytes",
        "x-max-length",
        "x-max-priority",
        "x-dead-letter-exchange",
        "x-queue-mode",
        "x-queue-type",
        "x-single-active-consumer",
        "x-overflow",
        "x-expires",
        "x-message-ttl",
        "durable",
        "exclusive",
        "auto_delete",
    ];
    arguments
        .into_iter()
        .find(|name| message.contains(&format!("'{name}'")))
}

#[cfg(test)]
mod tests;
