//! Frames of AMQP 0-9-1 (§2.3.5 of its specification) in a stream of octets that comes in pieces of any size.

use amq_protocol::protocol::constants::FRAME_END;

/// Octets of a frame besides its payload: type, channel and length before it, and an end mark.
pub(super) const HEAD: usize = 7;
pub(super) const END: usize = 1;

/// Octets of a frame at most, from the broker and to it: what RabbitMQ agrees to unless it is configured otherwise. A content
/// header is one frame, so no larger one comes from publishers either.
pub(super) const MOST_FRAME: usize = 131_072;
/// The same between the client library and us: it keeps room for 64 of them in each connection.
pub(super) const LIBRARY_FRAME: usize = 8_192;

/// Gathers what somebody has to look at, lets pass or leaves out what they say.
#[derive(Debug)]
pub(super) struct Frames {
    /// The beginning of a frame, until it is known what to do with it.
    pub(super) gathered: Vec<u8>,
    /// Octets to gather.
    pub(super) wanted: usize,
    /// Octets to let pass, and then to leave out.
    pub(super) pass: usize,
    pub(super) leave_out: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            gathered: Vec::new(),
            wanted: HEAD,
            pass: 0,
            leave_out: 0,
        }
    }
}

impl Frames {
    /// Takes octets until everything wanted is gathered, and appends to `out` those that pass. False: there are no more.
    pub(super) fn gather(&mut self, octets: &mut &[u8], out: &mut Vec<u8>) -> bool {
        while !octets.is_empty() {
            if self.pass > 0 {
                out.extend_from_slice(split(octets, &mut self.pass));
            } else if self.leave_out > 0 {
                split(octets, &mut self.leave_out);
            } else {
                let mut missing = self.wanted - self.gathered.len();
                self.gathered.extend_from_slice(split(octets, &mut missing));
                if missing == 0 {
                    return true;
                }
            }
        }
        false
    }

    /// What was gathered is dealt with: the head of a frame comes next.
    pub(super) fn next(&mut self) {
        self.gathered.clear();
        self.wanted = HEAD;
    }
}

/// Splits off up to `count` octets, and counts them down.
fn split<'a>(octets: &mut &'a [u8], count: &mut usize) -> &'a [u8] {
    let (first, rest) = octets.split_at(octets.len().min(*count));
    *count -= first.len();
    *octets = rest;
    first
}

/// A frame.
pub(super) fn frame(kind: u8, channel: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let head = [&[kind][..], &channel, &length.to_be_bytes()].concat();
    [&head[..], payload, &[FRAME_END]].concat()
}
