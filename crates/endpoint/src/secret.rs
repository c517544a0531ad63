//! The broker that a Secret names, by the keys that people and other operators write.

mod certificates;

use std::collections::BTreeMap;

use crate::{BrokerUri, Endpoint, EndpointError};

const VHOST_KEYS: [&str; 3] = ["vhost", "virtual_host", "virtual-host"];
const TLS_KEYS: [&str; 2] = ["tls", "ssl"];
/// Credentials in the second one, of RabbitMQ's cluster operator, are not escaped.
const URI_KEYS: [&str; 2] = ["uri", "connection_string"];

type Data = BTreeMap<String, Vec<u8>>;

/// What a Secret says of something, and by which key.
type Said<T> = Option<(&'static str, T)>;

/// What is wrong with a Secret. Never says what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The keys that name a broker are missing.
    #[error(
        "has no key {0}: write host, username and password (port and vhost where needed), or uri with an AMQP URI"
    )]
    Missing(&'static str),
    /// A value is not text.
    #[error("the value of {0} is not UTF-8 text")]
    NotText(&'static str),
    /// The port is none.
    #[error("the value of port is not a number from 1 to 65535")]
    Port,
    /// The URI is none.
    #[error("the value of {0}: {1}")]
    Uri(&'static str, #[source] EndpointError),
    /// The host is none, but perhaps a URI, or a host and its port.
    #[error(
        "the value of host is not a host name or an IP address: write it alone (the port goes into port, the credentials into \
         username and password), or leave host out and write an AMQP URI into uri"
    )]
    Host,
    /// The addresses are none, but perhaps URIs.
    #[error(
        "the value of addresses is not a host name or an IP address with its port: write for example rabbitmq:5672, or leave \
         addresses out and write an AMQP URI into uri"
    )]
    Addresses,
    /// There is more than one address.
    #[error(
        "addresses lists several brokers: write one, for example the Service in front of a cluster's nodes"
    )]
    Several,
    /// It is not said whether TLS is wanted.
    #[error("the value of {0} is not true or false")]
    NotBoolean(&'static str),
    /// Two keys for the same have different values.
    #[error("{0} and {1} contradict each other: write the same in both, or remove one of them")]
    Contradiction(&'static str, &'static str),
    /// The separate keys would mean `/`.
    #[error(
        "{0} names a virtual host, and the keys beside host do not: write it into vhost too, or remove {0}"
    )]
    NoVhost(&'static str),
    /// There is a key for TLS, and no TLS.
    #[error(
        "{0} is for TLS, and the other keys ask for none: write amqps:// in uri, or beside host the key tls: true (or 5671 as \
         the port), or remove {0}"
    )]
    NoTls(&'static str),
    /// There are no certificates in what should be some.
    #[error(
        "the value of {0} is no X.509 certificate (version 3) that can be read: write it in PEM, from -----BEGIN CERTIFICATE----- on"
    )]
    Certificate(&'static str),
    /// There is no key in what should be one.
    #[error(
        "the value of {0} is no private key that can be read: write it in PEM, from -----BEGIN PRIVATE KEY----- on, and without \
         a password"
    )]
    PrivateKey(&'static str),
    /// The key is that of another certificate.
    #[error(
        "{1} is not the private key of the certificate in {0}: write both of one pair, as a renewal replaces both"
    )]
    Pair(&'static str, &'static str),
    /// One of two is missing.
    #[error(
        "has {0} without {1}, and a client certificate takes both: write {1} too, or remove {0}"
    )]
    Half(&'static str, &'static str),
}

/// The broker that a Secret names, given its data as the application sees it (not in base64). What several keys say of it has to
/// be the same.
///
/// # Errors
/// Says which key is wrong and what to write, and nothing of what is in it.
pub fn endpoint(data: &Data) -> Result<Endpoint, SecretError> {
    let Keys {
        mut host,
        mut port,
        mut vhost,
        mut tls,
        mut username,
        mut password,
    } = Keys::read(data)?;
    let is_apart = host.is_some();
    // RabbitMQ's cluster operator says by the port alone that it wants TLS.
    let implied = is_apart && port.is_some_and(|(_, port)| port == 5671);
    let mut first = None;
    for (key, uri) in uris(data, is_apart)? {
        host = agreed(host, Some((key, uri.host.to_ascii_lowercase())))?;
        port = agreed(port, uri.port.map(|port| (key, port)))?;
        if uri.tls || !implied {
            tls = agreed(tls, Some((key, uri.tls)))?;
        }
        if is_apart && vhost.is_none() && uri.vhost != "/" {
            return Err(SecretError::NoVhost(key));
        }
        vhost = agreed(vhost, Some((key, uri.vhost.clone())))?;
        let is_alone = username.is_none() && password.is_none();
        if let Some((user, secret)) = uri.credentials.clone()
            && (key == "uri" || is_alone)
        {
            username = agreed(username, Some((key, user)))?;
            password = agreed(password, Some((key, secret)))?;
        }
        first = first.or(Some(uri));
    }
    let (_, host) = host.ok_or(SecretError::Missing("host or uri"))?;
    let credentials = match (username, password) {
        (None, None) if !is_apart => None,
        (None, _) => return Err(SecretError::Missing("username")),
        (_, None) => return Err(SecretError::Missing("password")),
        (Some((_, username)), Some((_, password))) => Some((username, password)),
    };
    let uri = BrokerUri {
        tls: tls.map_or(implied, |(_, tls)| tls),
        port: port.map(|(_, port)| port),
        vhost: vhost.map_or_else(|| "/".to_owned(), |(_, vhost)| vhost),
        credentials,
        ..first.unwrap_or_else(|| BrokerUri::of_host(&host))
    };
    certificates::add(BrokerUri { host, ..uri }.into(), data)
}

