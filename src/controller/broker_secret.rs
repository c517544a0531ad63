//! The broker that a Secret names, by the keys that people and other operators write.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use amqp::{Endpoint, EndpointError};

const VHOST_KEYS: [&str; 3] = ["vhost", "virtual_host", "virtual-host"];
const TLS_KEYS: [&str; 2] = ["tls", "ssl"];
const URI_KEYS: [&str; 2] = ["uri", "connection_string"];

type Data = BTreeMap<String, ByteString>;

/// What is wrong with a Secret. Never says what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SecretProblem {
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
}

/// The broker that a Secret names. Separate keys come first: the credentials in the `connection_string` of RabbitMQ's
/// cluster operator are not escaped.
pub(super) fn endpoint(data: &Data) -> Result<Endpoint, SecretProblem> {
    let vhost = one_of(data, &VHOST_KEYS)?;
    let tls = match one_of(data, &TLS_KEYS)? {
        None => None,
        Some((key, text)) => match text.to_ascii_lowercase().parse::<bool>() {
            Ok(tls) => Some((key, tls)),
            Err(_) => return Err(SecretProblem::NotBoolean(key)),
        },
    };
    let Some(host) = text(data, "host")? else {
        return from_uri(data, vhost, tls);
    };
    let host = amqp::host(host).ok_or(SecretProblem::Host)?;
    let port = match text(data, "port")? {
        Some(port) => Some(
            port.parse()
                .ok()
                .filter(|port: &u16| *port > 0)
                .ok_or(SecretProblem::Port)?,
        ),
        None => None,
    };
    // The cluster operator says by the port alone that it wants TLS.
    let tls = tls.map_or(port == Some(5671), |(_, tls)| tls);
    let port = port.unwrap_or(if tls { 5671 } else { 5672 });
    let username = text(data, "username")?.ok_or(SecretProblem::Missing("username"))?;
    let password = text(data, "password")?.ok_or(SecretProblem::Missing("password"))?;
    let written = vhost.map_or("", |(_, vhost)| vhost);
    let endpoint = Endpoint::from_parts(host, port, written, username, password, tls);
    for key in URI_KEYS {
        // One that is none does not matter here: other operators have the address of the management interface in it.
        let uri = text(data, key).ok().flatten();
        let uri = uri.and_then(|uri| Endpoint::parse(uri).ok());
        if uri.is_some_and(|uri| uri.vhost() != endpoint.vhost()) {
            return Err(match vhost {
                Some((vhost, _)) => SecretProblem::Contradiction(vhost, key),
                None => SecretProblem::NoVhost(key),
            });
        }
    }
    Ok(endpoint)
}

