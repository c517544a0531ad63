use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn timetable(schedule: &str, zone: &str) -> Timetable {
    Timetable::new(
        schedule.parse().unwrap(),
        crate::parse_zone(zone).unwrap(),
        DateTime::UNIX_EPOCH,
    )
}

/// All ticks after `since` and not after `now`, without year and month.
fn ticks(schedule: &str, zone: &str, since: &str, now: &str) -> Vec<String> {
    let (timetable, since, now) = (timetable(schedule, zone), at(since), at(now));
    let ticks = std::iter::successors(timetable.next(since), |tick| timetable.next(*tick));
    let ticks: Vec<_> = ticks.take_while(|tick| *tick <= now).take(100).collect();
    assert_eq!(timetable.missed(since, now, u64::MAX), ticks.len() as u64);
    assert_eq!(timetable.latest(since, now), ticks.last().copied());
    ticks
        .iter()
        .map(|tick| tick.format("%dT%H:%M:%S").to_string())
        .collect()
}

#[test]
fn a_tick_is_strictly_after_and_not_after_now() {
    let hourly = timetable("0 * * * *", "UTC");
    let (ten, eleven) = (at("2026-11-24T10:00:00Z"), at("2026-11-24T11:00:00Z"));
    assert_eq!(hourly.next(ten), Some(eleven));
    assert_eq!(
        hourly.next(at("2026-11-24T10:59:59.999999999Z")),
        Some(eleven)
    );
    assert_eq!(
        hourly.next(at("2026-11-24T11:00:00.000000001Z")),
        Some(at("2026-11-24T12:00:00Z"))
    );
    assert_eq!(hourly.latest(ten, eleven), Some(eleven));
    assert_eq!(hourly.latest(ten, at("2026-11-24T10:59:59.9Z")), None);
    assert_eq!(hourly.missed(ten, eleven, 9), 1);
    assert_eq!(hourly.missed(eleven, eleven, 9), 0);
    assert_eq!(
        (hourly.missed(eleven, ten, 9), hourly.latest(eleven, ten)),
        (0, None)
    );
}

#[test]
fn local_days_are_those_of_the_zone() {
    let monday = ticks(
        "0 0 * * MON",
        "Asia/Kathmandu",
        "2026-11-16T00:00:00Z",
        "2026-11-30T00:00:00Z",
    );
    assert_eq!(monday, ["22T18:15:00", "29T18:15:00"]);
}

#[test]
fn day_of_month_and_day_of_week_are_alternatives_or_joined_by_a_plus() {
    let november = ("2026-11-01T00:00:00Z", "2026-11-30T23:59:59Z");
    let either = ticks("0 9 1-3 * MON", "UTC", november.0, november.1);
    let expected = ["01", "02", "03", "09", "16", "23", "30"].map(|day| format!("{day}T09:00:00"));
    assert_eq!(either, expected);
    assert_eq!(
        ticks("0 9 1-7 * +MON", "UTC", november.0, november.1),
        ["02T09:00:00"]
    );
}

// Berlin, 2026: 29 March 02:00 is followed by 03:00 (01:00 UTC), 25 October 03:00 by 02:00 (01:00 UTC).

#[test]
fn elapsed_time_skips_a_gap_and_repeats_an_overlap() {
    let gap = ticks(
        "30 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:00:00Z",
        "2026-03-29T02:00:00Z",
    );
    assert_eq!(gap, ["29T00:30:00", "29T01:30:00"]);
    let gap = ticks(
        "*/30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        "2026-03-30T12:00:00Z",
    );
    assert_eq!(gap, ["30T00:00:00", "30T00:30:00"]);
    let overlap = ticks(
        "*/30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        "2026-10-25T12:00:00Z",
    );
    assert_eq!(
        overlap,
        ["25T00:00:00", "25T00:30:00", "25T01:00:00", "25T01:30:00"]
    );
}

#[test]
fn fixed_times_in_a_gap_come_once_at_the_first_instant_after_it() {
    let gap = ticks(
        "15,45 2 * * *",
        "Europe/Berlin",
        "2026-03-29T00:00:00Z",
        "2026-03-30T12:00:00Z",
    );
    assert_eq!(gap, ["29T01:00:00", "30T00:15:00", "30T00:45:00"]);
    // The first instant after the gap is 03:00, which is selected too.
    let gap = ticks(
        "0 2,3 * * *",
        "Europe/Berlin",
        "2026-03-29T00:00:00Z",
        "2026-03-29T12:00:00Z",
    );
    assert_eq!(gap, ["29T01:00:00"]);
    // In Havana midnight itself is skipped.
    let gap = ticks(
        "0 0 * * *",
        "America/Havana",
        "2026-03-07T12:00:00Z",
        "2026-03-09T12:00:00Z",
    );
    assert_eq!(gap, ["08T05:00:00", "09T04:00:00"]);
    // In Apia all of 30 December 2011 is skipped.
    let gap = ticks(
        "0 9 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        "2011-12-31T12:00:00Z",
    );
    assert_eq!(gap, ["29T19:00:00", "30T10:00:00", "30T19:00:00"]);
}

#[test]
fn fixed_times_in_an_overlap_come_once_at_their_first_occurrence() {
    let overlap = ticks(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-25T00:00:00Z",
        "2026-10-26T12:00:00Z",
    );
    assert_eq!(overlap, ["25T00:30:00", "26T01:30:00"]);
    // Lord Howe puts its clock back by half an hour: 01:30 to 02:00 comes twice.
    let overlap = ticks(
        "15,45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T12:00:00Z",
        "2026-04-05T12:00:00Z",
    );
    assert_eq!(overlap, ["04T14:15:00", "04T14:45:00"]);
}

