//! Where a broker is and as whom to speak to it.

mod uri;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

pub use uri::{BrokerUri, EndpointError, address, host, port};

/// Seconds between heartbeats of a broker that is asked for none.
const BROKERS_HEARTBEAT: u16 = 60;
/// For what is on its way.
const HOLD_MARGIN: Duration = Duration::from_secs(5);
/// Seconds between heartbeats unless the URI says otherwise. A dead peer is noticed after twice that.
const HEARTBEAT: u16 = 10;

/// Largest frame of the client library, which keeps room for 64 of them in each connection. With the broker more is agreed
/// upon: see `transport`.
pub(super) const FRAME_MAX: u32 = 8_192;

/// Where to connect and as whom. Neither `Debug` nor `Display` shows the password. Thousands of buckets have the same,
/// so clones share it. Two that differ in their heartbeats only are equal: each costs a connection and its threads, and whoever
/// writes Secrets must not have one for each number.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(Arc<Parts>);

struct Parts {
    tls: bool,
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

    /// Whether it is reached by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.tls
    }

    /// Its virtual host.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    pub(super) fn uri(&self) -> AMQPUri {
        AMQPUri {
            scheme: if self.0.tls {
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
                frame_max: Some(FRAME_MAX),
                ..Default::default()
            },
        }
    }
}

