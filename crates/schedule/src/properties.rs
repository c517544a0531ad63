//! What must hold for every schedule, zone and instant.

use super::{Schedule, Timetable, parse_zone};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
];

fn number(low: u32, high: u32) -> impl Strategy<Value = String> {
    (low..=high).prop_map(|number| number.to_string())
}

fn part(low: u32, high: u32) -> impl Strategy<Value = String> {
    let range = (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let base = prop_oneof![3 => Just("*".to_owned()), 3 => number(low, high), 2 => range];
    (base, proptest::option::weighted(0.3, 1..=high))
        .prop_map(|(base, step)| step.map_or(base.clone(), |step| format!("{base}/{step}")))
}

fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    proptest::collection::vec(part(low, high), 1..=2).prop_map(|parts| parts.join(","))
}

/// Valid by its form; it may select a date that never comes.
fn expression() -> impl Strategy<Value = String> {
    let cron = (
        proptest::option::of(field(0, 59)),
        field(0, 59),
        field(0, 23),
        field(1, 31),
        field(1, 12),
        any::<bool>(),
        field(0, 6),
    )
        .prop_map(|(second, minute, hour, day, month, both, weekday)| {
            let second = second.map_or(String::new(), |second| second + " ");
            let plus = if both { "+" } else { "" };
            format!("{second}{minute} {hour} {day} {month} {plus}{weekday}")
        });
    let every = (1..200_000_u32).prop_map(|seconds| format!("@every {seconds}s"));
    prop_oneof![9 => cron, 1 => every]
}

fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    let seconds = prop_oneof![
        8 => 1_200_000_000..1_900_000_000_i64,
        1 => -10_000_000..4_120_000_000_i64,
        1 => DateTime::<Utc>::MIN_UTC.timestamp()..=DateTime::<Utc>::MAX_UTC.timestamp(),
    ];
    (seconds, 0..1_000_000_000_u32).prop_map(|(seconds, nanoseconds)| {
        DateTime::from_timestamp(seconds, nanoseconds).unwrap_or_default()
    })
}

fn timetable() -> impl Strategy<Value = Timetable> {
    (
        expression(),
        proptest::sample::select(&ZONES[..]),
        instant(),
    )
        .prop_filter_map("a date that never comes", |(expression, zone, anchor)| {
            let schedule = expression.parse::<Schedule>().ok()?;
            Some(Timetable::new(schedule, parse_zone(zone).unwrap(), anchor))
        })
}

/// Texts that come close to a schedule more often than random characters do.
fn nearly() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-0-9*?,/+@ A-Za-z#=.]{0,200}",
        "([-0-9*?,/]{1,6} ){4}[-0-9*?,/+A-Z]{1,9}",
        "@every [-+0-9.hmsuµn]{0,100}",
        "@[a-z]{0,10}",
        "\\PC{0,200}",
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in nearly()) {
        if let Ok(schedule) = text.parse::<Schedule>() {
            let timetable = Timetable::new(schedule, parse_zone("Europe/Berlin").unwrap(), DateTime::UNIX_EPOCH);
            let after = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
            prop_assert!(timetable.next(after).is_none_or(|tick| tick > after));
        }
    }

    #[test]
    fn any_text_is_a_time_zone_or_refused(text in "\\PC{0,60}") {
        if let Ok(zone) = parse_zone(&text) {
            prop_assert_eq!(zone.iana_name(), Some(&*text));
        }
    }

    #[test]
    fn ticks_are_whole_seconds_and_ascend(timetable in timetable(), after in instant()) {
        let mut last = after;
        for _ in 0..20 {
            let Some(tick) = timetable.next(last) else { break };
            prop_assert!(tick > last);
            prop_assert_eq!(tick.timestamp_subsec_nanos(), 0);
            last = tick;
        }
    }

    #[test]
    fn next_latest_and_missed_agree(timetable in timetable(), since in instant(), steps in 1..20_u64) {
        let mut before = since;
        for step in 1..=steps {
            let Some(tick) = timetable.next(before) else {
                prop_assert_eq!(timetable.missed(since, DateTime::<Utc>::MAX_UTC, u64::MAX), step - 1);
                break;
            };
            let just_before = tick - TimeDelta::nanoseconds(1);
            prop_assert_eq!(timetable.latest(since, tick), Some(tick));
            prop_assert_eq!(timetable.latest(since, just_before), Some(before).filter(|_| step > 1));
            prop_assert_eq!(timetable.latest(before, just_before), None);
            prop_assert_eq!(timetable.missed(since, tick, u64::MAX), step);
            prop_assert_eq!(timetable.missed(since, just_before, u64::MAX), step - 1);
            prop_assert_eq!(timetable.missed(since, tick, 7), step.min(7));
            before = tick;
        }
    }

    #[test]
    fn missed_ticks_of_two_periods_add_up(
        timetable in timetable(), since in instant(), first in 0..100_000_000_i64, second in 0..100_000_000_i64,
    ) {
        let add = |instant: DateTime<Utc>, seconds| {
            instant.checked_add_signed(TimeDelta::seconds(seconds)).unwrap_or(DateTime::<Utc>::MAX_UTC)
        };
        let middle = add(since, first);
        let now = add(middle, second);
        let count = |since, now| timetable.missed(since, now, u64::MAX);
        prop_assert_eq!(count(since, middle) + count(middle, now), count(since, now));
        prop_assert_eq!(timetable.latest(since, now).is_some(), count(since, now) > 0);
    }
}
