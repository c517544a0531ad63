//! Which brokers Secrets may name, as an administrator says. No client required.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use amqp::Endpoint;

/// What a broker that a Secret names has to be.
#[derive(Clone, Debug, Default)]
pub struct BrokerRules {
    /// Its host is one of these; none: any.
    pub allowed_hosts: Vec<AllowedHost>,
    /// It is reached by TLS.
    pub require_tls: bool,
}

/// Hosts that a Secret may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// This name.
    Name(String),
    /// Every name that ends with a dot and this.
    Below(String),
    /// Addresses written as such.
    Addresses(IpNet),
}

/// A text that names no hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a host name, *.example.com for all names below one, an address, or a network such as 10.0.0.0/8 or \
     [fd00::]/8; each with a port behind it, for example rabbitmq.shop.svc:5671, if it is for that port alone"
)]
pub struct AllowedHostError;

/// Why a broker is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuleBroken {
    /// Its host is not one of those that are allowed.
    Host,
    /// It is reached without TLS.
    Tls,
}

impl BrokerRules {
    /// Holds a broker that a Secret names against the rules.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(super) fn check(&self, endpoint: &Endpoint) -> Result<(), RuleBroken> {
        let (host, port) = (endpoint.host(), endpoint.port());
        let allows = |rule: &AllowedHost| rule.allows(host, port);
        if !self.allowed_hosts.is_empty() && !self.allowed_hosts.iter().any(allows) {
            return Err(RuleBroken::Host);
        }
        if self.require_tls && !endpoint.is_tls() {
            return Err(RuleBroken::Tls);
        }
        Ok(())
    }

    /// The hosts that are allowed, in words.
    #[must_use]
    pub(super) fn hosts(&self) -> String {
        let hosts: Vec<_> = self.allowed_hosts.iter().map(ToString::to_string).collect();
        hosts.join(", ")
    }
}

impl AllowedHost {
    fn allows(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|allowed| allowed != port) {
            return false;
        }
        // An address is no name. What only resolvers take for an address, such as 127.1, is a name that is allowed by none.
        match (&self.hosts, host.parse::<IpAddr>()) {
            (Hosts::Addresses(network), Ok(address)) => network.contains(&address.to_canonical()),
            (Hosts::Name(name), Err(_)) => normalized(host).as_ref() == Some(name),
            (Hosts::Below(suffix), Err(_)) => normalized(host).is_some_and(|host| {
                host.strip_suffix(suffix.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }),
            _ => false,
        }
    }
}

/// A host name in lower case, without the dot at the end; None when it is none.
fn normalized(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let mut labels = name.split('.');
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    // Where the last label is a number, a resolver may take the whole for an address.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_name = labels.all(is_label) && last.bytes().any(|byte| byte.is_ascii_alphabetic());
    let is_number = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (is_name && !is_number && name.len() <= 253).then_some(name)
}

impl FromStr for AllowedHost {
    type Err = AllowedHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(network) = network(text) {
            let (hosts, port) = (Hosts::Addresses(network), None);
            return Ok(Self { hosts, port });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (host, Some(port.ok_or(AllowedHostError)?))
            }
            None => (text, None),
        };
        let hosts = match (network(host), host.strip_prefix("*.")) {
            (Some(network), _) if host.contains('[') || !host.contains(':') => {
                Hosts::Addresses(network)
            }
            (Some(_), _) => return Err(AllowedHostError),
            (None, Some(suffix)) => Hosts::Below(normalized(suffix).ok_or(AllowedHostError)?),
            (None, None) => Hosts::Name(normalized(host).ok_or(AllowedHostError)?),
        };
        Ok(Self { hosts, port })
    }
}

