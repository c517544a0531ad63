//! What a broker says of itself when a connection begins: the server properties of `connection.start`.

use std::fmt;

use lapin::protocol::connection::{AMQPMethod, Start};
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::AMQPValue;

/// Name and version of a broker's program, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    product: String,
    version: String,
}

impl Version {
    /// A version of `product`.
    #[must_use]
    pub fn new(product: &str, version: &str) -> Self {
        Self {
            product: product.to_owned(),
            version: version.to_owned(),
        }
    }

    /// The release series of a RabbitMQ, for example `(3, 13)`; a pre-release counts as what it becomes. None for other
    /// products, and for a version that is not of this form.
    #[must_use]
    pub fn rabbitmq(&self) -> Option<(u64, u64)> {
        let mut numbers = self.version.split('.').map(str::parse);
        let series = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        (self.product == "RabbitMQ").then_some(series)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.product, self.version)
    }
}

/// What a broker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    /// None: not both product and version.
    pub(super) version: Option<Version>,
    /// Which broker it is, whatever name it was reached by: all nodes of a RabbitMQ cluster say the same.
    pub(super) cluster: Option<Box<str>>,
}

/// What a `connection.start` tells. None for anything else.
pub(super) fn of_start(payload: &[u8]) -> Option<Greeting> {
    let (
        _,
        AMQPClass::Connection(AMQPMethod::Start(Start {
            server_properties, ..
        })),
    ) = parse_class(payload).ok()?
    else {
        return None;
    };
    let text = |name: &str| match server_properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    };
    let version = text("product").zip(text("version"));
    Some(Greeting {
        version: version.map(|(product, version)| Version::new(product, version)),
        cluster: text("cluster_name").map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    /// A `connection.start`.
    fn start(properties: &[(&str, AMQPValue)]) -> Vec<u8> {
        let mut server_properties = FieldTable::default();
        for (name, value) in properties {
            server_properties.insert((*name).into(), value.clone());
        }
        let start = Start {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        };
        let start = AMQPClass::Connection(AMQPMethod::Start(start));
        let payload = lapin::protocol::gen_class(&start)(Vec::new().into());
        payload.unwrap().into_inner().0
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_start_tells_product_and_version() {
        let capabilities = AMQPValue::FieldTable(FieldTable::default());
        let start = start(&[
            ("capabilities", capabilities),
            ("product", text("RabbitMQ")),
            ("version", text("3.10.8")),
            ("cluster_name", text("rabbit@one")),
        ]);
        let version = Version::new("RabbitMQ", "3.10.8");
        assert_eq!(version.to_string(), "RabbitMQ 3.10.8");
        let greeting = Greeting {
            version: Some(version),
            cluster: Some("rabbit@one".into()),
        };
        assert_eq!(of_start(&start), Some(greeting));
    }

    #[test]
    fn what_tells_no_version_is_none() {
        let no_version = start(&[("product", text("RabbitMQ"))]);
        let not_text = start(&[
            ("product", text("x")),
            ("version", AMQPValue::Boolean(true)),
        ]);
        for start in [&no_version, &not_text] {
            assert_eq!(of_start(start), Some(Greeting::default()));
        }
        let mut torn = start(&[("product", text("RabbitMQ")), ("version", text("4.0.5"))]);
        torn[20..].fill(0xff);
        let other_method = [0, 10, 0, 41, 0];
        for payload in [&torn[..], &other_method, b""] {
            assert_eq!(of_start(payload), None, "{payload:?}");
        }
    }

    #[test]
    fn a_release_series_is_that_of_a_rabbitmq_or_none() {
        for (product, version, series) in [
            ("RabbitMQ", "3.10.8", Some((3, 10))),
            ("RabbitMQ", "3.13.0-rc.1", Some((3, 13))),
            ("RabbitMQ", "4.0.5+1.g1234", Some((4, 0))),
            ("RabbitMQ", "4.1", Some((4, 1))),
            ("RabbitMQ", "4", None),
            ("RabbitMQ", "4.x", None),
            ("RabbitMQ", "", None),
            ("LavinMQ", "2.1.0", None),
        ] {
            let version = Version::new(product, version);
            assert_eq!(version.rabbitmq(), series, "{version}");
        }
    }
}
