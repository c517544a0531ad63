//! Whatever a server sends, what is left of it for the client library can be parsed without a deep recursion, and is the
//! same in pieces of any size.
#![no_main]

use amq_protocol::frame::parse_frame;
use amqp::fuzzing::passed;
use libfuzzer_sys::fuzz_target;

/// Octets around the payload of a frame.
const AROUND: usize = 8;

fuzz_target!(|octets: &[u8]| {
    let Some((piece, octets)) = octets.split_first() else {
        return;
    };
    let whole = passed(octets, octets.len());
    assert_eq!(passed(octets, usize::from(*piece)), whole);
    let Some(whole) = whole else {
        return;
    };
    let mut rest = &whole[..];
    while let Some([kind, _, _, size @ ..]) = rest.first_chunk::<7>() {
        // It may refuse a method, and any frame without its end mark; a content header is always one that it can read.
        let parsed = parse_frame(rest);
        let whole = usize::try_from(u32::from_be_bytes(*size)).map_or(usize::MAX, |size| size.saturating_add(AROUND));
        let is_ended = rest.get(whole - 1) == Some(&0xCE);
        assert!(parsed.is_ok() || *kind != 2 || !is_ended);
        rest = rest.get(whole..).unwrap_or_default();
    }
});
