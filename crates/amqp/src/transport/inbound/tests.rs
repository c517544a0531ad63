use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::AMQPClass;
use amq_protocol::protocol::basic::{AMQPMethod, Deliver, GetOk};
use amq_protocol::protocol::connection::{AMQPMethod as ConnectionMethod, Start, Tune};
use amq_protocol::protocol::queue::{AMQPMethod as QueueMethod, Declare};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use proptest::prelude::*;

use super::super::content::{
    BEFORE_PROPERTIES, CONTENT_ENCODING, CONTENT_TYPE, Content, HEADERS, unwrapped,
};
use super::*;
use crate::version::Version;

fn encoded(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(Vec::new().into()).unwrap().into_inner().0
}

fn start() -> AMQPFrame {
    let start = Start {
        version_major: 0,
        version_minor: 9,
        server_properties: FieldTable::default(),
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    };
    AMQPFrame::Method(0, AMQPClass::Connection(ConnectionMethod::Start(start)))
}

fn deliver(routing_key: &str) -> Vec<u8> {
    encoded(&AMQPFrame::Method(
        1,
        AMQPClass::Basic(AMQPMethod::Deliver(Deliver {
            consumer_tag: "tag".into(),
            delivery_tag: 7,
            redelivered: true,
            exchange: ShortString::default(),
            routing_key: routing_key.into(),
        })),
    ))
}

/// A frame with any payload.
fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    frame(kind, channel.to_be_bytes(), payload)
}

/// A content header, and a body in two frames.
fn message(channel: u16, properties: BasicProperties, body: &[u8]) -> Vec<u8> {
    let header = AMQPContentHeader {
        class_id: 60,
        body_size: body.len() as u64,
        properties,
    };
    let mut all = encoded(&AMQPFrame::Header(channel, header));
    for part in body.chunks(body.len() / 2 + 1) {
        all.extend(raw(FRAME_BODY, channel, part));
    }
    all
}

fn fed(octets: &[u8], piece: usize) -> Result<Vec<u8>, Untrusted> {
    let (mut inbound, mut out) = (Inbound::new(Told::default()), Vec::new());
    for piece in octets.chunks(piece) {
        inbound.feed(piece, &mut out)?;
    }
    Ok(out)
}

/// What the client library makes of it.
fn parsed(mut octets: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !octets.is_empty() {
        let (rest, frame) = parse_frame(octets).expect("the client library can read it");
        frames.push(frame);
        octets = rest;
    }
    frames
}

/// The message that these frames begin with, and how many they are.
fn content(frames: &[AMQPFrame]) -> Option<(Content, usize)> {
    let AMQPFrame::Header(_, header) = &frames[0] else {
        return None;
    };
    let (mut data, mut count) = (Vec::new(), 1);
    while (data.len() as u64) < header.body_size {
        let AMQPFrame::Body(_, part) = &frames[count] else {
            return None;
        };
        data.extend(part);
        count += 1;
    }
    let content = unwrapped(header.properties.clone(), data);
    Some((content, count))
}

/// A message with a content header that begins with the size of `body`.
fn with_octets(properties: &[u8], body: &[u8]) -> Vec<u8> {
    let size = (body.len() as u64).to_be_bytes();
    let header = [&[0, 60, 0, 0][..], &size, properties].concat();
    [raw(FRAME_HEADER, 1, &header), raw(FRAME_BODY, 1, body)].concat()
}

#[test]
fn what_is_in_order_passes_unchanged() {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_headers(FieldTable::default());
    let all = [
        encoded(&start()),
        deliver("queue"),
        message(1, properties, b"content"),
        encoded(&AMQPFrame::Heartbeat),
        message(
            2,
            BasicProperties::default(),
            &[0; 2 * (LIBRARY_FRAME - HEAD - END) - 1],
        ),
    ]
    .concat();
    for piece in [1, 2, 7, 1_000, all.len()] {
        assert_eq!(fed(&all, piece), Ok(all.clone()), "in pieces of {piece}");
    }
    // From a server that speaks another version.
    assert_eq!(
        fed(b"AMQP\0\0\x09\x01", 3),
        Ok(b"AMQP\0\0\x09\x01".to_vec())
    );
}

