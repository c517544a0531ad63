use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};
use amq_protocol::protocol::AMQPClass;
use amq_protocol::protocol::basic::{AMQPMethod, Publish};
use amq_protocol::protocol::tx::{AMQPMethod as TxMethod, Commit};
use lapin::types::{ChannelId, ShortString};
use proptest::prelude::*;

use super::*;
use crate::wire;

/// What the client library makes of a message.
fn message(channel: ChannelId, batch: bool, content: &[u8], frame: usize) -> Vec<Vec<u8>> {
    let publish = AMQPMethod::Publish(Publish {
        exchange: ShortString::default(),
        routing_key: "q".into(),
        mandatory: true,
        immediate: batch,
    });
    let header = AMQPContentHeader {
        class_id: 60,
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
    gen_frame(frame)(Vec::new().into()).unwrap().into_inner().0
}

/// What comes out of a decoder that is fed in pieces.
fn decoded(octets: &[u8], piece: usize) -> Vec<u8> {
    let (mut decoder, mut out) = (BatchDecoder::default(), Vec::new());
    for piece in octets.chunks(piece) {
        decoder.feed(piece, &mut out);
    }
    out
}

#[test]
fn what_is_in_no_batch_passes_unchanged() {
    let heartbeat = encoded(&AMQPFrame::Heartbeat);
    let mut all = b"AMQP\0\0\x09\x01".to_vec();
    for part in [message(1, false, b"content", 4), message(2, false, b"", 1)].concat() {
        all.extend(part);
        all.extend(&heartbeat);
    }
    for piece in 1..=all.len() {
        assert_eq!(decoded(&all, piece), all, "in pieces of {piece}");
    }
}

#[test]
fn a_commit_passes_in_a_batch_only() {
    let commit = encoded(&AMQPFrame::Method(
        7,
        AMQPClass::Tx(TxMethod::Commit(Commit {})),
    ));
    let batch = message(7, true, &commit, 5).concat();
    let after = message(7, false, b"content", 100).concat();
    let all = [&commit[..], &batch, &commit, &after].concat();
    assert_eq!(decoded(&all, 5), [commit, after].concat());
}

#[test]
fn an_empty_batch_leaves_nothing() {
    let batch = message(1, true, b"", 1).concat();
    let after = message(1, false, b"content", 100).concat();
    assert_eq!(decoded(&[batch, after.clone()].concat(), 5), after);
}

proptest! {
    #[test]
    fn the_frames_of_a_batch_take_its_place(
        content in prop::collection::vec(any::<u8>(), 1..200), frame in 1_usize..50, piece in 1_usize..50,
    ) {
        let before = message(2, false, b"before", 3).concat();
        let after = message(1, false, b"after", 100).concat();
        // Frames of other channels may come between those of a batch.
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
        prop_assert_eq!(decoded(&all, piece), expected);
    }
}

#[test]
fn larger_frames_and_fewer_channels_are_agreed_upon_than_the_library_asks_for() {
    use amq_protocol::protocol::connection::{AMQPMethod as ConnectionMethod, TuneOk};

    let tuned = |channel_max, frame_max| {
        let tune = TuneOk {
            channel_max,
            frame_max,
            heartbeat: 10,
        };
        encoded(&AMQPFrame::Method(
            0,
            AMQPClass::Connection(ConnectionMethod::TuneOk(tune)),
        ))
    };
    for piece in [1, 5, 100] {
        let asked = tuned(2_047, 8_192);
        assert_eq!(decoded(&asked, piece), asked);
        let told = Told::default();
        told.frame_max.set(131_072).expect("the first time");
        told.channel_max.set(5).expect("the first time");
        let (mut decoder, mut out) = (BatchDecoder::new(told), Vec::new());
        for piece in asked.chunks(piece) {
            decoder.feed(piece, &mut out);
        }
        assert_eq!(out, tuned(5, 131_072));
    }
}
