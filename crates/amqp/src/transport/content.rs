//! Messages that the client library cannot be trusted with, or that are larger than its frames: their content header travels
//! through it as the beginning of the body, and nothing of it is lost.

use amq_protocol::frame::parsing::parse_content_header;
use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};
use amq_protocol::protocol::basic::gen_properties;
use amq_protocol::protocol::constants::FRAME_BODY;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::batch::BASIC;
use super::frames::{END, HEAD, LIBRARY_FRAME, frame};
use super::inbound::MOST_BODY;
use super::table::{after_table, short};

/// Header of a message whose content header is the beginning of its body: so many octets of it. A message that has come with a
/// header of this name is wrapped too, so nobody else can write one.
const WRAPPED: &str = "x-content-header";

/// Class, weight and size of the body: how a content header begins.
pub(crate) const BEFORE_PROPERTIES: usize = 12;

/// Of the flags of properties: there is a content type, a content encoding, a table of headers.
pub(super) const CONTENT_TYPE: u16 = 1 << 15;
pub(super) const CONTENT_ENCODING: u16 = 1 << 14;
pub(super) const HEADERS: u16 = 1 << 13;

/// A message.
pub(crate) struct Content {
    /// Its properties, encoded as they came, from the flags on.
    pub(crate) octets: Vec<u8>,
    /// The same read, or why they are not, or why the body is missing.
    pub(crate) properties: Result<BasicProperties, String>,
    pub(crate) body: Vec<u8>,
}

/// The size of the body that a content header tells.
pub(super) fn body_size(payload: &[u8]) -> u64 {
    let size = payload.get(4..BEFORE_PROPERTIES);
    size.and_then(|size| size.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

/// Whether the client library cannot have this content header as it is.
pub(super) fn needs_wrapping(payload: &[u8]) -> bool {
    if HEAD + payload.len() + END > LIBRARY_FRAME {
        return true;
    }
    let Some(header) = readable(payload) else {
        return true;
    };
    let headers = header.properties.headers().as_ref();
    headers.is_some_and(|headers| headers.contains_key(WRAPPED))
}

/// The frames that take the place of a content header; the body's own follow, `body` octets in all.
pub(super) fn wrapped(channel: [u8; 2], payload: &[u8], body: u64) -> Option<Vec<u8>> {
    let mut headers = FieldTable::default();
    let length = u32::try_from(payload.len()).ok()?;
    headers.insert(WRAPPED.into(), AMQPValue::LongUInt(length));
    let header = AMQPContentHeader {
        class_id: BASIC,
        body_size: u64::from(length) + body,
        properties: BasicProperties::default().with_headers(headers),
    };
    let header = AMQPFrame::Header(u16::from_be_bytes(channel), header);
    let mut out = gen_frame(&header)(Vec::new().into()).ok()?.into_inner().0;
    split(channel, payload, &mut out);
    Some(out)
}

/// Appends frames of the client library's size with this part of a body.
pub(super) fn split(channel: [u8; 2], part: &[u8], out: &mut Vec<u8>) {
    for part in part.chunks(LIBRARY_FRAME - HEAD - END) {
        out.extend(frame(FRAME_BODY, channel, part));
    }
}

/// A message as it came, from what the client library makes of it.
pub(crate) fn unwrapped(properties: BasicProperties, mut data: Vec<u8>) -> Content {
    let length = match properties.headers().as_ref().map(FieldTable::inner) {
        Some(headers) => match headers.get(WRAPPED) {
            Some(&AMQPValue::LongUInt(length)) => usize::try_from(length).ok(),
            _ => None,
        },
        None => None,
    };
    let Some(length) = length.filter(|&length| length <= data.len()) else {
        return Content {
            octets: encoded(&properties),
            properties: Ok(properties),
            body: data,
        };
    };
    let body = data.split_off(length);
    let size = body_size(&data);
    let properties = match readable(&data) {
        _ if size > MOST_BODY => Err(format!(
            "its body has {size} octets; at most {MOST_BODY} are looked at"
        )),
        Some(header) => Ok(header.properties),
        None => Err(
            "its properties are larger than any frame, are nested deeply, have very many values, or have names that are not \
             UTF-8"
                .to_owned(),
        ),
    };
    data.drain(..BEFORE_PROPERTIES.min(length));
    Content {
        octets: data,
        properties,
        body,
    }
}

/// Properties as they are sent.
pub(crate) fn encoded(properties: &BasicProperties) -> Vec<u8> {
    let written = gen_properties(properties)(Vec::new().into());
    written.map_or_else(|_| Vec::new(), |written| written.into_inner().0)
}

/// A content header whose properties the client library can be trusted with.
pub(crate) fn readable(payload: &[u8]) -> Option<AMQPContentHeader> {
    let (flags, mut rest) = payload.get(BEFORE_PROPERTIES..)?.split_first_chunk()?;
    let flags = u16::from_be_bytes(*flags);
    for flag in [CONTENT_TYPE, CONTENT_ENCODING] {
        if flags & flag != 0 {
            (_, rest) = short(rest)?;
        }
    }
    if flags & HEADERS != 0 {
        after_table(rest)?;
    }
    match parse_content_header(payload) {
        Ok(([], header)) => Some(header),
        _ => None,
    }
}
