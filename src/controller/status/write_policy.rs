//! When a status is written. No client required, and the time is passed in.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use api::TokenBucketStatus;
use api::conditions::{BROKER_CONNECTED, READY, RECONCILING};

/// A bucket that is being worked on is mostly ready before anybody could read that it was not.
const SETTLE: Duration = Duration::from_secs(5);
/// A bucket that was ready as it is specified now is taken for ready for so long: after a start it takes a while until
/// each of ten thousand buckets is looked at.
const SETTLE_FROM_READY: Duration = Duration::from_secs(30);
/// A status in which only the time of the count would change is written so often.
const REFRESH: Duration = Duration::from_secs(600);

/// Whether a write waits for its share of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// First statuses and changed conditions.
    Urgent,
    /// Changed counts.
    Routine,
}

/// What matters about time for one bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The last write, or else when the bucket became known.
    pub(super) touched: Duration,
    /// Since when it is being worked on.
    pub(super) unsettled: Option<Duration>,
    /// The earliest time of the next write, after failed ones.
    pub(super) not_before: Option<Duration>,
}

/// When `desired` has to be written over `written`; None when they are equal.
pub(super) fn due(
    written: &TokenBucketStatus,
    desired: &TokenBucketStatus,
    times: Times,
    interval: Duration,
    now: Duration,
) -> Option<(Priority, Duration)> {
    let (priority, due) = if !say_the_same_words(written, desired) {
        let hold = times
            .unsettled
            .map_or(Duration::ZERO, |_| settle(written, desired));
        (Priority::Urgent, times.unsettled.unwrap_or(now) + hold)
    } else if written == desired {
        return None;
    } else if written.says_the_same_as(desired) {
        (Priority::Routine, times.touched + REFRESH)
    } else {
        (Priority::Routine, times.touched + interval)
    };
    Some((
        priority,
        times.not_before.map_or(due, |earliest| due.max(earliest)),
    ))
}

/// Whether the bucket is being worked on and its broker is not away: that ends soon, mostly.
pub(super) fn is_unsettled(status: &TokenBucketStatus) -> bool {
    holds(status, RECONCILING)
        && condition(status, BROKER_CONNECTED).is_some_and(|broker| broker.status != "False")
}

fn settle(written: &TokenBucketStatus, desired: &TokenBucketStatus) -> Duration {
    let was_ready =
        holds(written, READY) && written.observed_generation == desired.observed_generation;
    if was_ready { SETTLE_FROM_READY } else { SETTLE }
}

/// Whether programs that wait for something would read the same. Messages are for people, and may vary from one attempt
/// to the next.
fn say_the_same_words(one: &TokenBucketStatus, other: &TokenBucketStatus) -> bool {
    let words = |condition: &Condition| {
        (
            condition.type_.clone(),
            condition.status.clone(),
            condition.reason.clone(),
        )
    };
    one.observed_generation == other.observed_generation
        && one.last_handled_refill_request == other.last_handled_refill_request
        && one
            .conditions
            .iter()
            .map(words)
            .eq(other.conditions.iter().map(words))
}

pub(super) fn condition<'a>(status: &'a TokenBucketStatus, type_: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

pub(super) fn holds(status: &TokenBucketStatus, type_: &str) -> bool {
    condition(status, type_).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::super::compose::compose;
    use super::super::fixture::{at, down, in_force, state};
    use super::*;
    use engine::{BucketState, ConnectionState, Observed};

    const INTERVAL: Duration = Duration::from_secs(10);

    fn ready(tokens: u64) -> TokenBucketStatus {
        compose(
            &in_force(1),
            Some(&state(1, tokens)),
            Some(&ConnectionState::Up),
            &TokenBucketStatus::default(),
            at(0),
        )
    }

    fn connecting(written: &TokenBucketStatus) -> TokenBucketStatus {
        compose(&in_force(1), None, None, written, at(0))
    }

    /// Priority and delay of the write.
    fn write(
        written: &TokenBucketStatus,
        desired: &TokenBucketStatus,
    ) -> Option<(Priority, Duration)> {
        let now = Duration::from_secs(100);
        let times = Times {
            touched: now,
            unsettled: is_unsettled(desired).then_some(now),
            not_before: None,
        };
        due(written, desired, times, INTERVAL, now).map(|(priority, due)| (priority, due - now))
    }

    #[test]
    fn the_first_status_is_written_at_once() {
        assert_eq!(
            write(&TokenBucketStatus::default(), &ready(1)),
            Some((Priority::Urgent, Duration::ZERO))
        );
    }

    #[test]
    fn a_bucket_that_is_being_made_gets_the_chance_to_be_ready_in_its_first_status() {
        let none = TokenBucketStatus::default();
        assert_eq!(
            write(&none, &connecting(&none)),
            Some((Priority::Urgent, SETTLE))
        );
    }

    #[test]
    fn a_broker_that_is_away_is_told_at_once() {
        let away = compose(
            &in_force(1),
            None,
            Some(&down()),
            &TokenBucketStatus::default(),
            at(0),
        );
        assert_eq!(
            write(&TokenBucketStatus::default(), &away),
            Some((Priority::Urgent, Duration::ZERO))
        );
        assert_eq!(
            write(&ready(1), &away),
            Some((Priority::Urgent, Duration::ZERO))
        );
    }

    #[test]
    fn a_restart_writes_nothing_about_a_bucket_that_is_seen_soon() {
        assert_eq!(
            write(&ready(1), &connecting(&ready(1))),
            Some((Priority::Urgent, SETTLE_FROM_READY))
        );
        assert_eq!(write(&ready(1), &ready(1)), None);
    }

    #[test]
    fn a_changed_count_waits_for_the_interval_and_the_budget() {
        assert_eq!(
            write(&ready(1), &ready(2)),
            Some((Priority::Routine, INTERVAL))
        );
    }

    #[test]
    fn a_count_that_did_not_change_is_refreshed_rarely() {
        let seen_later = BucketState {
            observed: Some(Observed {
                tokens: 1,
                at: at(20),
            }),
            ..state(1, 1)
        };
        let later = compose(
            &in_force(1),
            Some(&seen_later),
            Some(&ConnectionState::Up),
            &ready(1),
            at(0),
        );
        assert_eq!(write(&ready(1), &later), Some((Priority::Routine, REFRESH)));
    }

    #[test]
    fn a_message_that_varies_is_not_urgent() {
        let away = |reason| {
            let connection = ConnectionState::Down {
                reason,
                message: String::new(),
            };
            compose(&in_force(1), None, Some(&connection), &ready(1), at(0))
        };
        assert_eq!(
            write(&away("BrokerUnreachable"), &away("AuthenticationRefused")),
            Some((Priority::Routine, INTERVAL))
        );
    }

    #[test]
    fn a_failed_write_is_not_repeated_before_its_pause() {
        let now = Duration::from_secs(100);
        let times = Times {
            touched: now,
            unsettled: None,
            not_before: Some(now + INTERVAL),
        };
        let due = due(
            &TokenBucketStatus::default(),
            &ready(1),
            times,
            INTERVAL,
            now,
        );
        assert_eq!(due, Some((Priority::Urgent, now + INTERVAL)));
    }
}
