//! What comes from a broker, before the client library sees it. That keeps frames and messages of any size, parses what is
//! nested in them by recursion, and gives up the connection over a name that is not UTF-8. Who may write into a queue is
//! not trusted with that, and neither is a server. So frames are bounded here; what only a client sends is refused; and a message
//! with properties or a body that are not to be trusted gets others in their place, which say so in a header.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use amq_protocol::frame::parsing::parse_content_header;
use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};
use amq_protocol::protocol::constants::{
    FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD,
};
use lapin::BasicProperties;
use lapin::types::AMQPValue;

use super::batch::BASIC;
use super::frames::{END, Frames, HEAD};
use super::table::{after_table, short};
use crate::version::{self, Greeting};

/// Header that says what was the matter with a message.
pub(crate) const UNREADABLE: &str = "x-unreadable";

/// Octets of a frame at most. Less is agreed upon later, but the greeting comes before that.
const MOST_FRAME: usize = 131_072;
/// Octets of a content header at most. The broker sends longer ones than the frames that are agreed upon with us, when that
/// is how they have come.
const MOST_PROPERTIES: usize = 8_000;
/// Class, weight and size of the body, and flags: how a content header begins.
const FIXED: usize = 14;
/// Octets of the body of a message at most.
const MOST_BODY: u64 = 64 * 1024;
/// No broker takes or sends longer ones: RabbitMQ's limit is 512 MiB, whatever it is configured to.
const LONGEST_BODY: u64 = 512 * 1024 * 1024;

/// Octets of what nobody has asked for, over the life of a connection: messages that are returned, of which the client library
/// keeps each until somebody looks, and notices. A broker that really has returned so many gets a new connection.
const MOST_UNASKED: u64 = 16 * 1024 * 1024;
/// What a notice counts for: it costs a line in the log, or an answer.
const NOTICE: u64 = 16 * 1024;
/// What a message counts for besides its octets, and what the end of a channel does.
const LITTLE: u64 = 1024;

/// Class and method.
const START: [u8; 4] = [0, 10, 0, 10];
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const GET_OK: [u8; 4] = [0, 60, 0, 71];
const RETURN: [u8; 4] = [0, 60, 0, 50];
const CLOSE_CHANNEL: [u8; 4] = [0, 20, 0, 40];
/// `connection.blocked` and `unblocked`, `channel.flow`, `basic.cancel`.
const NOTICES: [[u8; 4]; 4] = [
    [0, 10, 0, 60],
    [0, 10, 0, 61],
    [0, 20, 0, 20],
    [0, 60, 0, 30],
];
/// Methods that a server sends, by class. Only `connection.start` has a table in it.
const FROM_SERVER: [(u8, &[u8]); 8] = [
    (10, &[10, 20, 30, 41, 50, 51, 60, 61, 71]),
    (20, &[11, 20, 21, 40, 41]),
    (30, &[11]),
    (40, &[11, 21, 31, 51]),
    (50, &[11, 21, 31, 41, 51]),
    (60, &[11, 21, 30, 31, 50, 60, 71, 72, 80, 111, 120]),
    (85, &[11]),
    (90, &[11, 21, 31]),
];
/// Of the flags of properties: there is a content type, a content encoding, a table of headers.
const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;

/// Where it appears what the broker says of itself, when it has greeted.
pub(super) type Told = Arc<OnceLock<Greeting>>;

/// Why nothing more is taken from a server.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Untrusted {
    /// Not a frame at all.
    #[error("the server does not speak AMQP 0-9-1")]
    NotAmqp,
    /// A frame that was not agreed upon.
    #[error("the server sent a frame of {0} octets; at most {MOST_FRAME} are taken")]
    Frame(usize),
    /// A method of clients, or one that does not exist.
    #[error("the server sent a method that no server sends ({0:?})")]
    Method(Vec<u8>),
    /// Deeply nested or cut off.
    #[error("the server's properties are nested too deeply, too many, or cut off")]
    Properties,
    /// It greets again.
    #[error("the server began the connection anew in the middle")]
    SecondStart,
    /// More than any broker allows.
    #[error("the server sent a message of {0} octets")]
    Body(u64),
    /// It goes on and on.
    #[error("the server returned too many messages, or sent too many notices")]
    Unasked,
}

/// Takes what comes in pieces of any size.
pub(super) struct Inbound {
    frames: Frames,
    /// Octets of bodies that are left out, by channel.
    bodies: HashMap<[u8; 2], u64>,
    /// Channels on which a message is about to be returned.
    returning: HashSet<[u8; 2]>,
    /// Of [`MOST_UNASKED`].
    unasked: u64,
    greeted: bool,
    told: Told,
}