#[test]
fn a_body_that_is_too_long_is_left_out_and_its_properties_stay() {
    let long = vec![b'x'; MOST_BODY as usize + 1];
    let properties = BasicProperties::default().with_message_id("id".into());
    let after = message(1, BasicProperties::default(), b"after");
    let other = message(2, BasicProperties::default(), b"other");
    let all = [message(1, properties, &long), other.clone(), after.clone()].concat();
    let out = fed(&all, 1_000).unwrap();
    assert!(out.ends_with(&[other, after].concat()));
    let (content, count) = content(&parsed(&out)).unwrap();
    let reason = content.properties.unwrap_err();
    assert!(reason.contains("65537 octets"), "{reason}");
    assert_eq!(
        (&*content.octets, &*content.body),
        (&b"\0\x80\x02id"[..], &b""[..])
    );
    assert_eq!(parsed(&out).len(), count + 3 + 3);
}

#[test]
fn large_properties_and_large_frames_pass_in_frames_that_the_library_takes() {
    let mut headers = FieldTable::default();
    headers.insert(
        "n".into(),
        AMQPValue::LongString("x".repeat(120_000).into()),
    );
    let properties = BasicProperties::default().with_headers(headers);
    let body: Vec<u8> = (0..60_000_u32).map(|number| number as u8).collect();
    let small = BasicProperties::default();
    let all = [
        message(1, properties.clone(), &body),
        message(1, small.clone(), &body),
    ]
    .concat();
    for piece in [1_000, all.len()] {
        let out = fed(&all, piece).unwrap();
        let frames = parsed(&out);
        assert!(
            frames
                .iter()
                .all(|frame| encoded(frame).len() <= LIBRARY_FRAME)
        );
        let (content, count) = content(&frames).unwrap();
        assert_eq!(content.properties, Ok(properties.clone()));
        assert_eq!(content.body, body);
        let AMQPFrame::Header(1, header) = &frames[count] else {
            panic!("{:?}", frames[count])
        };
        assert_eq!((&header.properties, header.body_size), (&small, 60_000));
    }
}

#[test]
fn nobody_else_can_say_that_a_message_is_wrapped() {
    let wrapped = message(1, BasicProperties::default(), &[0; MOST_BODY as usize + 1]);
    let forged = fed(&wrapped, 1_000).unwrap();
    let frames = parsed(&fed(&forged, 1_000).unwrap());
    let (content, _) = content(&frames).unwrap();
    let AMQPFrame::Header(1, header) = &parsed(&forged)[0] else {
        panic!()
    };
    assert_eq!(content.properties.as_ref(), Ok(&header.properties));
}

#[test]
fn properties_that_cannot_be_trusted_are_kept_from_the_library_and_stay_with_the_body() {
    let nested = |depth: usize| {
        let mut lists = Vec::new();
        for _ in 0..depth {
            lists = [
                b"A",
                &u32::try_from(lists.len()).unwrap().to_be_bytes()[..],
                &lists,
            ]
            .concat();
        }
        let field = [b"\x01n", &lists[..]].concat();
        [
            &u32::try_from(field.len()).unwrap().to_be_bytes()[..],
            &field,
        ]
        .concat()
    };
    let properties = |flags: u16, rest: &[u8]| [&flags.to_be_bytes()[..], rest].concat();
    let text = b"\x04text";
    for (what, octets) in [
        ("deep", properties(HEADERS, &nested(1_000))),
        ("deep and large", properties(HEADERS, &nested(20_000))),
        (
            "behind others",
            properties(
                CONTENT_TYPE | CONTENT_ENCODING | HEADERS,
                &[&text[..], text, &nested(1_000)].concat(),
            ),
        ),
        ("not UTF-8", properties(CONTENT_TYPE, b"\x01\xff")),
        ("cut off", properties(CONTENT_TYPE | HEADERS, b"\x04te")),
        ("no table", properties(HEADERS, b"\xff\xff\xff\xff")),
        ("a megabyte", properties(HEADERS, &vec![0; 1_000_000])),
        ("a megabyte of nothing", properties(0, &vec![0; 1_000_000])),
        ("more than there is", properties(CONTENT_TYPE, b"\x01xrest")),
    ] {
        let all = with_octets(&octets, b"xyz");
        for piece in [1, 1_000, all.len()] {
            let frames = parsed(&fed(&all, piece).unwrap());
            let (content, count) = content(&frames).unwrap();
            assert!(content.properties.is_err(), "{what}");
            assert_eq!(
                (&*content.body, count),
                (&b"xyz"[..], frames.len()),
                "{what}"
            );
            let whole = BEFORE_PROPERTIES + octets.len() < MOST_FRAME - HEAD;
            let left = if whole { &octets[..] } else { b"" };
            assert_eq!(content.octets, left, "{what}");
        }
    }
}

