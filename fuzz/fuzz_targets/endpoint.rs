//! Wherever the password of a URI has characters that should have been escaped: three of it in a row are never shown.
#![no_main]

use endpoint::Endpoint;
use libfuzzer_sys::fuzz_target;

/// What a password is made of. Letters and digits are in no other part of the URI, so that what is shown of them is the
/// password's.
const ALPHABET: [char; 16] = ['α', 'β', 'γ', '0', '1', '3', '4', '8', '@', ':', '/', '?', '#', '%', '[', ']'];
const BEFORE: [&str; 4] = ["amqp://", "amqp://user:", "amqps://user:", "amqp://:"];
const AFTER: [&str; 16] = ["@host", "@host/", "@host/vhost", "@[::]/", "@host?heartbeat=", "/@host/vhost", "?@host", "@",
    "%40host", "@host;amqp://u:p@other", "@host:5672,other:5672", "@host,", ";@host", ",@host", "@@host", "%40host/@"];

fuzz_target!(|octets: &[u8]| {
    // Any text is parsed or refused.
    if let Ok(text) = std::str::from_utf8(octets) {
        let _ = Endpoint::parse(text);
    }
    let Some(([form, octets @ ..], _)) = octets.split_first_chunk::<24>() else {
        return;
    };
    let (before, after) = (usize::from(form % 4), usize::from(form / 4 % 16));
    // Without a colon it is the name of a user.
    if before == 0 {
        return;
    }
    let password: Vec<char> = octets.iter().map(|octet| ALPHABET[usize::from(octet % 16)]).collect();
    let written: String = password.iter().collect();
    let shown = match Endpoint::parse(&format!("{}{written}{}", BEFORE[before], AFTER[after])) {
        Ok(endpoint) => format!("{endpoint} {endpoint:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    for three in password.windows(3) {
        let tells = three.iter().all(|character| character.is_alphanumeric());
        assert!(!tells || !shown.contains(&three.iter().collect::<String>()), "{shown}");
    }
});
