//! Any text is read or refused, and what was read has ticks that ascend and can be counted.
#![no_main]

use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use schedule::{Schedule, Timetable, parse_zone};

/// The day before clocks are put forward in Europe, 2026-03-28 00:00 UTC.
const SINCE: i64 = 1_774_656_000;

fuzz_target!(|text: &str| {
    let _ = parse_zone(text);
    let Ok(schedule) = text.parse::<Schedule>() else {
        return;
    };
    let since = DateTime::from_timestamp(SINCE, 0).expect("a date of this century");
    let zone = parse_zone("Europe/Berlin").expect("an IANA name");
    let timetable = Timetable::new(schedule, zone, since);
    let mut last = since;
    for number in 1..=100 {
        let Some(tick) = timetable.next(last) else {
            break;
        };
        assert!(tick > last);
        assert_eq!(timetable.latest(since, tick), Some(tick));
        assert_eq!(timetable.missed(since, tick, u64::MAX), number);
        last = tick;
    }
});
