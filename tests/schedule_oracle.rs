//! Schedules compared with a brute-force oracle that shares nothing with them.
//!
//! The oracle matches local times with hand-written conditions. Elapsed time: it looks at the local clock at every
//! instant. Fixed times: it places every local time, and goes on to the next one that exists if it was skipped.

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, TimeZone as _, Timelike, Utc, Weekday};
use jiff::Timestamp;
use jiff::civil;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use std::collections::BTreeSet;
use token_bucket_operator::schedule::{Timetable, parse_zone};

/// A local time, taken apart once for all conditions.
#[derive(Clone, Copy)]
struct Local {
    second: u32,
    minute: u32,
    hour: u32,
    day: u32,
    month: u32,
    weekday: Weekday,
}

impl From<NaiveDateTime> for Local {
    fn from(local: NaiveDateTime) -> Self {
        Self {
            second: local.second(),
            minute: local.minute(),
            hour: local.hour(),
            day: local.day(),
            month: local.month(),
            weekday: local.weekday(),
        }
    }
}

enum Rule {
    Elapsed,
    Fixed,
}
use Rule::{Elapsed, Fixed};
use Weekday::{Fri, Mon, Sat, Sun, Tue};

type Row = (&'static str, Rule, fn(Local) -> bool);

/// Due at whole minutes.
#[rustfmt::skip]
const MINUTES: &[Row] = &[
    ("* * * * *", Elapsed, |_| true),
    ("*/7 * * * *", Elapsed, |t| t.minute % 7 == 0),
    ("@hourly", Elapsed, |t| t.minute == 0),
    ("30 * * * *", Elapsed, |t| t.minute == 30),
    ("15,45 */2 * * *", Elapsed, |t| t.minute % 30 == 15 && t.hour % 2 == 0),
    ("*/20 2 * * *", Elapsed, |t| t.minute % 20 == 0 && t.hour == 2),
    ("? 0-3 * * MON-FRI", Elapsed, |t| t.hour <= 3 && !matches!(t.weekday, Sat | Sun)),
    ("*,5 1 1 * *", Elapsed, |t| t.hour == 1 && t.day == 1),
    ("*/30 * 25-31 3,10 +SUN", Elapsed, |t| t.minute % 30 == 0 && t.day >= 25 && matches!(t.month, 3 | 10) && t.weekday == Sun),
    ("0 0-23 * * *", Fixed, |t| t.minute == 0),
    ("0/30 0-23/1 * * *", Fixed, |t| t.minute % 30 == 0),
    ("@daily", Fixed, |t| (t.minute, t.hour) == (0, 0)),
    ("@midnight", Fixed, |t| (t.minute, t.hour) == (0, 0)),
    ("@weekly", Fixed, |t| (t.minute, t.hour) == (0, 0) && t.weekday == Sun),
    ("@monthly", Fixed, |t| (t.minute, t.hour, t.day) == (0, 0, 1)),
    ("@yearly", Fixed, |t| (t.minute, t.hour, t.day, t.month) == (0, 0, 1, 1)),
    ("30 0 * * *", Fixed, |t| (t.minute, t.hour) == (30, 0)),
    ("30 2 * * *", Fixed, |t| (t.minute, t.hour) == (30, 2)),
    ("0-59/15 1-3 * * *", Fixed, |t| t.minute % 15 == 0 && (1..=3).contains(&t.hour)),
    ("59 23 * * *", Fixed, |t| (t.minute, t.hour) == (59, 23)),
    ("0 2,3 * * *", Fixed, |t| t.minute == 0 && matches!(t.hour, 2 | 3)),
    ("5,*/20 1,2 * * *", Fixed, |t| (t.minute == 5 || t.minute % 20 == 0) && matches!(t.hour, 1 | 2)),
    ("0 12 30 12 *", Fixed, |t| (t.minute, t.hour, t.day, t.month) == (0, 12, 30, 12)),
    ("0 2 29 2 *", Fixed, |t| (t.minute, t.hour, t.day, t.month) == (0, 2, 29, 2)),
    ("0 2 31 * *", Fixed, |t| (t.minute, t.hour, t.day) == (0, 2, 31)),
    ("0 2 1 * SUN", Fixed, |t| (t.minute, t.hour) == (0, 2) && (t.day == 1 || t.weekday == Sun)),
    ("0 0 */2 * TUE", Fixed, |t| (t.minute, t.hour) == (0, 0) && (t.day % 2 == 1 || t.weekday == Tue)),
    ("0 0 */1 * TUE", Fixed, |t| (t.minute, t.hour) == (0, 0) && t.weekday == Tue),
    ("0 0 13 * 5", Fixed, |t| (t.minute, t.hour) == (0, 0) && (t.day == 13 || t.weekday == Fri)),
    ("0 0 13 * +5", Fixed, |t| (t.minute, t.hour) == (0, 0) && t.day == 13 && t.weekday == Fri),
    ("0 9 1-7 * +MON", Fixed, |t| (t.minute, t.hour) == (0, 9) && t.day <= 7 && t.weekday == Mon),
    ("30 1 8-14,25-31 mar,apr,oct,nov 0", Fixed, |t| (t.minute, t.hour) == (30, 1) && matches!(t.month, 3 | 4 | 10 | 11)
        && (matches!(t.day, 8..=14 | 25..=31) || t.weekday == Sun)),
];

/// Due at seconds.
#[rustfmt::skip]
const SECONDS: &[Row] = &[
    ("* * * * * *", Elapsed, |_| true),
    ("*/17 * * * * *", Elapsed, |t| t.second % 17 == 0),
    ("30 59 * * * *", Elapsed, |t| (t.second, t.minute) == (30, 59)),
    ("1,58 */30 2 * * *", Elapsed, |t| matches!(t.second, 1 | 58) && t.minute % 30 == 0 && t.hour == 2),
    ("* 30 2 * * *", Fixed, |t| (t.minute, t.hour) == (30, 2)),
    ("*/20 0,59 0-23 * * *", Fixed, |t| t.second % 20 == 0 && matches!(t.minute, 0 | 59)),
    ("59 59 0-3 * * SAT,SUN", Fixed, |t| (t.second, t.minute) == (59, 59) && t.hour <= 3 && matches!(t.weekday, Sat | Sun)),
];

/// Local time minus UTC.
fn shift(offset: Offset) -> TimeDelta {
    TimeDelta::seconds(offset.seconds().into())
}

fn local_time(zone: &TimeZone, instant: DateTime<Utc>) -> NaiveDateTime {
    let timestamp = Timestamp::from_second(instant.timestamp()).expect("a time");
    instant.naive_utc() + shift(zone.to_offset(timestamp))
}

/// The first instant at which the clock shows a local time; None when it skips that.
fn instant_of(zone: &TimeZone, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    let small = |number: u32| i8::try_from(number).expect("a small number");
    let civil = civil::datetime(
        i16::try_from(local.year()).expect("a year"),
        small(local.month()),
        small(local.day()),
        small(local.hour()),
        small(local.minute()),
        small(local.second()),
        0,
    );
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => Some((local - shift(offset)).and_utc()),
        AmbiguousOffset::Fold { before, after } => {
            Some((local - shift(before).max(shift(after))).and_utc())
        }
        AmbiguousOffset::Gap { .. } => None,
    }
}