/// What the separate keys say.
struct Keys {
    host: Said<String>,
    port: Said<u16>,
    vhost: Said<String>,
    tls: Said<bool>,
    username: Said<String>,
    password: Said<String>,
}

impl Keys {
    fn read(data: &Data) -> Result<Self, SecretError> {
        let owned = |key| Ok(text(data, key)?.map(|text| (key, text.to_owned())));
        let host = match text(data, "host")? {
            Some(host) => Some(crate::host(host).ok_or(SecretError::Host)?),
            None => None,
        };
        let port = match text(data, "port")? {
            Some(port) => Some(crate::port(port).ok_or(SecretError::Port)?),
            None => None,
        };
        let address = match text(data, "addresses")? {
            Some(several) if several.contains([',', ';']) => return Err(SecretError::Several),
            Some(address) => Some(crate::address(address).ok_or(SecretError::Addresses)?),
            None => None,
        };
        let lower = |key, host: Option<&str>| host.map(|host| (key, host.to_ascii_lowercase()));
        let there = address.and_then(|(_, port)| Some(("addresses", port?)));
        Ok(Self {
            host: agreed(
                lower("host", host),
                lower("addresses", address.map(|(host, _)| host)),
            )?,
            port: agreed(port.map(|port| ("port", port)), there)?,
            vhost: one_of(data, &VHOST_KEYS)?,
            tls: match one_of(data, &TLS_KEYS)? {
                None => None,
                Some((key, text)) => match text.to_ascii_lowercase().parse() {
                    Ok(tls) => Some((key, tls)),
                    Err(_) => return Err(SecretError::NotBoolean(key)),
                },
            },
            username: owned("username")?,
            password: owned("password")?,
        })
    }
}

/// The URIs. Beside a host those that are none do not matter: other operators have the address of the management interface in
/// them, or credentials that are not escaped.
fn uris(data: &Data, is_apart: bool) -> Result<Vec<(&'static str, BrokerUri)>, SecretError> {
    let mut uris = Vec::new();
    for key in URI_KEYS {
        let parsed = match text(data, key) {
            Ok(None) => continue,
            Ok(Some(uri)) => BrokerUri::parse(uri).map_err(|error| SecretError::Uri(key, error)),
            Err(problem) => Err(problem),
        };
        match parsed {
            Ok(uri) => uris.push((key, uri)),
            Err(problem) if !is_apart && uris.is_empty() => return Err(problem),
            Err(_) => {}
        }
    }
    Ok(uris)
}

/// What both say, or the one that says something.
fn agreed<T: PartialEq>(first: Said<T>, second: Said<T>) -> Result<Said<T>, SecretError> {
    match (first, second) {
        (Some((first, one)), Some((second, other))) if one != other => {
            Err(SecretError::Contradiction(first, second))
        }
        (first, second) => Ok(first.or(second)),
    }
}

fn text<'a>(data: &'a Data, key: &'static str) -> Result<Option<&'a str>, SecretError> {
    match data.get(key).map(|value| str::from_utf8(value)) {
        None => Ok(None),
        Some(Ok(text)) => {
            Ok(Some(text.trim_end_matches(['\r', '\n'])).filter(|text| !text.is_empty()))
        }
        Some(Err(_)) => Err(SecretError::NotText(key)),
    }
}

/// What these keys, which mean the same, say, and the first of them.
fn one_of(data: &Data, keys: &[&'static str]) -> Result<Said<String>, SecretError> {
    let mut found = None;
    for &key in keys {
        let said = text(data, key)?.map(|text| (key, text.to_owned()));
        found = agreed(found, said)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