/// An address or a network; those of IPv6 may have their address in brackets.
fn network(text: &str) -> Option<IpNet> {
    let text = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, prefix) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            if !prefix.is_empty() && !prefix.starts_with('/') {
                return None;
            }
            format!("{address}{prefix}")
        }
        None => text.to_owned(),
    };
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical().into()),
        Err(_) => text.parse().ok(),
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Below(suffix) => write!(f, "*.{suffix}")?,
            Hosts::Addresses(network) if network.prefix_len() == network.max_prefix_len() => {
                match network.addr() {
                    IpAddr::V4(address) => write!(f, "{address}")?,
                    IpAddr::V6(address) => write!(f, "[{address}]")?,
                }
            }
            Hosts::Addresses(IpNet::V4(network)) => write!(f, "{network}")?,
            Hosts::Addresses(IpNet::V6(network)) => {
                write!(f, "[{}]/{}", network.addr(), network.prefix_len())?;
            }
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, host: &str, port: u16) -> bool {
        let rules = BrokerRules {
            allowed_hosts: vec![rule.parse().unwrap()],
            require_tls: false,
        };
        let endpoint = Endpoint::from_parts(host, port, "/", "u", "p", false);
        rules.check(&endpoint).is_ok()
    }

    #[test]
    fn a_name_allows_that_name_however_it_is_written() {
        for host in ["rabbit.shop.svc", "RABBIT.Shop.svc", "rabbit.shop.svc."] {
            assert!(allows("rabbit.shop.svc", host, 1), "{host}");
            assert!(allows("Rabbit.shop.SVC.", host, 1), "{host}");
        }
        for host in [
            "rabbit",
            "rabbit.shop.svc.evil",
            "evil-rabbit.shop.svc",
            "x.rabbit.shop.svc",
            "rabbit.shop.svc..",
            "10.0.0.1",
            "",
        ] {
            assert!(!allows("rabbit.shop.svc", host, 1), "{host}");
        }
    }

    #[test]
    fn a_wildcard_allows_what_is_below_it_and_nothing_that_only_looks_so() {
        for host in ["a.example.com", "a.b.EXAMPLE.com", "a.example.com."] {
            assert!(allows("*.example.com", host, 1), "{host}");
        }
        for host in [
            "example.com",
            ".example.com",
            "badexample.com",
            "a.example.com.evil",
            "10.0.0.1:80/.example.com",
            "evil\0.example.com",
            "evil/x.example.com",
            "a..example.com",
        ] {
            assert!(!allows("*.example.com", host, 1), "{host:?}");
        }
    }

    #[test]
    fn networks_allow_addresses_that_are_written_as_such() {
        for (rule, host, allowed) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/8", "10.1", false),
            ("10.0.0.0/8", "0x0a.1.2.3", false),
            ("10.0.0.0/8", "167838211", false),
            ("10.0.0.0/8", "rabbit", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("fd00::/8", "fd12::1", true),
            ("[fd00::]/8", "FD12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("fd00::/8", "fd12::1%eth0", false),
            ("[::1]", "0:0:0:0:0:0:0:1", true),
            ("::1", "::1", true),
            ("::ffff:10.1.2.3", "10.1.2.3", true),
        ] {
            assert_eq!(allows(rule, host, 1), allowed, "{rule} {host}");
        }
    }

    #[test]
    fn a_port_narrows_a_rule() {
        for (rule, host) in [
            ("rabbit:5671", "rabbit"),
            ("*.svc:5671", "rabbit.svc"),
            ("10.0.0.0/8:5671", "10.0.0.1"),
            ("[fd00::]/8:5671", "fd00::1"),
            ("[::1]:5671", "::1"),
        ] {
            assert!(allows(rule, host, 5671), "{rule}");
            assert!(!allows(rule, host, 5672), "{rule}");
        }
    }

    #[test]
    fn rules_are_shown_as_they_may_be_written() {
        for rule in [
            "rabbit.shop.svc",
            "*.example.com:5671",
            "10.0.0.0/8",
            "10.1.2.3:5672",
            "[fd00::]/8:5671",
            "[::1]",
        ] {
            let parsed: AllowedHost = rule.parse().unwrap();
            assert_eq!(parsed.to_string(), rule);
        }
    }

    #[test]
    fn what_names_no_hosts_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "a.*.b",
            "amqp://rabbit",
            "rabbit:0",
            "rabbit:65536",
            "rabbit:",
            "10.0.0.0/33",
            "[::1",
            "[10.0.0.1]",
            "a b",
            "127.1",
            "1.2.3.0x7f",
        ] {
            assert_eq!(text.parse::<AllowedHost>(), Err(AllowedHostError), "{text}");
        }
    }

    #[test]
    fn without_rules_everything_is_allowed_and_tls_can_be_required() {
        let plain = Endpoint::parse("amqp://h").unwrap();
        let tls = Endpoint::parse("amqps://h").unwrap();
        let free = BrokerRules::default();
        assert_eq!((free.check(&plain), free.check(&tls)), (Ok(()), Ok(())));
        let strict = BrokerRules {
            require_tls: true,
            ..free
        };
        assert_eq!(strict.check(&plain), Err(RuleBroken::Tls));
        assert_eq!(strict.check(&tls), Ok(()));
    }
}