#[test]
fn a_search_that_begins_inside_an_overlap_does_not_repeat_a_fixed_time() {
    let fixed = timetable("30 2 * * *", "Europe/Berlin");
    let (first, second) = (at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"));
    assert_eq!(
        fixed.next(at("2026-10-25T01:00:00Z")),
        Some(at("2026-10-26T01:30:00Z"))
    );
    assert_eq!(fixed.latest(at("2026-10-25T01:00:00Z"), second), None);
    assert_eq!(fixed.latest(DateTime::UNIX_EPOCH, second), Some(first));
    assert_eq!(fixed.missed(first, second, 9), 0);
}

#[test]
fn every_counts_from_the_anchor() {
    let anchor = at("2026-11-24T10:00:07.9Z");
    let every = Timetable::new("@every 90s".parse().unwrap(), TimeZone::UTC, anchor);
    let (first, second) = (at("2026-11-24T10:01:37Z"), at("2026-11-24T10:03:07Z"));
    for (after, next) in [
        (DateTime::<Utc>::MIN_UTC, first),
        (anchor, first),
        (first, second),
    ] {
        assert_eq!(every.next(after), Some(next));
    }
    assert_eq!(every.latest(anchor, at("2026-11-24T10:01:36Z")), None);
    assert_eq!(every.latest(anchor, second), Some(second));
    assert_eq!(every.latest(second, second), None);
    assert_eq!(
        every.missed(DateTime::<Utc>::MIN_UTC, at("2026-11-24T10:30:07Z"), 99),
        20
    );
    assert_eq!(every.missed(first, at("2026-11-24T10:30:07Z"), 99), 19);
    assert_eq!(every.missed(first, at("2026-11-24T10:30:07Z"), 5), 5);
}

#[test]
fn a_fingerprint_is_schedule_and_zone_but_not_the_anchor() {
    let berlin = timetable("@hourly", "Europe/Berlin");
    assert_eq!(
        berlin.fingerprint(),
        "0 0 0-23 1-31 1-12 0-6 both elapsed Europe/Berlin"
    );
    assert_ne!(
        berlin.fingerprint(),
        timetable("@hourly", "Europe/Paris").fingerprint()
    );
    let later = Timetable::new(
        "@every 1h".parse().unwrap(),
        TimeZone::UTC,
        at("2026-11-24T10:00:00Z"),
    );
    assert_eq!(later.fingerprint(), "@every 3600s");
    assert_eq!(
        later.fingerprint(),
        timetable("@every 60m", "Europe/Berlin").fingerprint()
    );
}

#[test]
fn rare_dates_are_found_however_far_apart() {
    let leap_friday = timetable("0 0 29 2 +FRI", "UTC");
    assert_eq!(
        leap_friday.next(at("2036-01-01T00:00:00Z")),
        Some(at("2036-02-29T00:00:00Z"))
    );
    assert_eq!(
        leap_friday.next(at("2036-03-01T00:00:00Z")),
        Some(at("2064-02-29T00:00:00Z"))
    );
    assert_eq!(
        leap_friday.latest(DateTime::UNIX_EPOCH, at("2064-02-28T00:00:00Z")),
        Some(at("2036-02-29T00:00:00Z"))
    );
}

#[test]
fn a_time_that_clock_changes_always_skip_never_comes() {
    let skipped = timetable("* 2 8-14 3 +SUN", "America/New_York");
    assert_eq!(skipped.next(at("2007-01-01T00:00:00Z")), None);
}

#[test]
fn nothing_is_due_before_1970() {
    let first_minute = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(30);
    for expression in ["1 * * * *", "1 * 1 * *"] {
        let timetable = timetable(expression, "UTC");
        assert_eq!(
            timetable.latest(DateTime::<Utc>::MIN_UTC, first_minute),
            None
        );
    }
}

#[test]
fn schedules_begin_with_1970_and_end_with_2199() {
    for zone in ["UTC", "Etc/GMT-14", "Etc/GMT+12"] {
        let daily = timetable("0 0 * * *", zone);
        let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        let local = |tick: DateTime<Utc>| {
            let tick = jiff::Timestamp::from_second(tick.timestamp()).unwrap();
            daily.zone.to_datetime(tick).date().to_string()
        };
        assert_eq!(daily.next(min).map(local).as_deref(), Some("1970-01-01"));
        assert_eq!(
            daily.latest(min, max).map(local).as_deref(),
            Some("2199-12-31")
        );
        assert_eq!(daily.missed(min, max, u64::MAX), 84_006);
        assert_eq!(
            (
                daily.next(max),
                daily.latest(min, min),
                daily.missed(max, max, 9)
            ),
            (None, None, 0)
        );
    }
}

// Walked tick by tick, this test would not end.
#[test]
fn a_year_of_missed_seconds_is_counted_and_not_walked() {
    let secondly = timetable("* * * * * *", "Europe/Berlin");
    let (since, now) = (at("2025-06-01T00:00:00Z"), at("2026-06-01T00:00:00Z"));
    assert_eq!(secondly.missed(since, now, u64::MAX), 365 * 86_400);
    assert_eq!(secondly.missed(since, now, 1000), 1000);
    assert_eq!(secondly.latest(since, now), Some(now));
}
