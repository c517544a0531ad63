//! Reads the URI of a broker.

use std::net::Ipv6Addr;

use super::{BROKERS_HEARTBEAT, HEARTBEAT};

/// What a URI says of a broker, nothing escaped any more. Without `Debug`, as the password is in it.
#[derive(Clone)]
pub struct BrokerUri {
    /// Whether it is reached by TLS.
    pub tls: bool,
    /// Its host, without the brackets of an IPv6 address.
    pub host: String,
    /// Its port; None: the usual one.
    pub port: Option<u16>,
    /// Its virtual host. A URI that names none means `/`.
    pub vhost: String,
    /// User name and password; None: RabbitMQ's `guest`.
    pub credentials: Option<(String, String)>,
    /// Seconds between heartbeats.
    pub heartbeat: u16,
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
        "the broker's URI names no host, or one with characters that no host name has; write amqp://user:password@host:5672/vhost, and escape special characters of \
         the password (/ is %2F, @ is %40)"
    )]
    Host,
    /// It lists brokers, as Celery's failover does.
    #[error(
        "the broker's URI lists several brokers; write one, for example the Service in front of a cluster's nodes (in a \
         password , is %2C and ; is %3B)"
    )]
    Several,
    /// What follows the host is not a port.
    #[error(
        "the port in the broker's URI is not a number from 1 to 65535; if the password has special characters, escape \
         them (: is %3A, / is %2F, # is %23, ? is %3F)"
    )]
    Port,
    /// A `#` would cut off the rest.
    #[error("the broker's URI has a # in it; if it belongs to the password, write %23")]
    Fragment,
    /// A second `@`, or one behind the `/` or the `?` that should end the address.
    #[error(
        "there is an @ (or %40) behind a /, a ? or another @ in the broker's URI; escape special characters of the password \
         (/ is %2F, ? is %3F, @ is %40); a virtual host with an @ is named by the keys host, vhost, username and password \
         of a Secret"
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
    /// A user name alone.
    #[error(
        "the broker's URI names a user without a password; write amqp://user:password@host:5672/vhost, or in a Secret leave the \
         user out and write the keys username and password"
    )]
    Password,
    /// `ssl=` in the query, which is Celery's way to ask for TLS.
    #[error(
        "the broker's URI asks for TLS behind the ? (ssl) and begins with amqp://, which is without; write amqps://"
    )]
    Tls,
}

impl BrokerUri {
    /// What one says of which nothing but the host is known.
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        Self {
            tls: false,
            host: host.to_owned(),
            port: None,
            vhost: "/".to_owned(),
            credentials: None,
            heartbeat: HEARTBEAT,
        }
    }

    /// Parses an `amqp://` or `amqps://` URI: see [`super::Endpoint::parse`].
    ///
    /// # Errors
    /// Says what to write instead, without repeating any of the URI.
    pub fn parse(uri: &str) -> Result<Self, EndpointError> {
        parse(uri)
    }
}

fn parse(uri: &str) -> Result<BrokerUri, EndpointError> {
    let (scheme, rest) = uri.trim().split_once("://").ok_or(EndpointError::Scheme)?;
    let tls = is_tls(scheme).ok_or(EndpointError::Scheme)?;
    if lists_uris(rest) {
        return Err(EndpointError::Several);
    }
    if rest.contains('#') {
        return Err(EndpointError::Fragment);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let (userinfo, address) = authority
        .split_once('@')
        .map_or((None, authority), |(userinfo, address)| {
            (Some(userinfo), address)
        });
    // Host, port and virtual host are shown to people, and here they may be pieces of the password: also where the @ that
    // ends it was escaped with it.
    if address.contains('@') || behind.contains('@') || behind.contains("%40") {
        return Err(EndpointError::Unescaped);
    }
    let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
    let vhost = path.strip_prefix('/').unwrap_or(path);
    let credentials = userinfo.map(|it| it.split_once(':').ok_or(EndpointError::Password));
    let credentials = credentials.transpose()?;
    if address.contains([',', ';']) {
        return Err(EndpointError::Several);
    }
    let (host_part, port) = split_address(address)?;
    let host = host(&decode(host_part)?)
        .ok_or(EndpointError::Host)?
        .to_owned();
    let port = port.map(|port| self::port(port).ok_or(EndpointError::Port));
    let decoded = |(username, password)| Ok((decode(username)?, decode(password)?));
    if !tls && asks_for_tls(query) {
        return Err(EndpointError::Tls);
    }
    let vhost = match decode(vhost)? {
        none if none.is_empty() => "/".to_owned(),
        vhost => vhost,
    };
    Ok(BrokerUri {
        tls,
        host,
        port: port.transpose()?,
        vhost,
        credentials: credentials.map(decoded).transpose()?,
        heartbeat: heartbeat(query)?,
    })
}

/// The port of this text. None: it is none.
#[must_use]
pub fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// Host and port of a text such as `host:5672` or `[::1]`. None: it is more than that, or less.
#[must_use]
pub fn address(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = split_address(text).ok()?;
    let port = match port {
        Some(port) => Some(self::port(port)?),
        None => None,
    };
    Some((self::host(host)?, port))
}

/// The host of this text, without the brackets of an IPv6 address. None: it is none, but perhaps a URI, or a host with its
/// port, and may hold credentials.
#[must_use]
pub fn host(text: &str) -> Option<&str> {
    let address = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let is_name = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !text.is_empty() && text.bytes().all(allowed)
    };
    match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok().then_some(address),
        None => (is_name(text) || text.parse::<Ipv6Addr>().is_ok()).then_some(text),
    }
}

/// None: it is no scheme of AMQP. Celery has names of its own for it.
fn is_tls(scheme: &str) -> Option<bool> {
    match scheme.to_ascii_lowercase().as_str() {
        "amqp" | "pyamqp" | "librabbitmq" => Some(false),
        "amqps" => Some(true),
        _ => None,
    }
}

/// Celery writes it so: `?ssl=true`, `?ssl_cert_reqs=required`.
fn asks_for_tls(query: &str) -> bool {
    let query = query.to_ascii_lowercase();
    query.split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_asking = key == "ssl" || key == "tls" || key.starts_with("ssl_");
        is_asking && !["false", "0"].contains(&value)
    })
}

fn lists_uris(rest: &str) -> bool {
    rest.split([';', ','])
        .skip(1)
        .filter_map(|next| next.split_once("://"))
        .any(|(scheme, _)| is_tls(scheme.trim()).is_some())
}

fn heartbeat(query: &str) -> Result<u16, EndpointError> {
    let asked = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("heartbeat="));
    asked.map_or(Ok(HEARTBEAT), |value| {
        let seconds = value
            .parse()
            .ok()
            .filter(|seconds| *seconds <= BROKERS_HEARTBEAT);
        seconds.ok_or(EndpointError::Heartbeat)
    })
}

/// Host and port; an IPv6 address keeps its brackets.
fn split_address(address: &str) -> Result<(&str, Option<&str>), EndpointError> {
    if !address.starts_with('[') {
        return Ok(match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        });
    }
    let end = address.find(']').ok_or(EndpointError::Host)? + 1;
    let (host, port) = address.split_at(end);
    match port {
        "" => Ok((host, None)),
        port => Ok((
            host,
            Some(port.strip_prefix(':').ok_or(EndpointError::Port)?),
        )),
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
