//! Where a broker is and as whom to speak to it: what the operator and its clients read of URIs and Secrets, by the same
//! rules. Nothing here shows a password or a private key.

mod answers;
mod certificates;
mod dial;
mod secret;
mod uri;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

pub use answers::{closes_channel, is_unavailable, open_channel};
pub use certificates::{Certificates, CertificatesError};
pub use dial::{Stream, dial};
pub use secret::{SecretError, endpoint};
pub use uri::{BrokerUri, EndpointError, address, host, port};

/// Seconds between heartbeats of a broker that is asked for none.
const BROKERS_HEARTBEAT: u16 = 60;
/// For what is on its way.
const HOLD_MARGIN: Duration = Duration::from_secs(5);
/// Seconds between heartbeats unless the URI says otherwise. A dead peer is noticed after twice that.
const HEARTBEAT: u16 = 10;

/// Where to connect and as whom. Neither `Debug` nor `Display` shows the password or a key. Thousands of buckets have the same,
/// so clones share it. Two that differ in their heartbeats only are equal: each costs a connection and its threads, and whoever
/// writes Secrets must not have one for each number.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    /// None: without TLS.
    tls: Option<Certificates>,
    host: String,
    port: u16,
    vhost: String,
    username: String,
    password: String,
    heartbeat: u16,
}

impl Endpoint {
    /// Parses an `amqp://` or `amqps://` URI; `pyamqp://` and `librabbitmq://` of Celery mean the first. No virtual host, an empty one and `%2f` all mean `/`: operators that
    /// generate Secrets write a trailing slash and mean the default. Without credentials it is RabbitMQ's `guest`.
    /// Of the query only `heartbeat` (seconds) is used; one that asks for TLS is refused with `amqp://`.
    ///
    /// # Errors
    /// Says what to write instead, without repeating any of the URI.
    pub fn parse(uri: &str) -> Result<Self, EndpointError> {
        BrokerUri::parse(uri).map(Self::from)
    }

    /// From the parts as they are, nothing escaped. An empty virtual host means `/`.
    #[must_use]
    pub fn from_parts(
        host: &str,
        port: u16,
        vhost: &str,
        username: &str,
        password: &str,
        tls: bool,
    ) -> Self {
        Self(Arc::new(Parts::new(
            host, port, vhost, username, password, tls,
        )))
    }

    /// How long a client can hold a message at most before the broker gives it back, or takes its acknowledgement: a
    /// connection that has fallen silent is closed after two heartbeats, and found to be silent at the third. It holds for
    /// clients that have the same heartbeat, or a shorter one.
    #[must_use]
    pub fn hold_limit(&self) -> Duration {
        // 0 asks for none; the broker then has its own, of a minute.
        let heartbeat = match self.0.heartbeat {
            0 => BROKERS_HEARTBEAT,
            seconds => seconds,
        };
        Duration::from_secs(u64::from(heartbeat) * 3) + HOLD_MARGIN
    }

    /// Its host: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The same by TLS, with certificates of its own. With others it is not equal: a connection is for those alone who
    /// have its key.
    #[must_use]
    pub fn with_certificates(self, certificates: Certificates) -> Self {
        let tls = Some(certificates);
        Self(Arc::new(Parts {
            tls,
            ..Parts::clone(&self.0)
        }))
    }

    /// The same in another virtual host.
    #[must_use]
    pub fn in_vhost(self, vhost: &str) -> Self {
        Self(Arc::new(Parts {
            vhost: vhost.to_owned(),
            ..Parts::clone(&self.0)
        }))
    }

    /// Whether it is reached by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.tls.is_some()
    }

    /// With which certificates, when it is reached by TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.0.tls.as_ref()
    }

    /// Its virtual host.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    /// The same for the client library. The password is in it.
    #[must_use]
    pub fn uri(&self) -> AMQPUri {
        AMQPUri {
            scheme: if self.is_tls() {
                AMQPScheme::AMQPS
            } else {
                AMQPScheme::AMQP
            },
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: self.0.username.clone(),
                    password: self.0.password.clone(),
                },
                host: self.0.host.clone(),
                port: self.0.port,
            },
            vhost: self.0.vhost.clone(),
            query: AMQPQueryString {
                heartbeat: Some(self.0.heartbeat),
                ..Default::default()
            },
        }
    }
}

impl Parts {
    fn new(host: &str, port: u16, vhost: &str, username: &str, password: &str, tls: bool) -> Self {
        Self {
            tls: tls.then(Certificates::default),
            host: host.to_owned(),
            port,
            vhost: if vhost.is_empty() { "/" } else { vhost }.to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
            heartbeat: HEARTBEAT,
        }
    }
}

impl From<BrokerUri> for Endpoint {
    fn from(uri: BrokerUri) -> Self {
        let BrokerUri {
            tls,
            host,
            port,
            vhost,
            credentials,
            heartbeat,
        } = uri;
        let guest = || ("guest".to_owned(), "guest".to_owned());
        let (username, password) = credentials.unwrap_or_else(guest);
        let port = port.unwrap_or(if tls { 5671 } else { 5672 });
        let parts = Parts::new(&host, port, &vhost, &username, &password, tls);
        Self(Arc::new(Parts { heartbeat, ..parts }))
    }
}

impl Parts {
    fn identity(&self) -> impl Eq + Hash + '_ {
        let Self {
            tls,
            host,
            port,
            vhost,
            username,
            password,
            heartbeat: _,
        } = self;
        (tls, host, port, vhost, username, password)
    }
}

impl PartialEq for Parts {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Parts {}

impl Hash for Parts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "amqps" } else { "amqp" };
        let (open, close) = if self.0.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        let vhost = if self.0.vhost == "/" {
            ""
        } else {
            &self.0.vhost
        };
        write!(
            f,
            "{scheme}://{}@{open}{}{close}:{}/{vhost}",
            self.0.username, self.0.host, self.0.port
        )
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests;
