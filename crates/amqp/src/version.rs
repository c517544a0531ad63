//! What a broker says of itself when a connection begins: the server properties of `connection.start`.

use std::fmt;

use lapin::protocol::connection::{AMQPMethod, Start};
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::AMQPValue;

/// Frame type, channel and length of the payload.
const HEADER: usize = 7;
/// The greeting is a method frame on channel 0.
const METHOD_ON_CHANNEL_0: [u8; 3] = [1, 0, 0];
/// A greeting is a few hundred bytes. What claims to be much longer is none.
const LONGEST: usize = 64 * 1024;

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

/// The first frame of a connection, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Greeting(Vec<u8>);

/// What is known of a greeting.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// More of it has to come.
    Incomplete,
    /// All there is to know; None: it tells no version, or it is not a greeting at all.
    All(Option<Version>),
}

impl Greeting {
    /// Takes the next bytes of the broker into account; what follows the first frame is not looked at.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Heard {
        self.0.extend_from_slice(bytes);
        let seen = self.0.len().min(METHOD_ON_CHANNEL_0.len());
        if self.0[..seen] != METHOD_ON_CHANNEL_0[..seen] {
            return Heard::All(None);
        }
        let Some((header, rest)) = self.0.split_first_chunk::<HEADER>() else {
            return Heard::Incomplete;
        };
        let [.., a, b, c, d] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        match rest.get(..length) {
            _ if length > LONGEST => Heard::All(None),
            None => Heard::Incomplete,
            Some(payload) => Heard::All(version(payload)),
        }
    }
}

fn version(payload: &[u8]) -> Option<Version> {
    let (
        _,
        AMQPClass::Connection(AMQPMethod::Start(Start {
            server_properties, ..
        })),
    ) = parse_class(payload).ok()?
    else {
        return None;
    };
    let text = |name| match server_properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    };
    Some(Version::new(text("product")?, text("version")?))
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    /// A frame with a `connection.start` in it, and the beginning of what may follow.
    fn greeting(properties: &[(&str, AMQPValue)]) -> Vec<u8> {
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
        let payload = payload.unwrap().into_inner().0;
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&METHOD_ON_CHANNEL_0, &length[..], &payload, &[0xce, 8, 0]].concat()
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_greeting_tells_product_and_version() {
        let capabilities = AMQPValue::FieldTable(FieldTable::default());
        let bytes = greeting(&[
            ("capabilities", capabilities),
            ("product", text("RabbitMQ")),
            ("version", text("3.10.8")),
        ]);
        let version = Version::new("RabbitMQ", "3.10.8");
        assert_eq!(version.to_string(), "RabbitMQ 3.10.8");
        assert_eq!(Greeting::default().hear(&bytes), Heard::All(Some(version)));
    }

    #[test]
    fn a_greeting_in_pieces_is_put_together() {
        let bytes = greeting(&[("product", text("RabbitMQ")), ("version", text("4.0.5"))]);
        let (end, mut greeting) = (bytes.len() - 3, Greeting::default());
        for (at, byte) in bytes[..end - 1].iter().enumerate() {
            assert_eq!(greeting.hear(&[*byte]), Heard::Incomplete, "byte {at}");
        }
        let version = Version::new("RabbitMQ", "4.0.5");
        assert_eq!(greeting.hear(&bytes[end - 1..]), Heard::All(Some(version)));
    }

    #[test]
    fn what_tells_no_version_is_none() {
        let no_version = greeting(&[("product", text("RabbitMQ"))]);
        let not_text = greeting(&[
            ("product", text("x")),
            ("version", AMQPValue::Boolean(true)),
        ]);
        let mut torn = greeting(&[("product", text("RabbitMQ")), ("version", text("4.0.5"))]);
        torn[HEADER + 20..].fill(0xff);
        let other_method = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 50, 0xce];
        let too_long = [1, 0, 0, 0xff, 0xff, 0xff, 0xff];
        for bytes in [
            &no_version[..],
            &not_text,
            &torn,
            &other_method,
            &too_long,
            b"AMQP\x00\x00\x09\x01",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x01\x00\x07",
        ] {
            assert_eq!(
                Greeting::default().hear(bytes),
                Heard::All(None),
                "{bytes:?}"
            );
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
