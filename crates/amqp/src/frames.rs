//! Many small messages at the price of one. The client library makes a promise, an entry in a queue and a wake-up of its
//! thread for each message: 1.5 µs of processor time, fifteen times what writing a token takes. So what fills a
//! transaction is encoded here, as frames of AMQP 0-9-1 (§2.3.5 and §4.2 of its specification), and given to the library
//! as the content of one message: an envelope. [`Opener`] takes it off just before the socket, and the frames go out in
//! its place.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};
use amq_protocol::protocol::AMQPClass;
use amq_protocol::protocol::basic::{AMQPMethod, Ack, Nack, Publish};
use amq_protocol::protocol::constants::{
    FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_MIN_SIZE,
};
use futures::future::join;
use lapin::options::BasicPublishOptions;
use lapin::types::{ChannelId, ShortString};
use lapin::{BasicProperties, Channel};

use super::error::BrokerError;

/// Octets of a frame besides its payload: type, channel and length before it, and an end mark.
const HEAD: usize = 7;
const END: usize = 1;
/// Content of one frame: every broker takes frames of the smallest maximum.
const BODY: usize = FRAME_MIN_SIZE as usize - HEAD - END;
/// The class `basic`.
const BASIC: u16 = 60;
/// How the payload of a `basic.publish` begins: class and method.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];
/// All of a `tx.commit`.
const COMMIT: [u8; 4] = [0, 90, 0, 20];
/// Its last octet has the flags. This one is `immediate`, which RabbitMQ refuses: no other message has it, and an
/// envelope that nobody opens is an error at once.
const IMMEDIATE: u8 = 1 << 1;
/// No `basic.publish` is longer: ten octets and two names.
const LONGEST_PUBLISH: usize = 10 + 2 * u8::MAX as usize;

/// Frames for one channel, encoded.
pub(super) struct Frames {
    channel: ChannelId,
    octets: Vec<u8>,
}

impl Frames {
    pub(super) fn new(channel: &Channel) -> Self {
        Self {
            channel: channel.id(),
            octets: Vec::new(),
        }
    }

    /// Publishes to `queue` through the default exchange, `times` times.
    pub(super) fn publish(
        &mut self,
        queue: ShortString,
        properties: BasicProperties,
        body: &[u8],
        times: u64,
    ) -> Result<(), BrokerError> {
        let Some(more) = times.checked_sub(1) else {
            return Ok(());
        };
        let start = self.octets.len();
        self.message(queue, properties, body, false)?;
        let message = self.octets[start..].to_vec();
        for _ in 0..more {
            self.octets.extend_from_slice(&message);
        }
        Ok(())
    }

    /// Publishes to `queue` through the default exchange; the message comes back when there is no such queue.
    pub(super) fn publish_mandatory(
        &mut self,
        queue: ShortString,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), BrokerError> {
        self.message(queue, properties, body, true)
    }

    fn message(
        &mut self,
        queue: ShortString,
        properties: BasicProperties,
        body: &[u8],
        mandatory: bool,
    ) -> Result<(), BrokerError> {
        self.method(AMQPMethod::Publish(Publish {
            exchange: ShortString::default(),
            routing_key: queue,
            mandatory,
            immediate: false,
        }))?;
        let header = AMQPContentHeader {
            class_id: BASIC,
            body_size: body.len() as u64,
            properties,
        };
        self.push(&AMQPFrame::Header(self.channel, header))?;
        for part in body.chunks(BODY) {
            self.push(&AMQPFrame::Body(self.channel, part.into()))?;
        }
        Ok(())
    }

    /// Acknowledges a delivery.
    pub(super) fn acknowledge(&mut self, tag: u64) -> Result<(), BrokerError> {
        self.method(AMQPMethod::Ack(Ack {
            delivery_tag: tag,
            multiple: false,
        }))
    }

    /// Gives a delivery back to its queue.
    pub(super) fn give_back(&mut self, tag: u64) -> Result<(), BrokerError> {
        self.method(AMQPMethod::Nack(Nack {
            delivery_tag: tag,
            multiple: false,
            requeue: true,
        }))
    }

    fn method(&mut self, method: AMQPMethod) -> Result<(), BrokerError> {
        self.push(&AMQPFrame::Method(self.channel, AMQPClass::Basic(method)))
    }

    fn push(&mut self, frame: &AMQPFrame) -> Result<(), BrokerError> {
        let octets = std::mem::take(&mut self.octets);
        let written = gen_frame(frame)(octets.into()).map_err(|error| BrokerError::Protocol {
            message: format!("a frame cannot be encoded: {error}"),
        })?;
        (self.octets, _) = written.into_inner();
        Ok(())
    }

