//! Whatever lies in the queue of a ledger is read or refused, and what was read is written as it was.
#![no_main]

use bucket::Ledger;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Ok(ledger) = Ledger::from_json(octets) {
        assert_eq!(Ledger::from_json(&ledger.to_json()), Ok(ledger));
    }
});