/// The time from `from` on and before `to`, prepared for the oracle.
struct Window {
    zone: TimeZone,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// Every instant with what the local clock shows.
    shown: Vec<(DateTime<Utc>, Local)>,
    /// Every local time with the instant at which a fixed schedule is due.
    placed: Vec<(DateTime<Utc>, Local)>,
}

impl Window {
    fn new(zone: &TimeZone, from: DateTime<Utc>, to: DateTime<Utc>, step: TimeDelta) -> Self {
        let mut shown = Vec::new();
        let mut instant = from;
        while instant < to {
            shown.push((instant, local_time(zone, instant).into()));
            instant += step;
        }
        // Local times that can be due in the window: no zone is further from UTC, and no gap longer, than a day.
        let mut local = from.naive_utc() - TimeDelta::days(2);
        let mut locals = Vec::new();
        while local < to.naive_utc() + TimeDelta::days(1) {
            locals.push(local);
            local += step;
        }
        let mut placed = Vec::new();
        let mut behind_gap = None;
        for local in locals.into_iter().rev() {
            let due = instant_of(zone, local).or(behind_gap);
            behind_gap = due;
            placed.extend(
                due.filter(|due| (from..to).contains(due))
                    .map(|due| (due, local.into())),
            );
        }
        Self {
            zone: zone.clone(),
            from,
            to,
            shown,
            placed,
        }
    }