impl Parts {
    fn new(host: &str, port: u16, vhost: &str, username: &str, password: &str, tls: bool) -> Self {
        Self {
            tls,
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
        let scheme = if self.0.tls { "amqps" } else { "amqp" };
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(uri: &str) -> (String, u16, String, String, String, bool) {
        let Endpoint(it) = Endpoint::parse(uri).unwrap();
        (
            it.host.clone(),
            it.port,
            it.vhost.clone(),
            it.username.clone(),
            it.password.clone(),
            it.tls,
        )
    }

    #[test]
    fn every_way_to_write_the_default_virtual_host_is_understood() {
        for uri in [
            "amqp://h",
            "amqp://h/",
            "amqp://h//",
            "amqp://h/%2f",
            "amqp://h/%2F",
            "amqp://h?heartbeat=5",
        ] {
            assert_eq!(Endpoint::parse(uri).unwrap().vhost(), "/", "{uri}");
        }
        assert_eq!(Endpoint::parse("amqp://h/shop").unwrap().vhost(), "shop");
        assert_eq!(Endpoint::parse("amqp://h/a%2Fb").unwrap().vhost(), "a/b");
    }

    #[test]
    fn defaults_are_those_of_rabbitmq() {
        assert_eq!(
            parts("amqp://h"),
            (
                "h".into(),
                5672,
                "/".into(),
                "guest".into(),
                "guest".into(),
                false
            )
        );
        assert_eq!(
            parts("amqps://u:p@h/v"),
            ("h".into(), 5671, "v".into(), "u".into(), "p".into(), true)
        );
        assert_eq!(Endpoint::parse("amqp://h").unwrap().0.heartbeat, 10);
        // It is no other place.
        assert_eq!(
            Endpoint::parse("amqp://h?heartbeat=5"),
            Endpoint::parse("amqp://h")
        );
        assert_eq!(
            Endpoint::parse("amqp://h/v?x=1&heartbeat=3")
                .unwrap()
                .0
                .heartbeat,
            3
        );
    }

    #[test]
    fn special_characters_are_unescaped_once() {
        let (.., username, password, _) = parts("amqp://us%40er:p%3A%2F%23%25@h:1/");
        assert_eq!((username.as_str(), password.as_str()), ("us@er", "p:/#%"));
        // These may stand in credentials as they are.
        assert_eq!(parts("amqp://u:p:ss;wo,rd@h:1/").4, "p:ss;wo,rd");
    }

    #[test]
    fn a_trailing_newline_of_a_secret_is_not_part_of_the_virtual_host() {
        assert_eq!(Endpoint::parse("amqp://h/shop\n").unwrap().vhost(), "shop");
    }

    #[test]
    fn an_ipv6_address_is_the_host() {
        assert_eq!(parts("amqp://[::1]:5/v").0, "::1");
        assert_eq!(
            Endpoint::parse("amqp://[::1]").unwrap().to_string(),
            "amqp://guest@[::1]:5672/"
        );
        assert_eq!(Endpoint::parse("amqp://[::1"), Err(EndpointError::Host));
        assert_eq!(Endpoint::parse("amqp://[::1]5"), Err(EndpointError::Port));
    }

    #[test]
    fn what_is_no_uri_is_refused_without_repeating_it() {
        for (uri, error) in [
            ("", EndpointError::Scheme),
            ("s3cret", EndpointError::Scheme),
            ("http://u:s3cret@h", EndpointError::Scheme),
            ("u:s3cret@h:5672", EndpointError::Scheme),
            ("amqp://", EndpointError::Host),
            ("amqp://u:s3cret@", EndpointError::Host),
            ("amqp://u:s3cret@:5672/", EndpointError::Host),
            ("amqp://u:s3c/ret@h:5672/", EndpointError::Unescaped),
            ("amqp://u:1234/s3cret@h:5672/", EndpointError::Unescaped),
            ("amqp://u:1234?s3cret@h:5672/", EndpointError::Unescaped),
            ("amqp://u:s3c@1/ret@h:5672/", EndpointError::Unescaped),
            ("amqp://u:s3c@ret@h:5672/", EndpointError::Unescaped),
            ("amqp://u:2024/s3cret%40h", EndpointError::Unescaped),
            ("amqp://u:s3cret@h_\u{e9}/", EndpointError::Host),
            ("amqp://u:s3cret@[s3c]/", EndpointError::Host),
            ("amqp://u:s3cret@h:0", EndpointError::Port),
            ("amqp://u:s3cret@h:65536", EndpointError::Port),
            ("amqp://u:s3#cret@h", EndpointError::Fragment),
            ("amqp://u:s3cret%4@h", EndpointError::Escape),
            ("amqp://u:s3cret%+4@h", EndpointError::Escape),
            ("amqp://u:s3cret%ff@h", EndpointError::Escape),
            ("amqp://u:s3cret@h/?heartbeat=61", EndpointError::Heartbeat),
            ("amqp://s3cret@h", EndpointError::Password),
            ("amqp://s3cret@h:5672/v", EndpointError::Password),
            (
                "amqp://u:s3cret@h/?heartbeat=soon",
                EndpointError::Heartbeat,
            ),
        ] {
            assert_eq!(Endpoint::parse(uri), Err(error), "{uri}");
            assert!(!error.to_string().contains("s3c"), "{error}");
        }
    }

    #[test]
    fn several_brokers_are_refused_as_such() {
        for uri in [
            "amqp://u:s3cret@a/v;amqp://u:s3cret@b/v",
            "amqp://u:s3cret@a:5672//, amqp://u:s3cret@b:5672//",
            "amqp://u:s3cret@a;PYAMQP://u:s3cret@b",
            "amqp://u:s3cret@a:5672,b:5672/v",
            "amqp://u:s3cret@a,b",
            "amqp://a;b",
        ] {
            assert_eq!(Endpoint::parse(uri), Err(EndpointError::Several), "{uri}");
        }
    }

    #[test]
    fn schemes_are_understood_as_celery_writes_them() {
        for scheme in ["amqp", "AMQP", "pyamqp", "librabbitmq"] {
            let uri = format!("{scheme}://u:p@h/v");
            assert_eq!(Endpoint::parse(&uri), Endpoint::parse("amqp://u:p@h/v"));
        }
        assert!(Endpoint::parse("AMQPS://u:p@h/v").unwrap().is_tls());
    }

    #[test]
    fn a_query_that_asks_for_tls_is_never_plain() {
        for query in [
            "ssl=true",
            "ssl=True",
            "ssl=",
            "ssl",
            "x=1&ssl=1",
            "ssl_cert_reqs=none",
            "tls=yes",
        ] {
            let uri = |scheme| format!("{scheme}://u:s3cret@h/v?{query}");
            assert_eq!(
                Endpoint::parse(&uri("amqp")),
                Err(EndpointError::Tls),
                "{query}"
            );
            assert_eq!(
                Endpoint::parse(&uri("amqps")),
                Endpoint::parse("amqps://u:s3cret@h/v")
            );
        }
        for query in ["ssl=false", "ssl=0", "heartbeat=5"] {
            assert!(
                Endpoint::parse(&format!("amqp://h?{query}")).is_ok(),
                "{query}"
            );
        }
    }

    #[test]
    fn neither_debug_nor_display_shows_the_password() {
        let endpoint = Endpoint::from_parts("h", 5672, "", "user", "s3cret", true);
        assert_eq!(endpoint.to_string(), "amqps://user@h:5672/");
        assert!(!format!("{endpoint:?}").contains("s3cret"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(amqps?://)?.{0,60}") {
            let _ = Endpoint::parse(&text);
        }

        #[test]
        fn no_piece_of_a_password_is_shown(
            password in "[αβγδ0-9@:/?#;,%\\[\\]]{3,20}",
            escapes in any::<bool>(),
            after in prop::sample::select(vec!["@host", "@host/vhost", "@[::]/", "/@host", "?@host", "@", "%40host", "@host/;amqp://u:p@host"]),
        ) {
            let escaped = password.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let written = if escapes { &escaped } else { &password };
            let shown = match Endpoint::parse(&format!("amqp://user:{written}{after}")) {
                Ok(endpoint) => format!("{endpoint} {endpoint:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            let characters: Vec<char> = password.chars().collect();
            // Port numbers and the texts of messages have digits too.
            for three in characters.windows(3).filter(|three| three.iter().any(|it| "αβγδ".contains(*it))) {
                let three: String = three.iter().collect();
                prop_assert!(!shown.contains(&three), "{}", shown);
            }
        }

        #[test]
        fn escaped_credentials_come_back(username in ".{1,20}", password in ".{0,20}") {
            let escape = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let uri = format!("amqp://{}:{}@h", escape(&username), escape(&password));
            let endpoint = Endpoint::parse(&uri).unwrap();
            prop_assert_eq!((&*endpoint.0.username, &*endpoint.0.password), (&*username, &*password));
        }
    }
}
