//! Whatever lies in a refill queue is a request or is refused in few words. A request is written as it was read, and what is
//! refused can be written into the queue for such.
#![no_main]

use amqp::fuzzing::{message, rejected, request};
use bucket::Origin;
use libfuzzer_sys::fuzz_target;

/// No queue has a longer name.
const LONGEST_NAME: usize = 255;
/// Of what is said about a message.
const LONGEST_REASON: usize = 500;

// The length of a content header, the header, a body.
fuzz_target!(|octets: &[u8]| {
    let Some((length, octets)) = octets.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes(*length)).min(octets.len());
    let (header, body) = octets.split_at(length);
    match request(header, body) {
        None => {}
        Some(Ok(asked)) => {
            assert!((1..=LONGEST_NAME).contains(&asked.bucket.len()));
            let ours = match &asked.origin {
                Origin::Schedule { ticks, .. } => {
                    assert!(*ticks > 0);
                    true
                }
                Origin::Foreign { id } => id.is_some(),
            };
            // Only those are written.
            if ours {
                let (header, body) = message(&asked).expect("it can be written");
                assert_eq!(request(&header, &body), Some(Ok(asked)));
            }
        }
        Some(Err(reason)) => {
            let reason = reason.to_string();
            assert!(reason.chars().count() < LONGEST_REASON && !reason.contains(char::is_control), "{reason}");
            let moved = rejected(header).expect("it can be written");
            assert!(request(&moved, body).is_some());
        }
    }
});
