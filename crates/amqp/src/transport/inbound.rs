//! What comes from a broker, before the client library sees it. That keeps frames and messages of any size, parses what is
//! nested in them by recursion, and gives up the connection over a name that is not UTF-8. Who may write into a queue is
//! not trusted with that, and neither is a server. So frames are bounded here; what only a client sends is refused; and the
//! properties of a message that are not to be trusted, or too large, pass as a part of its body ([`super::content`]).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use amq_protocol::protocol::constants::{FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD};

use super::content::{self, BEFORE_PROPERTIES};
use super::frames::{END, Frames, HEAD, LIBRARY_FRAME, MOST_FRAME, frame};
use super::table::{after_table, short};
use crate::version::{self, Greeting};

/// Octets of the body of a message at most.
pub(super) const MOST_BODY: u64 = 64 * 1024;
/// No broker takes or sends longer ones: RabbitMQ's limit is 512 MiB, whatever it is configured to.
const LONGEST_BODY: u64 = 512 * 1024 * 1024;

/// Octets of what nobody has asked for, over the life of a connection: messages that are returned, of which the client library
/// keeps each until somebody looks, and notices. A broker that really has returned so many gets a new connection.
const MOST_UNASKED: u64 = 16 * 1024 * 1024;
/// What a notice counts for: it costs a line in the log, or an answer.
const NOTICE: u64 = 16 * 1024;
/// What a message counts for besides its octets, and what the end of a channel does.
const LITTLE: u64 = 1024;

/// Channels that the client library takes a connection to have at least: of those that a broker has closed over an error it uses
/// the number no more, and RabbitMQ limits how many are open, not how they are numbered.
pub(super) const LIBRARY_CHANNELS: u16 = 2_047;

/// Class and method.
const START: [u8; 4] = [0, 10, 0, 10];
const TUNE: [u8; 4] = [0, 10, 0, 30];
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

/// Where it appears what the broker says when the connection begins.
pub(super) type Told = Arc<Beginning>;

/// What the broker says when the connection begins.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    /// What it says of itself, when it has greeted.
    pub(super) greeting: OnceLock<Greeting>,
    /// The largest frame that is agreed upon, in octets.
    pub(super) frame_max: OnceLock<u32>,
    /// The most channels that are open at one time, where that is less than the library is told.
    pub(super) channel_max: OnceLock<u16>,
}

