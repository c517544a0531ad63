//! Messages of refill queues, and how they move to other queues.

use super::celery;
use super::transport::{Content, unwrapped};
use bucket::{RefillRequest, Rejection, Window};

/// Header that says why a request is in the queue for rejected ones.
pub const REJECTED_REASON: &str = "x-rejected-reason";

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
    message: Option<Message>,
}

/// As it came.
#[derive(Debug)]
pub(super) struct Message {
    /// Encoded.
    pub(super) properties: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Delivery {
    pub(super) fn new(delivery: lapin::message::Delivery) -> Self {
        let Content {
            octets,
            properties,
            body,
        } = unwrapped(delivery.properties, delivery.data);
        let read = properties.map_err(Rejection::Unreadable);
        let read = read.and_then(|properties| {
            let request = celery::parse(&properties, &body)?;
            Ok((request, celery::window(&properties)?))
        });
        let (request, window) = match read {
            Ok((request, window)) => (Ok(request), window),
            Err(rejection) => (Err(rejection), Window::default()),
        };
        Self {
            tag: delivery.delivery_tag,
            redelivered: delivery.redelivered,
            request,
            window,
            message: Some(Message {
                properties: octets,
                body,
            }),
        }
    }

    /// Octets of the message that are in memory.
    pub(super) fn octets(&self) -> usize {
        let message = self.message.as_ref();
        message.map_or(0, |it| it.properties.len() + it.body.len())
    }

    /// Lets go of the message. It cannot move then, but be acknowledged.
    pub(super) fn forget_message(&mut self) {
        self.message = None;
    }

    /// The message as it came, on its way to the queue `to`. Its acknowledgement is not part of it.
    #[must_use]
    pub fn forward(self, to: &str, reason: Option<&str>) -> Forward {
        Forward {
            queue: to.to_owned(),
            reason: reason.map(str::to_owned),
            message: self.message,
        }
    }
}

/// A message that moves to another queue.
#[derive(Debug)]
pub struct Forward {
    pub(super) queue: String,
    pub(super) reason: Option<String>,
    /// None: it is in memory no more.
    pub(super) message: Option<Message>,
}