#[test]
fn names_that_are_not_text_are_left_out() {
    let mut delivered = deliver("queue");
    let at = delivered.len() - 2;
    delivered[at] = 0xff;
    let frames = parsed(&fed(&delivered, 3).unwrap());
    assert_eq!(frames, parsed(&deliver("")));
    let got = |routing_key: &str| {
        encoded(&AMQPFrame::Method(
            1,
            AMQPClass::Basic(AMQPMethod::GetOk(GetOk {
                delivery_tag: 7,
                redelivered: false,
                exchange: "exchange".into(),
                routing_key: routing_key.into(),
                message_count: 9,
            })),
        ))
    };
    let mut torn = got("queue");
    let at = torn.len() - 6;
    torn[at] = 0xff;
    let AMQPFrame::Method(1, AMQPClass::Basic(AMQPMethod::GetOk(it))) =
        parsed(&fed(&torn, 3).unwrap()).remove(0)
    else {
        panic!()
    };
    assert_eq!(
        (it.delivery_tag, it.message_count, it.routing_key.as_str()),
        (7, 9, "")
    );
}

#[test]
fn what_no_broker_sends_ends_the_connection() {
    let nested: Vec<u8> = {
        let mut lists = Vec::new();
        for _ in 0..10_000 {
            lists = [
                b"A",
                &u32::try_from(lists.len()).unwrap().to_be_bytes()[..],
                &lists,
            ]
            .concat();
        }
        lists
    };
    let table = [
        &u32::try_from(nested.len() + 2).unwrap().to_be_bytes()[..],
        b"\x01n",
        &nested,
    ]
    .concat();
    let greeting = raw(FRAME_METHOD, 0, &[&START[..], &[0, 9], &table].concat());
    assert_eq!(fed(&greeting, 100), Err(Untrusted::Properties));
    let twice = [encoded(&start()), encoded(&start())].concat();
    assert_eq!(fed(&twice, 100), Err(Untrusted::SecondStart));
    let declare = Declare {
        queue: "q".into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    let declare = AMQPFrame::Method(1, AMQPClass::Queue(QueueMethod::Declare(declare)));
    let refused = fed(&encoded(&declare), 100);
    assert_eq!(refused, Err(Untrusted::Method(vec![0, 50, 0, 10])));
    assert_eq!(fed(b"HTTP/1.1 400 Bad Request", 100), Err(Untrusted::Http));
    let head = |kind: u8| [kind, 0, 0, 0xff, 0xff, 0xff, 0xff];
    for kind in [FRAME_METHOD, FRAME_BODY, FRAME_HEARTBEAT] {
        let refused = fed(&head(kind), 1);
        assert!(matches!(refused, Err(Untrusted::Frame(_))), "{refused:?}");
    }
    let endless = [&[0, 60, 0, 0][..], &u64::MAX.to_be_bytes(), &[0, 0]].concat();
    assert_eq!(
        fed(&raw(FRAME_HEADER, 1, &endless), 9),
        Err(Untrusted::Body(u64::MAX))
    );
}

#[test]
fn what_the_broker_says_of_itself_is_told_once_the_greeting_has_come() {
    let mut properties = FieldTable::default();
    for (name, value) in [("product", "RabbitMQ"), ("version", "4.0.5")] {
        properties.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let AMQPFrame::Method(0, AMQPClass::Connection(ConnectionMethod::Start(start))) = start()
    else {
        unreachable!()
    };
    let start = Start {
        server_properties: properties,
        ..start
    };
    let start = AMQPFrame::Method(0, AMQPClass::Connection(ConnectionMethod::Start(start)));
    let (told, mut out) = (Told::default(), Vec::new());
    let mut inbound = Inbound::new(told.clone());
    for octet in encoded(&start) {
        assert_eq!(told.greeting.get(), None);
        inbound.feed(&[octet], &mut out).unwrap();
    }
    let version = Some(Version::new("RabbitMQ", "4.0.5"));
    assert_eq!(told.greeting.get().map(|it| &it.version), Some(&version));
}

#[test]
fn few_channels_are_many_for_the_library_which_numbers_them() {
    let tune = |channel_max| {
        let tune = Tune {
            channel_max,
            frame_max: 8_192,
            heartbeat: 60,
        };
        encoded(&AMQPFrame::Method(
            0,
            AMQPClass::Connection(ConnectionMethod::Tune(tune)),
        ))
    };
    for (asked, seen, agreed) in [
        (0, 0, None),
        (1, 2_047, Some(&1)),
        (5, 2_047, Some(&5)),
        (2_047, 2_047, None),
        (65_535, 65_535, None),
    ] {
        let (told, mut out) = (Told::default(), Vec::new());
        let octets = [encoded(&start()), tune(asked)].concat();
        let mut inbound = Inbound::new(told.clone());
        inbound.feed(&octets, &mut out).unwrap();
        assert_eq!(out, [encoded(&start()), tune(seen)].concat());
        assert_eq!(told.channel_max.get(), agreed);
    }
}

/// Octets that are likely to be frames.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        (
            prop::sample::select(vec![START, DELIVER, GET_OK, [0, 60, 0, 0]]),
            prop::collection::vec(any::<u8>(), 0..60)
        )
            .prop_map(|(start, rest)| [&start[..], &rest].concat()),
    ];
    let frame = (1_u8..9, 0_u16..3, payload)
        .prop_map(|(kind, channel, payload)| raw(kind, channel, &payload));
    prop::collection::vec(frame, 0..6).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn pieces_make_no_difference_and_content_headers_can_be_read(octets in likely(), piece in 1_usize..50) {
        let whole = fed(&octets, octets.len().max(1));
        prop_assert_eq!(&fed(&octets, piece), &whole);
        let mut rest = &whole.unwrap_or_default()[..];
        while let Some((head, more)) = rest.split_first_chunk::<HEAD>() {
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            if head[0] == FRAME_HEADER {
                prop_assert!(parse_frame(rest).is_ok());
            }
            rest = more.get(size + END..).unwrap_or_default();
        }
    }
}

#[test]
fn what_nobody_has_asked_for_ends_a_connection_when_it_goes_on_and_on() {
    let returned = [
        raw(
            FRAME_METHOD,
            1,
            &[&RETURN[..], &[1, 0x38, 0, 0, 0]].concat(),
        ),
        message(1, BasicProperties::default(), &[0; 60_000]),
    ]
    .concat();
    let blocked = raw(FRAME_METHOD, 0, &[&NOTICES[0][..], b"\x06memory"].concat());
    for (octets, enough, too_many) in [(returned, 200, 300), (blocked, 1_000, 1_100)] {
        assert!(fed(&octets.repeat(enough), 4_096).is_ok());
        assert_eq!(
            fed(&octets.repeat(too_many), 4_096),
            Err(Untrusted::Unasked)
        );
    }
}