    fn expected(&self, rule: &Rule, due: fn(Local) -> bool) -> Vec<DateTime<Utc>> {
        let times = match rule {
            Elapsed => &self.shown,
            Fixed => &self.placed,
        };
        let due = times
            .iter()
            .filter(|(_, local)| due(*local))
            .map(|(instant, _)| *instant);
        due.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn compare(&self, (expression, rule, due): &Row) {
        let expected = self.expected(rule, *due);
        let timetable = Timetable::new(
            expression.parse().expect(expression),
            self.zone.clone(),
            self.from,
        );
        let (since, now) = (
            self.from - TimeDelta::seconds(1),
            self.to - TimeDelta::seconds(1),
        );
        let zone = self.zone.iana_name().expect("a name");

        let ticks = std::iter::successors(timetable.next(since), |tick| timetable.next(*tick));
        let found: Vec<_> = ticks
            .take(expected.len() + 1)
            .take_while(|tick| *tick <= now)
            .collect();
        let different = expected
            .iter()
            .zip(&found)
            .find(|(expected, found)| expected != found);
        assert_eq!(
            different, None,
            "{expression} in {zone}: expected and found"
        );
        assert_eq!(
            expected.len(),
            found.len(),
            "{expression} in {zone} from {since} to {now}"
        );

        assert_eq!(
            timetable.missed(since, now, u64::MAX),
            expected.len() as u64,
            "{expression} in {zone}"
        );
        assert_eq!(
            timetable.latest(since, now),
            expected.last().copied(),
            "{expression} in {zone}"
        );
        let mut instant = self.from;
        while instant < self.to {
            let past = expected.partition_point(|tick| *tick <= instant);
            let place = format!("{expression} in {zone} from {since} to {instant}");
            assert_eq!(
                timetable.missed(since, instant, u64::MAX),
                past as u64,
                "{place}"
            );
            assert_eq!(
                timetable.latest(since, instant),
                expected[..past].last().copied(),
                "{place}"
            );
            instant += (self.to - self.from) / 19;
        }
    }
}

/// The clock changes of a zone in these years: the first minute with the new offset.
fn changes(zone: &TimeZone, years: std::ops::Range<i32>) -> Vec<DateTime<Utc>> {
    let start = |year| Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap();
    let shift = |instant: DateTime<Utc>| local_time(zone, instant) - instant.naive_utc();
    let (mut hour, end) = (start(years.start), start(years.end));
    let mut changes = Vec::new();
    while hour < end {
        let next = hour + TimeDelta::hours(1);
        if shift(hour) != shift(next) {
            let minutes = (1..=60).map(|minute| hour + TimeDelta::minutes(minute));
            changes.extend(
                minutes
                    .into_iter()
                    .find(|minute| shift(*minute) != shift(hour)),
            );
        }
        hour = next;
    }
    changes
}

/// Compares around each clock change of these years, and throughout `whole_year`.
fn compare(zone: &str, years: std::ops::Range<i32>, whole_year: Option<i32>) {
    let zone = parse_zone(zone).expect("an IANA name");
    let changes = changes(&zone, years);
    for change in &changes {
        let around = TimeDelta::hours(30);
        let window = Window::new(
            &zone,
            *change - around,
            *change + around,
            TimeDelta::minutes(1),
        );
        MINUTES.iter().for_each(|row| window.compare(row));
    }
    for change in changes.iter().rev().take(2) {
        let around = TimeDelta::minutes(65);
        let window = Window::new(
            &zone,
            *change - around,
            *change + around,
            TimeDelta::seconds(1),
        );
        SECONDS.iter().for_each(|row| window.compare(row));
    }
    if let Some(year) = whole_year {
        let start = |year| Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap();
        let window = Window::new(&zone, start(year), start(year + 1), TimeDelta::minutes(1));
        // Without the first two: they have so many ticks that they would take most of the time.
        MINUTES[2..].iter().for_each(|row| window.compare(row));
    }
}

#[test]
fn utc_agrees() {
    compare("UTC", 2024..2025, Some(2024));
}

#[test]
fn berlin_agrees() {
    compare("Europe/Berlin", 2024..2026, Some(2024));
}

#[test]
fn new_york_agrees() {
    compare("America/New_York", 2024..2026, None);
}

#[test]
fn kathmandu_agrees() {
    compare("Asia/Kathmandu", 1985..1987, None);
}

// The clock is put forward at midnight and back at one.
#[test]
fn havana_agrees() {
    compare("America/Havana", 2012..2014, Some(2012));
}

// Half an hour of daylight saving.
#[test]
fn lord_howe_agrees() {
    compare("Australia/Lord_Howe", 2024..2026, None);
}

// Daylight saving interrupted during Ramadan: four changes in a year.
#[test]
fn cairo_agrees() {
    compare("Africa/Cairo", 2010..2015, None);
}

// The clock goes back for Ramadan.
#[test]
fn casablanca_agrees() {
    compare("Africa/Casablanca", 2011..2013, Some(2026));
}

// 30 December 2011 was left out.
#[test]
fn apia_agrees() {
    compare("Pacific/Apia", 2010..2013, Some(2011));
}
