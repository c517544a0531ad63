use super::*;

fn canonical(text: &str) -> String {
    match text.parse::<Schedule>() {
        Ok(schedule) => schedule.canonical().into(),
        Err(error) => panic!("{text:?}: {error}"),
    }
}

fn refusal(text: &str) -> String {
    match text.parse::<Schedule>() {
        Ok(schedule) => panic!("{text:?} was read as {schedule:?}"),
        Err(error) => error.to_string(),
    }
}

// These texts are stored in brokers: a change here makes every bucket forget its missed refills.
#[test]
fn the_canonical_text_stays_as_it_is() {
    for (text, expected) in [
        ("* * * * *", "0 0-59 0-23 1-31 1-12 0-6 both elapsed"),
        ("*/30 5 1 JAN ?", "0 0,30 5 1 1 0-6 both elapsed"),
        ("30 5 1,15 * mon-fri", "0 30 5 1,15 1-12 1-5 either local"),
        ("0 9 1-7 * +MON", "0 0 9 1-7 1-12 1 both local"),
        ("5/20 0 9 * * *", "5,25,45 0 9 1-31 1-12 0-6 both local"),
        ("@every 1h30m", "@every 5400s"),
    ] {
        assert_eq!(canonical(text), expected, "{text}");
    }
}

#[test]
fn different_texts_of_one_meaning_are_equal() {
    for (one, other) in [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 JAN ?"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * SUN"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "@daily"),
        ("@hourly", "  0\t* * * *\n"),
        ("0 * * * *", "0 0 */1 ? 1-12 sun-sat"),
        ("0,30 9 * * *", "0/30 9 * * *"),
        ("0 9 1-31 * MON", "0 9 * * *"),
        ("0 9 1 * 0-6", "0 9 * * *"),
        ("0 9 * * +MON", "0 9 * * MON"),
        ("@every 90s", "@every  1m30s"),
    ] {
        assert_eq!(one.parse::<Schedule>(), other.parse(), "{one} and {other}");
    }
}

#[test]
fn different_meanings_are_not_equal() {
    for (one, other) in [
        ("0 9 1-7 * MON", "0 9 1-7 * +MON"),
        ("0 9 */1 * MON", "0 9 */2 * MON"),
        // Not on days with a clock change:
        ("0 * * * *", "0 0-23 * * *"),
        ("@every 1h", "@hourly"),
    ] {
        assert_ne!(one.parse::<Schedule>(), other.parse(), "{one} and {other}");
    }
}

#[test]
fn either_day_field_is_enough_unless_one_is_a_star_or_a_plus_joins_them() {
    for (text, rule) in [
        ("0 0 1 * MON", "either"),
        ("0 0 */2 * MON", "either"),
        ("0 0 1 * */2", "either"),
        ("0 0 * * MON", "both"),
        ("0 0 */1 * MON", "both"),
        ("0 0 1,* * MON", "both"),
        ("0 0 ? * MON", "both"),
        ("0 0 1 * *", "both"),
        ("0 0 1 * +MON", "both"),
        ("0 0 */2 * +1,2", "both"),
    ] {
        let canonical = canonical(text);
        assert_eq!(
            canonical.split(' ').nth(6),
            Some(rule),
            "{text}: {canonical}"
        );
    }
}

#[test]
fn a_refusal_says_where_what_and_what_to_write() {
    for (text, parts) in [
        ("", &["is empty", "0 * * * *"][..]),
        (" \t ", &["is empty"]),
        ("0 0 * * MÖN", &["'Ö'", "ASCII"]),
        ("0\u{a0}0 * * *", &["ASCII"]),
        (
            "TZ=UTC 0 0 * * *",
            &["\"TZ=UTC\"", "use the timeZone field"],
        ),
        (
            "CRON_TZ=Europe/Berlin @daily",
            &["CRON_TZ=Europe/Berlin", "use the timeZone field"],
        ),
        ("* * * *", &["has 4 fields", "write five", "@hourly"]),
        (
            "0 0 0 * * * 2026",
            &["has 7 fields", "six with seconds in front"],
        ),
        ("@Hourly", &["unknown macro \"@Hourly\"", "@hourly"]),
        ("@reboot", &["unknown macro \"@reboot\""]),
        ("@hourly 5", &["has 2 fields"]),
        ("@every", &["the duration \"\" of @every", "such as 90s"]),
        ("@every 1h 30m", &["\"1h 30m\"", "such as 90s"]),
        ("@every 100ms", &["at least 1s"]),
        ("60 * * * *", &["minute field \"60\"", "write 0-59"]),
        (
            "1,61 0 0 * * *",
            &["second field \"1,61\"", "\"61\"", "write 0-59"],
        ),
        ("0 24 * * *", &["hour field", "write 0-23"]),
        ("0 0 32 * *", &["day-of-month field", "write 1-31"]),
        ("0 0 * 13 *", &["month field", "JAN-DEC"]),
        ("0 0 * * 7", &["day-of-week field \"7\"", "Sunday is 0"]),
        ("0 0 * * ++MON", &["day-of-week field", "only in front"]),
        (
            "0 0 +1 * MON",
            &[
                "day-of-month field",
                "only in front of the whole day-of-week field",
            ],
        ),
        ("0 0 * * +", &["day-of-week field \"\"", "empty part"]),
        (", * * * *", &["minute field \",\"", "comma"]),
        ("*-5 * * * *", &["minute field \"*-5\"", "write * alone"]),
        (
            "0 0 30 2 *",
            &["day-of-month \"30\" never comes in month \"2\""],
        ),
        ("0 0 31 2,4,6,9,11 *", &["never comes"]),
        ("0 0 30-31 feb +MON", &["never comes"]),
    ] {
        let message = refusal(text);
        for part in parts {
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}

#[test]
fn a_day_that_comes_in_some_year_is_accepted() {
    for text in [
        "0 0 29 2 *",
        "0 0 29 2 +FRI",
        "0 0 30 2 MON",
        "0 0 31 2-3 *",
    ] {
        canonical(text);
    }
}