    /// Sends them, and commits the transaction that they are in: everything that the client library was given on this
    /// channel before.
    ///
    /// The library sends methods ahead of messages, so its own commit would overtake the envelope; and if it were called
    /// for only when that is on its way, nobody would be there to hear why the broker has meanwhile closed the channel.
    /// So the commit is the last of the frames, and the library's serves to await the answer: [`Opener`] leaves it out.
    pub(super) async fn commit(mut self, channel: &Channel) -> lapin::Result<()> {
        let [a, b] = self.channel.to_be_bytes();
        self.octets.extend([FRAME_METHOD, a, b, 0, 0, 0, 4]);
        self.octets.extend(COMMIT);
        self.octets.push(FRAME_END);
        let envelope = BasicPublishOptions {
            immediate: true,
            ..Default::default()
        };
        let (nowhere, nothing) = (ShortString::default(), BasicProperties::default());
        let sent = channel.basic_publish(nowhere.clone(), nowhere, envelope, &self.octets, nothing);
        // Whatever becomes of the envelope, the answer tells: nothing else commits.
        join(channel.tx_commit(), sent).await.0
    }
}

/// Takes envelopes off what the client library writes, leaves out its commits, and lets everything else pass as it is.
#[derive(Debug)]
pub(super) struct Opener {
    /// The beginning of a frame, until it is known what to do with it.
    gathered: Vec<u8>,
    /// Octets to gather.
    wanted: usize,
    /// Octets to let pass, and then to leave out.
    pass: usize,
    leave_out: usize,
    open: Option<Envelope>,
}

#[derive(Debug)]
struct Envelope {
    channel: [u8; 2],
    /// Octets of its content that are still to come.
    left: u64,
}

impl Default for Opener {
    fn default() -> Self {
        Self {
            gathered: Vec::new(),
            wanted: HEAD,
            pass: 0,
            leave_out: 0,
            open: None,
        }
    }
}

impl Opener {
    /// Takes the next octets of the client library, and appends to `out` those that go to the broker by now.
    pub(super) fn feed(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while !octets.is_empty() {
            if self.pass > 0 {
                out.extend_from_slice(split(&mut octets, &mut self.pass));
            } else if self.leave_out > 0 {
                split(&mut octets, &mut self.leave_out);
            } else {
                let mut missing = self.wanted - self.gathered.len();
                self.gathered
                    .extend_from_slice(split(&mut octets, &mut missing));
                if missing == 0 {
                    self.decide(out);
                }
            }
        }
    }

    /// Everything wanted is gathered: first the head of a frame, then all of a small one.
    fn decide(&mut self, out: &mut Vec<u8>) {
        let Some(&[kind, a, b, ref size @ ..]) = self.gathered.first_chunk::<HEAD>() else {
            return;
        };
        let channel = [a, b];
        let size = u32::from_be_bytes(*size) as usize;
        let whole = HEAD + size + END;
        let of_envelope = self.open.as_mut().filter(|open| open.channel == channel);
        match (kind, of_envelope) {
            _ if self.wanted == whole => self.take(channel, out),
            (FRAME_METHOD, _) if size <= LONGEST_PUBLISH => return self.wanted = whole,
            (FRAME_HEADER, Some(_)) => return self.wanted = whole,
            (FRAME_BODY, Some(envelope)) => {
                envelope.left = envelope.left.saturating_sub(size as u64);
                self.open.take_if(|envelope| envelope.left == 0);
                (self.pass, self.leave_out) = (size, END);
            }
            // Not a frame: the protocol header, eight octets.
            (b'A', _) => {
                out.extend_from_slice(&self.gathered);
                self.pass = 1;
            }
            _ => {
                out.extend_from_slice(&self.gathered);
                self.pass = size + END;
            }
        }
        self.gathered.clear();
        self.wanted = HEAD;
    }

    /// A method, or the content header of an envelope.
    fn take(&mut self, channel: [u8; 2], out: &mut Vec<u8>) {
        let payload = &self.gathered[HEAD..self.gathered.len() - END];
        if self.gathered[0] == FRAME_HEADER {
            // Class and weight, then the size of the content.
            let size = payload.get(4..12).and_then(|size| size.try_into().ok());
            let left = size.map_or(0, u64::from_be_bytes);
            self.open = (left > 0).then_some(Envelope { channel, left });
        } else if payload.starts_with(&PUBLISH)
            && payload.last().is_some_and(|flags| flags & IMMEDIATE != 0)
        {
            self.open = Some(Envelope { channel, left: 0 });
        } else if payload != COMMIT {
            out.extend_from_slice(&self.gathered);
        }
    }
}