/// Why nothing more is taken from a server.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Untrusted {
    /// Not a frame at all.
    #[error("what answers does not speak AMQP 0-9-1")]
    NotAmqp,
    /// HTTP.
    #[error("what answers speaks HTTP, as the management interface does (15672), and not AMQP")]
    Http,
    /// A record of TLS.
    #[error("what answers speaks TLS: write amqps://, or the port without TLS (5672)")]
    Tls,
    /// The protocol of another version.
    #[error(
        "what answers speaks AMQP 1.0 and not AMQP 0-9-1, which the operator needs and RabbitMQ speaks"
    )]
    Amqp1,
    /// It has closed the connection instead of a greeting.
    #[error(
        "what answers closed the connection without a word, as a port of TLS (amqps://) or of the management interface \
         (15672) does"
    )]
    Silent,
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

    /// Nothing more comes.
    pub(super) fn end(&self) -> Result<(), Untrusted> {
        let nothing = !self.greeted && self.frames.gathered.is_empty() && self.frames.pass == 0;
        if nothing {
            Err(Untrusted::Silent)
        } else {
            Ok(())
        }
    }

    /// Everything wanted is gathered: first the head of a frame, then all of one that has to be looked at.
    fn decide(&mut self, out: &mut Vec<u8>) -> Result<(), Untrusted> {
        let Some(&[kind, a, b, ref size @ ..]) = self.frames.gathered.first_chunk::<HEAD>() else {
            return Ok(());
        };
        let channel = [a, b];
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
        let whole = HEAD.saturating_add(size).saturating_add(END);
        if !self.greeted {
            not_amqp(&self.frames.gathered)?;
        }
        // A server that speaks another version answers with eight octets.
        if self.frames.gathered.starts_with(b"AMQP") {
            out.extend_from_slice(&self.frames.gathered);
            self.frames.pass = 1;
        } else if !matches!(
            kind,
            FRAME_METHOD | FRAME_HEADER | FRAME_BODY | FRAME_HEARTBEAT
        ) {
            return Err(Untrusted::NotAmqp);
        } else if kind == FRAME_HEADER && whole > MOST_FRAME {
            if self.frames.wanted == HEAD {
                self.frames.wanted = HEAD + BEFORE_PROPERTIES;
                return Ok(());
            }
            self.frames.leave_out = whole - self.frames.gathered.len();
            self.whole(channel, out)?;
        } else if whole > MOST_FRAME {
            return Err(Untrusted::Frame(whole));
        } else if kind == FRAME_BODY && self.is_left_out(channel, size) {
            self.frames.leave_out = size + END;
        } else if kind == FRAME_HEARTBEAT || (kind == FRAME_BODY && whole <= LIBRARY_FRAME) {
            out.extend_from_slice(&self.frames.gathered);
            self.frames.pass = size + END;
        } else if self.frames.wanted == HEAD {
            self.frames.wanted = whole;
            return Ok(());
        } else {
            self.whole(channel, out)?;
        }
        self.frames.next();
        Ok(())
    }

    /// A frame to look at has come, or the beginning of a content header that is too long.
    fn whole(&mut self, channel: [u8; 2], out: &mut Vec<u8>) -> Result<(), Untrusted> {
        let frame = std::mem::take(&mut self.frames.gathered);
        let payload = match self.frames.leave_out {
            0 => &frame[HEAD..frame.len() - END],
            _ => &frame[HEAD..],
        };
        let instead = match frame[0] {
            FRAME_METHOD => self.method(channel, payload)?,
            FRAME_HEADER => self.content_header(channel, payload)?,
            _ => {
                content::split(channel, payload, out);
                return Ok(());
            }
        };
        out.extend_from_slice(instead.as_ref().unwrap_or(&frame));
        // A large one is not kept for the next.
        if frame.capacity() <= LIBRARY_FRAME {
            self.frames.gathered = frame;
        }
        Ok(())
    }

    /// Whether a part of a body belongs to one that is left out.
    fn is_left_out(&mut self, channel: [u8; 2], size: usize) -> bool {
        let Some(left) = self.bodies.get_mut(&channel) else {
            return false;
        };
        *left = left.saturating_sub(size as u64);
        if *left == 0 {
            self.bodies.remove(&channel);
        }
        true
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
                let _ = self.told.greeting.set(greeting);
            }
        } else if payload.starts_with(&TUNE)
            && let Some(asked) = payload.get(6..10).and_then(|it| it.try_into().ok())
        {
            // 0: it knows no limit.
            let asked = match u32::from_be_bytes(asked) {
                0 => u32::MAX,
                asked => asked,
            };
            let most = u32::try_from(MOST_FRAME).unwrap_or(u32::MAX);
            let _ = self.told.frame_max.set(asked.min(most));
            if let Some(few) = few_channels(payload) {
                let _ = self.told.channel_max.set(few);
                let (channels, rest) = (LIBRARY_CHANNELS.to_be_bytes(), &payload[6..]);
                let payload = [&TUNE[..], &channels, rest].concat();
                return Ok(Some(frame(FRAME_METHOD, channel, &payload)));
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

    /// The same for a content header, or the beginning of one.
    fn content_header(
        &mut self,
        channel: [u8; 2],
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, Untrusted> {
        let body = content::body_size(payload);
        // A message ends where the next one begins.
        self.bodies.remove(&channel);
        if body > LONGEST_BODY {
            return Err(Untrusted::Body(body));
        }
        let too_long = body > MOST_BODY;
        if self.returning.remove(&channel) {
            self.count(payload.len() as u64 + body.min(MOST_BODY))?;
        }
        if !too_long && self.frames.leave_out == 0 && !content::needs_wrapping(payload) {
            return Ok(None);
        }
        if too_long {
            self.bodies.insert(channel, body);
        }
        let rest = if too_long { 0 } else { body };
        let instead = content::wrapped(channel, payload, rest);
        instead.map(Some).ok_or(Untrusted::Properties)
    }
}

/// How many channels a `connection.tune` allows, if these are few. 0: it knows no limit.
fn few_channels(payload: &[u8]) -> Option<u16> {
    let asked = payload.get(4..6)?.try_into().ok();
    asked
        .map(u16::from_be_bytes)
        .filter(|asked| (1..LIBRARY_CHANNELS).contains(asked))
}

/// Refuses what the beginning of an answer shows to be another protocol.
fn not_amqp(first: &[u8]) -> Result<(), Untrusted> {
    match *first {
        [b'H', b'T', b'T', b'P', b'/', ..] => Err(Untrusted::Http),
        [0x15 | 0x16, 3, ..] => Err(Untrusted::Tls),
        // Its protocol, or SASL before it.
        [b'A', b'M', b'Q', b'P', 0 | 3, 1, ..] => Err(Untrusted::Amqp1),
        _ => Ok(()),
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

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
