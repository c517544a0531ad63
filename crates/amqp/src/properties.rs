//! Properties of messages that move to another queue, as the octets that they came as: whatever cannot be read in them, or
//! is more than anybody wants to have in memory decoded, moves all the same.

use super::delivery::REJECTED_REASON;
use super::transport::{BEFORE_PROPERTIES, after_value, long, short};

/// Headers that say something about a message's way through one queue, or that make the broker send copies elsewhere.
const NOT_FORWARDED: [&str; 4] = ["x-delivery-count", "x-acquired-count", "CC", "BCC"];

/// Head and end of a frame.
const AROUND_FRAME: usize = 8;

/// The properties of class `basic` in their order: the flag of the first is the highest bit.
const COUNT: usize = 14;
const HEADERS: usize = 2;
const DELIVERY_MODE: usize = 3;
const PRIORITY: usize = 4;
const EXPIRATION: usize = 7;
const TIMESTAMP: usize = 9;
const USER_ID: usize = 11;

/// The properties without those that the broker would act on: it closes the channel of a publisher whose `user_id` is
/// not its own, and drops what has an expiration. A content header is one frame, of at most `frame_max` octets; RabbitMQ ends
/// the connection over a longer one, and the message would come again. So the reason is cut to what there is room for, and
/// when nothing else helps it is all that remains.
pub(super) fn forwarded(octets: &[u8], reason: Option<&str>, frame_max: usize) -> Vec<u8> {
    let room = frame_max.saturating_sub(BEFORE_PROPERTIES + AROUND_FRAME);
    let fits = |properties: &Vec<u8>| properties.len() <= room;
    let whole = with_reason(octets, reason, room).filter(fits);
    let whole = whole.or_else(|| with_reason(octets, None, room).filter(fits));
    let nothing = [0; 2];
    whole.unwrap_or_else(|| with_reason(&nothing, reason, room).unwrap_or(nothing.into()))
}

/// None: they cannot be taken apart.
fn with_reason(octets: &[u8], reason: Option<&str>, room: usize) -> Option<Vec<u8>> {
    let mut parts = split(octets)?;
    (parts[EXPIRATION], parts[USER_ID]) = (None, None);
    parts[DELIVERY_MODE] = Some(&[2]);
    let mut headers = match parts[HEADERS] {
        Some(table) => kept(table, reason.is_some())?,
        None => Vec::new(),
    };
    if let Some(reason) = reason {
        let name = u8::try_from(REJECTED_REASON.len()).ok()?;
        headers.push(name);
        headers.extend(REJECTED_REASON.as_bytes());
        headers.push(b'S');
        parts[HEADERS] = None;
        // Flags, the length of the table, and that of the reason.
        let others: usize = parts.iter().flatten().map(|part| part.len()).sum();
        let room = room.saturating_sub(2 + others + 4 + headers.len() + 4);
        let reason = &reason[..reason.floor_char_boundary(room)];
        headers.extend(u32::try_from(reason.len()).ok()?.to_be_bytes());
        headers.extend(reason.as_bytes());
    }
    let length = u32::try_from(headers.len()).ok()?.to_be_bytes();
    let headers = [&length[..], &headers].concat();
    parts[HEADERS] = Some(&headers);
    let bit = |(place, part): (usize, &Option<&[u8]>)| u16::from(part.is_some()) << (15 - place);
    let flags: u16 = parts.iter().enumerate().map(bit).sum();
    let parts: Vec<&[u8]> = parts.into_iter().flatten().collect();
    Some([&flags.to_be_bytes()[..], &parts.concat()].concat())
}

/// Each property that is there, encoded.
fn split(octets: &[u8]) -> Option<[Option<&[u8]>; COUNT]> {
    let (flags, mut rest) = octets.split_first_chunk()?;
    let flags = u16::from_be_bytes(*flags);
    let mut parts = [None; COUNT];
    for (place, part) in parts.iter_mut().enumerate() {
        if flags & (1 << (15 - place)) == 0 {
            continue;
        }
        let after = match place {
            HEADERS => long(rest)?.1,
            DELIVERY_MODE | PRIORITY => rest.get(1..)?,
            TIMESTAMP => rest.get(8..)?,
            _ => short(rest)?.1,
        };
        *part = Some(&rest[..rest.len() - after.len()]);
        rest = after;
    }
    // The last two flags are of no property.
    (rest.is_empty() && flags & 0b11 == 0).then_some(parts)
}