fn from_uri(
    data: &Data,
    vhost: Option<(&'static str, &str)>,
    tls: Option<(&'static str, bool)>,
) -> Result<Endpoint, SecretProblem> {
    for key in URI_KEYS {
        let Some(uri) = text(data, key)? else {
            continue;
        };
        let endpoint = Endpoint::parse(uri).map_err(|error| SecretProblem::Uri(key, error))?;
        if let Some((other, vhost)) = vhost
            && vhost != endpoint.vhost()
        {
            return Err(SecretProblem::Contradiction(other, key));
        }
        if let Some((other, tls)) = tls
            && tls != endpoint.is_tls()
        {
            return Err(SecretProblem::Contradiction(other, key));
        }
        return Ok(endpoint);
    }
    Err(SecretProblem::Missing("host or uri"))
}

fn text<'a>(data: &'a Data, key: &'static str) -> Result<Option<&'a str>, SecretProblem> {
    match data.get(key).map(|value| str::from_utf8(&value.0)) {
        None => Ok(None),
        Some(Ok(text)) => {
            Ok(Some(text.trim_end_matches(['\r', '\n'])).filter(|text| !text.is_empty()))
        }
        Some(Err(_)) => Err(SecretProblem::NotText(key)),
    }
}

/// What these keys, which mean the same, say, and which of them.
fn one_of<'a>(
    data: &'a Data,
    keys: &[&'static str],
) -> Result<Option<(&'static str, &'a str)>, SecretProblem> {
    let mut found: Option<(&'static str, &'a str)> = None;
    for &key in keys {
        match (text(data, key)?, found) {
            (Some(value), None) => found = Some((key, value)),
            (Some(value), Some((first, other))) if value != other => {
                return Err(SecretProblem::Contradiction(first, key));
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Endpoint, SecretProblem> {
        endpoint(
            &pairs
                .iter()
                .map(|(key, value)| ((*key).into(), ByteString(value.as_bytes().into())))
                .collect(),
        )
    }

    #[test]
    fn the_secret_of_the_cluster_operator_is_read_by_its_separate_keys() {
        let endpoint = of(&[
            ("connection_string", "amqp://u:p@ss/word@rabbit:5672/"),
            ("host", "rabbit"),
            ("port", "5672"),
            ("username", "u"),
            ("password", "p@ss/word"),
            ("provider", "rabbitmq"),
            ("type", "rabbitmq"),
        ]);
        assert_eq!(
            endpoint,
            Ok(Endpoint::from_parts(
                "rabbit",
                5672,
                "/",
                "u",
                "p@ss/word",
                false
            ))
        );
    }

    #[test]
    fn the_port_of_amqps_means_tls() {
        let endpoint = of(&[
            ("host", "h"),
            ("port", "5671"),
            ("username", "u"),
            ("password", "p"),
            ("vhost", "v"),
        ]);
        assert_eq!(
            endpoint,
            Ok(Endpoint::from_parts("h", 5671, "v", "u", "p", true))
        );
    }

    #[test]
    fn a_uri_is_enough_and_may_end_with_a_newline() {
        assert_eq!(
            of(&[("uri", "amqp://u:p@h/v\n")]),
            Ok(Endpoint::from_parts("h", 5672, "v", "u", "p", false))
        );
    }

    #[test]
    fn the_uri_of_the_management_interface_is_refused_without_repeating_it() {
        let problem = of(&[
            ("uri", "http://h:15672"),
            ("username", "u"),
            ("password", "hush"),
        ])
        .unwrap_err();
        let text = problem.to_string();
        assert!(
            text.contains("amqp://") && !text.contains("hush") && !text.contains("15672"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(of(&[]), Err(SecretProblem::Missing("host or uri")));
        assert_eq!(
            of(&[("host", "h"), ("password", "p")]),
            Err(SecretProblem::Missing("username"))
        );
        assert_eq!(
            of(&[("host", "h"), ("username", "u")]),
            Err(SecretProblem::Missing("password"))
        );
        assert_eq!(
            of(&[("host", "h"), ("port", "0")]),
            Err(SecretProblem::Port)
        );
    }

    const PARTS: [(&str, &str); 3] = [("host", "h"), ("username", "u"), ("password", "p")];

    fn with(more: &[(&str, &str)]) -> Result<Endpoint, SecretProblem> {
        of(&[PARTS.as_slice(), more].concat())
    }

    #[test]
    fn the_virtual_host_has_the_keys_of_other_operators() {
        for key in VHOST_KEYS {
            let expected = Endpoint::from_parts("h", 5672, "v", "u", "p", false);
            assert_eq!(with(&[(key, "v")]), Ok(expected), "{key}");
        }
        assert_eq!(
            with(&[("vhost", "v"), ("virtual-host", "w")]),
            Err(SecretProblem::Contradiction("vhost", "virtual-host"))
        );
    }

    #[test]
    fn tls_is_asked_for_at_any_port() {
        let at = |port, tls| Ok(Endpoint::from_parts("h", port, "", "u", "p", tls));
        assert_eq!(with(&[("tls", "true"), ("port", "5673")]), at(5673, true));
        assert_eq!(with(&[("ssl", "True")]), at(5671, true));
        assert_eq!(with(&[("tls", "false"), ("port", "5671")]), at(5671, false));
        assert_eq!(
            with(&[("tls", "yes")]),
            Err(SecretProblem::NotBoolean("tls"))
        );
    }

    #[test]
    fn keys_that_contradict_the_uri_are_refused() {
        let uri = |uri| ("uri", uri);
        assert_eq!(
            of(&[uri("amqp://u:p@h"), ("virtual_host", "v")]),
            Err(SecretProblem::Contradiction("virtual_host", "uri"))
        );
        assert_eq!(
            of(&[uri("amqp://u:p@h"), ("ssl", "true")]),
            Err(SecretProblem::Contradiction("ssl", "uri"))
        );
        assert_eq!(
            with(&[uri("amqp://u:p@h/w"), ("vhost", "v")]),
            Err(SecretProblem::Contradiction("vhost", "uri"))
        );
        assert_eq!(
            with(&[uri("amqp://u:p@h/w")]),
            Err(SecretProblem::NoVhost("uri"))
        );
        assert!(with(&[uri("amqp://u:p@h/v"), ("vhost", "v")]).is_ok());
        assert!(with(&[uri("http://h:15672")]).is_ok());
    }

    #[test]
    fn a_host_that_is_more_than_one_is_refused_without_repeating_it() {
        for host in [
            "amqps://h:5671",
            "h:5672",
            "u:hush@h",
            "h/v",
            "a,b",
            "[hush]",
            " h",
        ] {
            let problem = of(&[("host", host), ("username", "u"), ("password", "p")]);
            assert_eq!(problem, Err(SecretProblem::Host), "{host}");
        }
        let there = of(&[("host", "[::1]"), ("username", "u"), ("password", "p")]).unwrap();
        assert_eq!(there.host(), "::1");
    }
}