impl Inbound {
    pub(super) fn new(told: Told) -> Self {
        Self {
            frames: Frames::default(),
            bodies: HashMap::new(),
            returning: HashSet::new(),
            unasked: 0,
            greeted: false,
            told,
        }
    }

    /// Takes the next octets of the broker, and appends to `out` what the client library is to see by now.
    pub(super) fn feed(&mut self, mut octets: &[u8], out: &mut Vec<u8>) -> Result<(), Untrusted> {
        while self.frames.gather(&mut octets, out) {
            self.decide(out)?;
        }
        Ok(())
    }

    /// Everything wanted is gathered: first the head of a frame, then all of one that has to be looked at.
    fn decide(&mut self, out: &mut Vec<u8>) -> Result<(), Untrusted> {
        let Some(&[kind, a, b, ref size @ ..]) = self.frames.gathered.first_chunk::<HEAD>() else {
            return Ok(());
        };
        let channel = [a, b];
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
        let whole = HEAD.saturating_add(size).saturating_add(END);
        // A server that speaks another version answers with eight octets.
        if self.frames.gathered.starts_with(b"AMQP") {
            out.extend_from_slice(&self.frames.gathered);
            self.frames.pass = 1;
        } else if !matches!(
            kind,
            FRAME_METHOD | FRAME_HEADER | FRAME_BODY | FRAME_HEARTBEAT
        ) {
            return Err(Untrusted::NotAmqp);
        } else if kind == FRAME_HEADER && size > MOST_PROPERTIES {
            if self.frames.wanted == HEAD {
                self.frames.wanted = HEAD + FIXED;
                return Ok(());
            }
            self.frames.leave_out = whole - self.frames.gathered.len();
            self.whole(channel, out)?;
        } else if whole > MOST_FRAME {
            return Err(Untrusted::Frame(whole));
        } else if kind == FRAME_BODY || kind == FRAME_HEARTBEAT {
            self.body(channel, size, out);
        } else if self.frames.wanted == HEAD {
            self.frames.wanted = whole;
            return Ok(());
        } else {
            self.whole(channel, out)?;
        }
        self.frames.next();
        Ok(())
    }

    /// A method or a content header has come, or the beginning of one that is too long.
    fn whole(&mut self, channel: [u8; 2], out: &mut Vec<u8>) -> Result<(), Untrusted> {
        let frame = std::mem::take(&mut self.frames.gathered);
        let instead = match (frame[0], self.frames.leave_out) {
            (FRAME_METHOD, _) => self.method(channel, &frame[HEAD..frame.len() - END])?,
            (_, 0) => {
                let payload = &frame[HEAD..frame.len() - END];
                self.content_header(channel, payload, readable(payload))?
            }
            _ => self.content_header(channel, &frame[HEAD..], None)?,
        };
        out.extend_from_slice(instead.as_ref().unwrap_or(&frame));
        self.frames.gathered = frame;
        Ok(())
    }

    /// A frame that need not be looked at: it passes, unless it is a part of a body that is left out.
    fn body(&mut self, channel: [u8; 2], size: usize, out: &mut Vec<u8>) {
        if self.frames.gathered[0] == FRAME_BODY
            && let Some(left) = self.bodies.get_mut(&channel)
        {
            *left = left.saturating_sub(size as u64);
            if *left == 0 {
                self.bodies.remove(&channel);
            }
            self.frames.leave_out = size + END;
        } else {
            out.extend_from_slice(&self.frames.gathered);
            self.frames.pass = size + END;
        }
    }

    /// Answers the frame that takes its place, if it must not pass as it is.
    fn method(&mut self, channel: [u8; 2], payload: &[u8]) -> Result<Option<Vec<u8>>, Untrusted> {
        let known = match *payload {
            [0, class, 0, method, ..] => FROM_SERVER
                .iter()
                .any(|(known, methods)| *known == class && methods.contains(&method)),
            _ => false,
        };
        if !known {
            let name = payload.iter().take(START.len()).copied().collect();
            return Err(Untrusted::Method(name));
        }
        if payload.starts_with(&RETURN) {
            self.returning.insert(channel);
            self.count(LITTLE)?;
        } else if payload.starts_with(&CLOSE_CHANNEL) {
            self.count(LITTLE)?;
        } else if NOTICES.iter().any(|notice| payload.starts_with(notice)) {
            self.count(NOTICE)?;
        } else if payload.starts_with(&START) {
            if std::mem::replace(&mut self.greeted, true) {
                return Err(Untrusted::SecondStart);
            }
            // Behind class and method, and the version of the protocol.
            let properties = payload.get(6..).and_then(after_table);
            properties.ok_or(Untrusted::Properties)?;
            if let Some(greeting) = version::of_start(payload) {
                // It greets once.
                let _ = self.told.set(greeting);
            }
        }
        Ok(with_readable_names(payload).map(|payload| frame(FRAME_METHOD, channel, &payload)))
    }