/// The fields of a table that go along.
fn kept(table: &[u8], with_reason: bool) -> Option<Vec<u8>> {
    let (mut rest, _) = long(table)?;
    let mut kept = Vec::new();
    while !rest.is_empty() {
        let (name, value) = short(rest)?;
        let after = after_value(value)?;
        let is_left = NOT_FORWARDED.iter().any(|it| it.as_bytes() == name)
            || (with_reason && name == REJECTED_REASON.as_bytes());
        if !is_left {
            kept.extend_from_slice(&rest[..rest.len() - after.len()]);
        }
        rest = after;
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::{AMQPValue, FieldTable};
    use proptest::prelude::*;

    use super::*;
    use crate::transport::{encoded, readable};

    const FRAME: usize = 8_192;

    fn read(octets: &[u8]) -> BasicProperties {
        let header = [&[0, 60, 0, 0][..], &[0; 8], octets].concat();
        readable(&header).expect("they can be read").properties
    }

    fn moved(original: &BasicProperties, reason: Option<&str>) -> BasicProperties {
        let octets = forwarded(&encoded(original), reason, FRAME);
        assert!(octets.len() + BEFORE_PROPERTIES + AROUND_FRAME <= FRAME);
        read(&octets)
    }

    fn with_header(size: usize) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("n".into(), AMQPValue::LongString("x".repeat(size).into()));
        BasicProperties::default().with_headers(headers)
    }

    fn headers(properties: &BasicProperties) -> Vec<(&str, &AMQPValue)> {
        let headers = properties.headers().iter();
        let fields = headers.flat_map(|headers| headers.inner());
        fields.map(|(name, value)| (name.as_str(), value)).collect()
    }

    #[test]
    fn a_reason_is_as_long_as_there_is_room_for_it() {
        for size in [0, 7_000, 7_900] {
            let it = moved(&with_header(size), Some(&"ü".repeat(1_000)));
            let [_, (REJECTED_REASON, AMQPValue::LongString(reason))] = headers(&it)[..] else {
                panic!("{it:?}");
            };
            let least = 2_000.min(FRAME - size - 120);
            assert!(reason.as_bytes().len() >= least, "{size}");
            assert!(str::from_utf8(reason.as_bytes()).is_ok());
        }
    }

    #[test]
    fn headers_that_leave_no_room_for_a_reason_go_without_it_and_larger_ones_give_way_to_it() {
        let most = FRAME - AROUND_FRAME - BEFORE_PROPERTIES - 2 - 4 - 2 - 5 - 1;
        let original = with_header(most);
        let it = moved(&original, Some("why"));
        assert_eq!(headers(&it), headers(&original));
        let it = moved(&with_header(most + 1), Some("why"));
        assert_eq!(headers(&it).len(), 1);
        assert_eq!(headers(&it)[0].0, REJECTED_REASON);
    }

    #[test]
    fn a_forwarded_message_keeps_what_it_says_and_loses_what_the_broker_would_act_on() {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut table = FieldTable::default();
        for name in ["task", "x-delivery-count", "CC", "BCC", REJECTED_REASON] {
            table.insert(name.into(), text("x"));
        }
        let original = BasicProperties::default()
            .with_headers(table)
            .with_content_type("text/plain".into())
            .with_message_id("m".into())
            .with_timestamp(7)
            .with_priority(3)
            .with_user_id("somebody".into())
            .with_expiration("5".into());
        let it = moved(&original, Some("why"));
        let (why, x) = (text("why"), text("x"));
        assert_eq!(headers(&it), [("task", &x), (REJECTED_REASON, &why)]);
        let kept = it.clone().with_headers(FieldTable::default());
        let expected = BasicProperties::default()
            .with_headers(FieldTable::default())
            .with_content_type("text/plain".into())
            .with_message_id("m".into())
            .with_timestamp(7)
            .with_priority(3)
            .with_delivery_mode(2);
        assert_eq!(kept, expected);
        assert_eq!(headers(&moved(&original, None)).len(), 2);
    }

    #[test]
    fn what_cannot_be_taken_apart_gives_way_to_the_reason() {
        for octets in [
            &b""[..],
            b"\0",
            b"\x20\0\xff\xff\xff\xff",
            b"\x20\0\0\0\0\x02\x01n",
            b"\0\x01",
        ] {
            let it = read(&forwarded(octets, Some("why"), FRAME));
            let why = AMQPValue::LongString("why".into());
            assert_eq!(headers(&it), [(REJECTED_REASON, &why)]);
        }
    }

    proptest! {
        #[test]
        fn any_octets_become_properties_that_fit(
            octets in prop::collection::vec(any::<u8>(), 0..200), reason in ".{0,30}", frame_max in 100_usize..400,
        ) {
            let it = forwarded(&octets, Some(&reason), frame_max);
            prop_assert!(it.len() + BEFORE_PROPERTIES + AROUND_FRAME <= frame_max);
            prop_assert!(split(&it).is_some());
        }
    }
}