/// Splits off up to `count` octets, and counts them down.
fn split<'a>(octets: &mut &'a [u8], count: &mut usize) -> &'a [u8] {
    let (first, rest) = octets.split_at(octets.len().min(*count));
    *count -= first.len();
    *octets = rest;
    first
}

#[cfg(test)]
mod tests {
    use amq_protocol::protocol::tx::{AMQPMethod as TxMethod, Commit};
    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    fn frames(channel: ChannelId) -> Frames {
        Frames {
            channel,
            octets: Vec::new(),
        }
    }

    /// What the client library makes of a message.
    fn message(channel: ChannelId, immediate: bool, content: &[u8], frame: usize) -> Vec<Vec<u8>> {
        let publish = AMQPMethod::Publish(Publish {
            exchange: ShortString::default(),
            routing_key: "q".into(),
            mandatory: true,
            immediate,
        });
        let header = AMQPContentHeader {
            class_id: BASIC,
            body_size: content.len() as u64,
            properties: wire::persistent(),
        };
        let mut all = vec![
            AMQPFrame::Method(channel, AMQPClass::Basic(publish)),
            AMQPFrame::Header(channel, header),
        ];
        all.extend(
            content
                .chunks(frame)
                .map(|part| AMQPFrame::Body(channel, part.into())),
        );
        all.iter().map(encoded).collect()
    }

    fn encoded(frame: &AMQPFrame) -> Vec<u8> {
        let mut frames = frames(0);
        frames.push(frame).unwrap();
        frames.octets
    }

    /// What comes out of an opener that is fed in pieces.
    fn opened(octets: &[u8], piece: usize) -> Vec<u8> {
        let (mut opener, mut out) = (Opener::default(), Vec::new());
        for piece in octets.chunks(piece) {
            opener.feed(piece, &mut out);
        }
        out
    }

    #[test]
    fn a_message_is_repeated_as_often_as_asked_for() {
        let (mut once, mut often, mut never) = (frames(3), frames(3), frames(3));
        let publish = |frames: &mut Frames, times| {
            let queue = "token_bucket_x".into();
            frames
                .publish(queue, wire::persistent(), b"", times)
                .unwrap();
        };
        publish(&mut once, 1);
        publish(&mut often, 3);
        publish(&mut never, 0);
        assert_eq!(often.octets, once.octets.repeat(3));
        assert_eq!(never.octets, b"");
        let [publish, header]: [Vec<u8>; 2] = message(3, false, b"", 1).try_into().unwrap();
        assert_eq!(
            once.octets.len(),
            publish.len() + header.len() + "token_bucket_x".len() - 1
        );
    }

    #[test]
    fn what_is_in_no_envelope_passes_unchanged() {
        let heartbeat = encoded(&AMQPFrame::Heartbeat);
        let mut all = b"AMQP\0\0\x09\x01".to_vec();
        for part in [message(1, false, b"content", 4), message(2, false, b"", 1)].concat() {
            all.extend(part);
            all.extend(&heartbeat);
        }
        for piece in 1..=all.len() {
            assert_eq!(opened(&all, piece), all, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_commit_passes_in_an_envelope_only() {
        let commit = encoded(&AMQPFrame::Method(
            7,
            AMQPClass::Tx(TxMethod::Commit(Commit {})),
        ));
        let envelope = message(7, true, &commit, 5).concat();
        let after = message(7, false, b"content", 100).concat();
        let all = [&commit[..], &envelope, &commit, &after].concat();
        assert_eq!(opened(&all, 5), [commit, after].concat());
    }

    #[test]
    fn an_empty_envelope_leaves_nothing() {
        let envelope = message(1, true, b"", 1).concat();
        let after = message(1, false, b"content", 100).concat();
        assert_eq!(opened(&[envelope, after.clone()].concat(), 5), after);
    }

    proptest! {
        #[test]
        fn the_content_of_an_envelope_takes_its_place(
            content in prop::collection::vec(any::<u8>(), 1..200), frame in 1_usize..50, piece in 1_usize..50,
        ) {
            let before = message(2, false, b"before", 3).concat();
            let after = message(1, false, b"after", 100).concat();
            // Frames of other channels may come between those of an envelope.
            let other = message(2, false, &content, 7).concat();
            let mut all = before.clone();
            let mut expected = before;
            let mut parts = content.chunks(frame);
            for (number, part) in message(1, true, &content, frame).into_iter().enumerate() {
                all.extend(part);
                all.extend(&other);
                if number > 1 {
                    expected.extend(parts.next().unwrap());
                }
                expected.extend(&other);
            }
            all.extend(&after);
            expected.extend(&after);
            prop_assert_eq!(opened(&all, piece), expected);
        }
    }
}
