//! How close to each other the ticks of a schedule come.

use std::time::Duration;

use super::calendar::{Calendar, DAY, TimeOfDay};
use super::parse::Kind;
use super::timetable::Timetable;

impl Timetable {
    /// The time between the closest two ticks, when that is shorter than `limit`. Local times count: a clock change may
    /// bring two ticks closer to each other once, and no schedule is to blame for that.
    pub fn closer_than(&self, limit: Duration) -> Option<Duration> {
        let closest = match self.kind() {
            Kind::Every(seconds) => *seconds,
            Kind::Calendar(calendar) => calendar.closest(limit),
        };
        let closest = Duration::from_secs(u64::try_from(closest).unwrap_or_default());
        (closest < limit).then_some(closest)
    }
}

impl Calendar {
    /// Seconds between the closest two local times, as far as that can be shorter than `limit`.
    fn closest(&self, limit: Duration) -> i64 {
        let (within, width) = self.time.closest();
        let overnight = DAY - width;
        let limit = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        // It takes time to find out about dates, and few schedules need it.
        if overnight < within && overnight <= limit && self.dates.are_adjacent() {
            overnight
        } else {
            within
        }
    }
}

impl TimeOfDay {
    /// Seconds between the closest two times of a day, and between the first and the last.
    fn closest(&self) -> (i64, i64) {
        let units = [(self.second, 1), (self.minute, 60), (self.hour, 3600)];
        let (mut closest, mut width) = (i64::MAX, 0);
        for (set, seconds) in units {
            if let Some(difference) = set.closest() {
                // From the last time within the one to the first within the next.
                closest = closest.min(i64::from(difference) * seconds - width);
            }
            width += i64::from(set.width()) * seconds;
        }
        (closest, width)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use proptest::prelude::*;

    use super::*;
    use crate::parse_zone;

    fn timetable(expression: &str, zone: &str) -> Timetable {
        let anchor = DateTime::from_timestamp(1_795_600_000, 0).unwrap();
        Timetable::new(
            expression.parse().unwrap(),
            parse_zone(zone).unwrap(),
            anchor,
        )
    }

    fn closer(expression: &str, limit: u64) -> Option<u64> {
        let timetable = timetable(expression, "Europe/Berlin");
        let closest = timetable.closer_than(Duration::from_secs(limit));
        closest.map(|closest| closest.as_secs())
    }

    const DAYS_2: u64 = 2 * 86_400;

    #[test]
    fn the_closest_two_ticks_count_wherever_they_are() {
        for (expression, closest) in [
            ("0 * * * *", 3600),
            ("0,1 * * * *", 60),
            ("0,59 * * * *", 60),
            ("30 0,1 * * *", 3600),
            ("59 9 * * *", 86_400),
            ("*/7 * * * *", 240),
            ("0,5 0 * * * *", 5),
            ("1,58 0,59 * * * *", 3),
            ("1,58 0,59 0,23 1 1 *", 57),
            ("@every 5s", 5),
            ("@every 90m", 5400),
            ("@hourly", 3600),
            ("0,59 0,23 * * MON,TUE", 60),
            ("0 0,23 * * MON,TUE", 3600),
            ("0 0,23 * * MON,WED", 82_800),
            ("0 0,23 28,1 2,3 *", 3600),
            ("0 9 * * MON,WED", DAYS_2),
        ] {
            let found = closer(expression, DAYS_2).unwrap_or(DAYS_2);
            assert_eq!(found, closest, "{expression}");
            assert_eq!(closer(expression, closest), None, "{expression}");
        }
    }

    #[test]
    fn clock_changes_are_no_fault_of_a_schedule() {
        for zone in ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo"] {
            for expression in ["0 * * * *", "30 0,1,2,3,4 * * *", "@hourly"] {
                let timetable = timetable(expression, zone);
                let closest = timetable.closer_than(Duration::from_secs(3600));
                assert_eq!(closest, None, "{expression} {zone}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_two_ticks_are_closer_than_it_says(
            second in proptest::collection::vec(0..60_u32, 1..4),
            minute in proptest::collection::vec(0..60_u32, 1..4),
            hour in proptest::collection::vec(0..24_u32, 1..4),
        ) {
            let list = |numbers: &[u32]| {
                let texts: Vec<_> = numbers.iter().map(u32::to_string).collect();
                texts.join(",")
            };
            let expression = format!("{} {} {} * * *", list(&second), list(&minute), list(&hour));
            let timetable = timetable(&expression, "UTC");
            let begin = DateTime::from_timestamp(1_795_600_000, 0).unwrap();
            let end = begin + TimeDelta::days(2);
            let ticks = std::iter::successors(timetable.next(begin), |tick| timetable.next(*tick));
            let ticks: Vec<_> = ticks.take_while(|tick| *tick < end).collect();
            let closest = ticks.windows(2).map(|pair| pair[1] - pair[0]).min();
            let closest = closest.and_then(|closest| closest.to_std().ok());
            prop_assert_eq!(timetable.closer_than(Duration::from_secs(DAYS_2)), closest);
        }
    }
}
