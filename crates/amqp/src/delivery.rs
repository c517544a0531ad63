//! Messages of refill queues, and how they move to other queues.

use amq_protocol::protocol::basic::gen_properties;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::celery;
use bucket::{RefillRequest, Rejection, Window};

/// Header that says why a request is in the queue for rejected ones.
pub const REJECTED_REASON: &str = "x-rejected-reason";

/// Headers that say something about a message's way through one queue, or that make the broker send copies elsewhere.
const NOT_FORWARDED: [&str; 4] = ["x-delivery-count", "x-acquired-count", "CC", "BCC"];

/// Octets of properties at most: with class, weight and size of the body they are the content header, which has to fit into
/// one frame of the size that is agreed upon, 8,192. RabbitMQ ends the connection over a longer one, and it came again.
const MOST_PROPERTIES: usize = 8_192 - 8 - 12;

/// A message of the refill queue.
#[derive(Debug)]
pub struct Delivery {
    /// What to acknowledge it by, on the channel that it came from.
    pub tag: u64,
    /// Somebody has had it before and did not acknowledge it.
    pub redelivered: bool,
    /// What it asks for, or why it is not understood.
    pub request: Result<RefillRequest, Rejection>,
    /// When that may be done.
    pub window: Window,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Delivery {
    pub(super) fn new(delivery: lapin::message::Delivery) -> Self {
        let read = celery::parse(&delivery.properties, &delivery.data)
            .and_then(|request| Ok((request, celery::window(&delivery.properties)?)));
        let (request, window) = match read {
            Ok((request, window)) => (Ok(request), window),
            Err(rejection) => (Err(rejection), Window::default()),
        };
        Self {
            tag: delivery.delivery_tag,
            redelivered: delivery.redelivered,
            request,
            window,
            properties: delivery.properties,
            body: delivery.data,
        }
    }

    /// The message as it came, on its way to the queue `to`. Its acknowledgement is not part of it.
    #[must_use]
    pub fn forward(self, to: &str, reason: Option<&str>) -> Forward {
        Forward {
            queue: to.to_owned(),
            properties: forwarded(&self.properties, reason),
            body: self.body,
        }
    }
}

/// A message that moves to another queue.
#[derive(Debug)]
pub struct Forward {
    pub(super) queue: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

/// The properties without those that the broker would act on: it closes the channel of a publisher whose `user_id` is
/// not its own, and drops what has an expiration.
pub(super) fn forwarded(original: &BasicProperties, reason: Option<&str>) -> BasicProperties {
    let kept = original
        .headers()
        .iter()
        .flat_map(|headers| headers.inner());
    let mut headers = FieldTable::default();
    for (name, value) in kept.filter(|(name, _)| !NOT_FORWARDED.contains(&name.as_str())) {
        headers.insert(name.clone(), value.clone());
    }
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    macro_rules! keep {
        ($($get:ident => $with:ident),*) => {
            $(if let Some(value) = original.$get() {
                properties = properties.$with(value.clone());
            })*
        };
    }
    keep!(
        content_type => with_content_type, content_encoding => with_content_encoding, priority => with_priority,
        correlation_id => with_correlation_id, reply_to => with_reply_to, message_id => with_message_id,
        timestamp => with_timestamp, kind => with_type, app_id => with_app_id, cluster_id => with_cluster_id
    );
    let Some(reason) = reason else {
        return properties.with_headers(headers);
    };
    let with = |reason: &str| {
        let mut headers = headers.clone();
        headers.insert(REJECTED_REASON.into(), AMQPValue::LongString(reason.into()));
        properties.clone().with_headers(headers)
    };
    let room = MOST_PROPERTIES.saturating_sub(octets(&with("")));
    with(&reason[..reason.floor_char_boundary(room)])
}

fn octets(properties: &BasicProperties) -> usize {
    let written = gen_properties(properties)(Vec::new().into());
    written.map_or(usize::MAX, |written| written.into_inner().0.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_as_long_as_there_is_room_for_it() {
        for size in [0, 7_000, 7_900] {
            let mut headers = FieldTable::default();
            headers.insert("n".into(), AMQPValue::LongString("x".repeat(size).into()));
            let original = BasicProperties::default().with_headers(headers);
            let it = forwarded(&original, Some(&"ü".repeat(1_000)));
            assert!(octets(&it) <= MOST_PROPERTIES, "{size}");
            let headers = it.headers().as_ref().unwrap().inner();
            let AMQPValue::LongString(reason) = &headers[REJECTED_REASON] else {
                panic!("{headers:?}");
            };
            let least = 2_000.min(MOST_PROPERTIES - size - 100);
            assert!(reason.as_bytes().len() >= least, "{size}");
            assert!(str::from_utf8(reason.as_bytes()).is_ok());
        }
    }

    #[test]
    fn a_forwarded_message_keeps_what_it_says_and_loses_what_the_broker_would_act_on() {
        let mut headers = FieldTable::default();
        for name in ["task", "x-delivery-count", "CC", "BCC"] {
            headers.insert(name.into(), AMQPValue::LongString("x".into()));
        }
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_content_type("text/plain".into())
            .with_message_id("m".into())
            .with_user_id("somebody".into())
            .with_expiration("5".into());
        let it = forwarded(&original, Some("why"));
        let names: Vec<&str> = it
            .headers()
            .iter()
            .flat_map(|headers| headers.inner().keys())
            .map(|k| k.as_str())
            .collect();
        assert_eq!(names, ["task", REJECTED_REASON]);
        assert_eq!((it.user_id(), it.expiration()), (&None, &None));
        assert_eq!(
            (it.content_type(), it.message_id()),
            (original.content_type(), original.message_id())
        );
    }
}
