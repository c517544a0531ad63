//! Finds the batches of [`super::batch`] in what the client library writes, and agrees with the broker to larger frames than
//! the library does, and to fewer channels.

use amq_protocol::protocol::constants::{FRAME_BODY, FRAME_HEADER, FRAME_METHOD};

use super::batch::COMMIT;
use super::frames::{END, Frames, HEAD};
use super::inbound::Told;

/// How the payload of a `connection.tune-ok` begins; the number of channels follows, and then the largest frame.
const TUNE_OK: [u8; 4] = [0, 10, 0, 31];
const CHANNEL_MAX: std::ops::Range<usize> = 4..6;
const FRAME_MAX: std::ops::Range<usize> = 6..10;
/// How the payload of a `basic.publish` begins: class and method.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];
/// Its last octet has the flags. This one is `immediate`: see [`super::batch::Batch::commit`].
const IMMEDIATE: u8 = 1 << 1;
/// No `basic.publish` is longer: ten octets and two names.
const LONGEST_PUBLISH: usize = 10 + 2 * u8::MAX as usize;

/// Puts the frames of batches in their place, leaves out the commits of the client library, and lets everything else pass as
/// it is.
#[derive(Debug, Default)]
pub(super) struct BatchDecoder {
    frames: Frames,
    batch: Option<Incoming>,
    told: Told,
}

/// A batch of which not all has come.
#[derive(Debug)]
struct Incoming {
    channel: [u8; 2],
    /// Octets of its content that are still to come.
    left: u64,
}

impl BatchDecoder {
    pub(super) fn new(told: Told) -> Self {
        Self {
            told,
            ..Self::default()
        }
    }

    /// Takes the next octets of the client library, and appends to `out` those that go to the broker by now.
    pub(super) fn feed(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while self.frames.gather(&mut octets, out) {
            self.decide(out);
        }
    }

    /// Everything wanted is gathered: first the head of a frame, then all of a small one.
    fn decide(&mut self, out: &mut Vec<u8>) {
        let Some(&[kind, a, b, ref size @ ..]) = self.frames.gathered.first_chunk::<HEAD>() else {
            return;
        };
        let channel = [a, b];
        let size = u32::from_be_bytes(*size) as usize;
        let whole = HEAD + size + END;
        let of_batch = self.batch.as_mut().filter(|batch| batch.channel == channel);
        match (kind, of_batch) {
            _ if self.frames.wanted == whole => self.take(channel, out),
            (FRAME_METHOD, _) if size <= LONGEST_PUBLISH => return self.frames.wanted = whole,
            (FRAME_HEADER, Some(_)) => return self.frames.wanted = whole,
            (FRAME_BODY, Some(batch)) => {
                batch.left = batch.left.saturating_sub(size as u64);
                self.batch.take_if(|batch| batch.left == 0);
                (self.frames.pass, self.frames.leave_out) = (size, END);
            }
            // Not a frame: the protocol header, eight octets.
            (b'A', _) => {
                out.extend_from_slice(&self.frames.gathered);
                self.frames.pass = 1;
            }
            _ => {
                out.extend_from_slice(&self.frames.gathered);
                self.frames.pass = size + END;
            }
        }
        self.frames.next();
    }

    /// A method, or the content header of a batch.
    fn take(&mut self, channel: [u8; 2], out: &mut Vec<u8>) {
        let payload = &self.frames.gathered[HEAD..self.frames.gathered.len() - END];
        if self.frames.gathered[0] == FRAME_HEADER {
            // Class and weight, then the size of the content.
            let size = payload.get(4..12).and_then(|size| size.try_into().ok());
            let left = size.map_or(0, u64::from_be_bytes);
            self.batch = (left > 0).then_some(Incoming { channel, left });
        } else if payload.starts_with(&PUBLISH)
            && payload.last().is_some_and(|flags| flags & IMMEDIATE != 0)
        {
            self.batch = Some(Incoming { channel, left: 0 });
        } else if payload != COMMIT {
            let is_tuning = payload.starts_with(&TUNE_OK);
            let start = out.len() + HEAD;
            out.extend_from_slice(&self.frames.gathered);
            if !is_tuning {
                return;
            }
            if let Some(agreed) = self.told.frame_max.get()
                && let Some(octets) = out[start..].get_mut(FRAME_MAX)
            {
                octets.copy_from_slice(&agreed.to_be_bytes());
            }
            if let Some(agreed) = self.told.channel_max.get()
                && let Some(octets) = out[start..].get_mut(CHANNEL_MAX)
            {
                octets.copy_from_slice(&agreed.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests;
