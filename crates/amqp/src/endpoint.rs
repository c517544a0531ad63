//! Where a broker is and as whom to speak to it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

/// Seconds between heartbeats of a broker that is asked for none.
const BROKERS_HEARTBEAT: u16 = 60;
/// For what is on its way.
const HOLD_MARGIN: Duration = Duration::from_secs(5);
/// Seconds between heartbeats unless the URI says otherwise. A dead peer is noticed after twice that.
const HEARTBEAT: u16 = 10;

/// Largest frame; the least that RabbitMQ 4.1 accepts. The client library keeps room for 64 of them, and no message of ours
/// needs even one.
const FRAME_MAX: u32 = 8_192;

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

/// What is wrong with an AMQP URI. No variant carries any part of it: each part can hold a piece of a password that was
/// not escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// There is no `://`, or something else in front of it.
    #[error(
        "the broker's URI has to begin with amqp:// or amqps://, for example amqp://user:password@host:5672/vhost"
    )]
    Scheme,
    /// Nothing is left where the host should be.
    #[error(
        "the broker's URI names no host; write amqp://user:password@host:5672/vhost, and escape special characters of \
         the password (/ is %2F, @ is %40)"
    )]
    Host,
    /// What follows the host is not a port.
    #[error(
        "the port in the broker's URI is not a number from 1 to 65535; if the password has special characters, escape \
         them (: is %3A, / is %2F, # is %23, ? is %3F)"
    )]
    Port,
    /// A `#` would cut off the rest.
    #[error("the broker's URI has a # in it; if it belongs to the password, write %23")]
    Fragment,
    /// An `@` behind the `/` or the `?` that should end the address.
    #[error(
        "there is an @ behind a / or ? in the broker's URI; escape special characters of the password (/ is %2F, ? is \
         %3F), and an @ of the virtual host (%40)"
    )]
    Unescaped,
    /// A `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error(
        "a % in the broker's URI is not followed by two hexadecimal digits of UTF-8 text; a literal % is %25"
    )]
    Escape,
    /// `heartbeat=` without a number, or with a large one.
    #[error(
        "heartbeat in the broker's URI is a number of seconds from 0 to 60, for example ?heartbeat=10"
    )]
    Heartbeat,
}

impl Endpoint {
    /// Parses an `amqp://` or `amqps://` URI. No virtual host, an empty one and `%2f` all mean `/`: operators that
    /// generate Secrets write a trailing slash and mean the default. Without credentials it is RabbitMQ's `guest`.
    /// Of the query only `heartbeat` (seconds) is used.
    ///
    /// # Errors
    /// Says what to write instead, without repeating any of the URI.
    pub fn parse(uri: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = uri.trim().split_once("://").ok_or(EndpointError::Scheme)?;
        let tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(EndpointError::Scheme),
        };
        if rest.contains('#') {
            return Err(EndpointError::Fragment);
        }
        // Host, port and virtual host are shown to people, and here they may be pieces of the password.
        if rest.trim_start_matches(|c| !"/?".contains(c)).contains('@') {
            return Err(EndpointError::Unescaped);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, address) = authority
            .rsplit_once('@')
            .unwrap_or(("guest:guest", authority));
        let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let (host, port) = split_address(address)?;
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or(EndpointError::Port)?,
            None if tls => 5671,
            None => 5672,
        };
        let heartbeat = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("heartbeat="));
        let heartbeat = heartbeat.map_or(Ok(HEARTBEAT), |value| {
            let seconds = value
                .parse()
                .ok()
                .filter(|seconds| *seconds <= BROKERS_HEARTBEAT);
            seconds.ok_or(EndpointError::Heartbeat)
        })?;
        let parts = Parts::new(
            &decode(host)?,
            port,
            &decode(vhost)?,
            &decode(username)?,
            &decode(password)?,
            tls,
        );
        Ok(Self(Arc::new(Parts { heartbeat, ..parts })))
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

    pub(super) fn vhost(&self) -> &str {
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

/// Host and port; an IPv6 address stands in brackets, which do not belong to it.
fn split_address(address: &str) -> Result<(&str, Option<&str>), EndpointError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or(EndpointError::Port)?),
            };
            (host, port)
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() {
        Err(EndpointError::Host)
    } else {
        Ok((host, port))
    }
}

fn decode(text: &str) -> Result<String, EndpointError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = digit().zip(digit()).ok_or(EndpointError::Escape)?;
                u8::try_from(high * 16 + low).map_err(|_| EndpointError::Escape)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| EndpointError::Escape)
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
        // Written without escaping; the last @ ends the credentials.
        assert_eq!(parts("amqp://u:p@ss:word@h:1/").4, "p@ss:word");
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
            ("amqp://u:s3cret@h:0", EndpointError::Port),
            ("amqp://u:s3cret@h:65536", EndpointError::Port),
            ("amqp://u:s3#cret@h", EndpointError::Fragment),
            ("amqp://u:s3cret%4@h", EndpointError::Escape),
            ("amqp://u:s3cret%+4@h", EndpointError::Escape),
            ("amqp://u:s3cret%ff@h", EndpointError::Escape),
            ("amqp://u:s3cret@h/?heartbeat=61", EndpointError::Heartbeat),
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
        fn escaped_credentials_come_back(username in ".{1,20}", password in ".{0,20}") {
            let escape = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let uri = format!("amqp://{}:{}@h", escape(&username), escape(&password));
            let endpoint = Endpoint::parse(&uri).unwrap();
            prop_assert_eq!((&*endpoint.0.username, &*endpoint.0.password), (&*username, &*password));
        }
    }
}