    fn count(&mut self, octets: u64) -> Result<(), Untrusted> {
        self.unasked += octets;
        if self.unasked > MOST_UNASKED {
            return Err(Untrusted::Unasked);
        }
        Ok(())
    }

    /// The same for a content header, which begins with `payload`; `header` is what it says, if it can be trusted.
    fn content_header(
        &mut self,
        channel: [u8; 2],
        payload: &[u8],
        header: Option<AMQPContentHeader>,
    ) -> Result<Option<Vec<u8>>, Untrusted> {
        // Class and weight, then the size of the body.
        let size = payload.get(4..12).and_then(|size| size.try_into().ok());
        let body_size = size.map_or(0, u64::from_be_bytes);
        // A message ends where the next one begins.
        self.bodies.remove(&channel);
        if body_size > LONGEST_BODY {
            return Err(Untrusted::Body(body_size));
        }
        let too_long = body_size > MOST_BODY;
        if self.returning.remove(&channel) {
            self.count(payload.len() as u64 + body_size.min(MOST_BODY))?;
        }
        let Some(reason) = (match (&header, too_long) {
            (Some(_), false) => None,
            (Some(_), true) => Some(format!(
                "its body has {body_size} octets; at most {MOST_BODY} are looked at"
            )),
            (None, _) => Some(format!(
                "its properties have more than {MOST_PROPERTIES} octets, are nested deeply, or have names that are not UTF-8"
            )),
        }) else {
            return Ok(None);
        };
        let mut headers = header
            .as_ref()
            .and_then(|header| header.properties.headers().clone())
            .unwrap_or_default();
        headers.insert(UNREADABLE.into(), AMQPValue::LongString(reason.into()));
        let properties = header.map_or_else(BasicProperties::default, |header| header.properties);
        let header = AMQPContentHeader {
            class_id: BASIC,
            body_size: if too_long { 0 } else { body_size },
            properties: properties.with_headers(headers),
        };
        if too_long {
            self.bodies.insert(channel, body_size);
        }
        let header = AMQPFrame::Header(u16::from_be_bytes(channel), header);
        let written = gen_frame(&header)(Vec::new().into()).map_err(|_| Untrusted::Properties)?;
        Ok(Some(written.into_inner().0))
    }
}

/// What the client library sees of these octets, fed in pieces; None when nothing more is taken from such a server. For
/// `fuzz/`.
#[doc(hidden)]
#[must_use]
pub fn passed(octets: &[u8], piece: usize) -> Option<Vec<u8>> {
    let (mut inbound, mut out) = (Inbound::new(Told::default()), Vec::new());
    for piece in octets.chunks(piece.max(1)) {
        inbound.feed(piece, &mut out).ok()?;
    }
    Some(out)
}

/// A content header whose properties the client library can be trusted with.
pub(crate) fn readable(payload: &[u8]) -> Option<AMQPContentHeader> {
    // Class, weight and size; then the flags.
    let (flags, mut rest) = payload.get(12..)?.split_first_chunk()?;
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

/// The method with other names in it where exchange or routing key are not UTF-8: nothing depends on these.
fn with_readable_names(payload: &[u8]) -> Option<Vec<u8>> {
    let (method, rest) = payload.split_first_chunk()?;
    // A tag and a flag, and before them the consumer's tag.
    let names = match *method {
        DELIVER => short(rest)?.1.get(9..)?,
        GET_OK => rest.get(9..)?,
        _ => return None,
    };
    let (exchange, rest) = short(names)?;
    let (routing_key, rest) = short(rest)?;
    let is_text = |name| std::str::from_utf8(name).is_ok();
    if is_text(exchange) && is_text(routing_key) {
        return None;
    }
    let before = &payload[..payload.len() - names.len()];
    Some([before, &[0, 0], rest].concat())
}

fn frame(kind: u8, channel: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let head = [&[kind][..], &channel, &length.to_be_bytes()].concat();
    [&head[..], payload, &[FRAME_END]].concat()
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
