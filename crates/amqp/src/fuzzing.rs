//! Entrances for `fuzz/`; nobody else uses them.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};
use bucket::{RefillRequest, Rejection};
use lapin::BasicProperties;

use crate::transport::{BEFORE_PROPERTIES, readable};
use crate::{celery, properties};

pub use crate::transport::passed;

/// What RabbitMQ agrees to.
const FRAME_MAX: usize = 131_072;

/// What a message asks for that has this content header (without its frame) and this body; None when its properties do not
/// get that far.
#[must_use]
pub fn request(header: &[u8], body: &[u8]) -> Option<Result<RefillRequest, Rejection>> {
    Some(celery::parse(&readable(header)?.properties, body))
}

/// Content header and body of a request.
#[must_use]
pub fn message(request: &RefillRequest) -> Option<(Vec<u8>, Vec<u8>)> {
    let (properties, body) = celery::encode(request);
    Some((content_header(properties)?, body))
}

/// The content header that a message has in the queue for rejected ones; None when it cannot be written.
#[must_use]
pub fn rejected(header: &[u8]) -> Option<Vec<u8>> {
    let (before, octets) = header.split_at_checked(BEFORE_PROPERTIES)?;
    let moved = properties::forwarded(octets, Some("why"), FRAME_MAX);
    Some([before, &moved].concat())
}

fn content_header(properties: BasicProperties) -> Option<Vec<u8>> {
    let header = AMQPContentHeader {
        class_id: 60,
        body_size: 0,
        properties,
    };
    let frame = gen_frame(&AMQPFrame::Header(1, header))(Vec::new().into()).ok()?;
    let frame = frame.into_inner().0;
    // Between the head of the frame and its end.
    Some(frame.get(7..frame.len().checked_sub(1)?)?.to_vec())
}
