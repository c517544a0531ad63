//! What happened between two statuses, for events and logs. No client required.

use super::compose::BROKER_UNAVAILABLE;
use super::write_policy::{condition, holds};
use crate::controller::events::Notice;
use api::TokenBucketStatus;
use api::conditions::{BROKER_CONNECTED, READY, STALLED};

/// What is worth an event in the change from `before` to `after`.
pub(super) fn transition(before: &TokenBucketStatus, after: &TokenBucketStatus) -> Option<Notice> {
    let ready = condition(after, READY)?;
    if holds(after, STALLED) {
        let known = holds(before, STALLED)
            && condition(before, READY).is_some_and(|old| old.reason == ready.reason);
        return (!known).then(|| Notice::warning(&ready.reason, &ready.message));
    }
    let away = |status: &TokenBucketStatus| {
        condition(status, BROKER_CONNECTED).is_some_and(|c| c.status == "False")
    };
    if away(after) {
        return (!away(before)).then(|| Notice::warning(BROKER_UNAVAILABLE, &ready.message));
    }
    // That a new bucket works is what everybody expects; thousands of them would hide what is worth reading.
    let was_not = condition(before, READY).is_some_and(|old| old.status != "True");
    if holds(after, READY) && was_not {
        let reason = if away(before) {
            "BrokerRecovered"
        } else {
            "Ready"
        };
        return Some(Notice::normal(reason, &ready.message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::compose::compose;
    use super::super::fixture::{at, down, in_force, refused, state};
    use super::super::report::{Decision, ReconcileResult};
    use super::*;
    use engine::{ConnectionState, Phase};

    fn status(result: &ReconcileResult, connection: &ConnectionState) -> TokenBucketStatus {
        compose(
            result,
            Some(&state(1, 1)),
            Some(connection),
            &TokenBucketStatus::default(),
            at(0),
        )
    }

    fn reason(before: &TokenBucketStatus, after: &TokenBucketStatus) -> Option<String> {
        transition(before, after).map(|notice| notice.reason)
    }

    #[test]
    fn only_changes_are_told() {
        let none = TokenBucketStatus::default();
        let ready = status(&in_force(1), &ConnectionState::Up);
        let more = TokenBucketStatus {
            available_tokens: Some(9),
            ..ready.clone()
        };
        let away = status(&in_force(1), &down());
        let conflict = status(&refused(1, "NameConflict"), &ConnectionState::Up);
        let invalid = status(&refused(1, "InvalidSchedule"), &ConnectionState::Up);
        for (before, after, told) in [
            (&none, &ready, None),
            (&ready, &more, None),
            (&ready, &away, Some("BrokerUnavailable")),
            (&none, &away, Some("BrokerUnavailable")),
            (&away, &away, None),
            (&away, &ready, Some("BrokerRecovered")),
            (&ready, &conflict, Some("NameConflict")),
            (&conflict, &conflict, None),
            (&conflict, &invalid, Some("InvalidSchedule")),
            (&conflict, &ready, Some("Ready")),
        ] {
            assert_eq!(
                reason(before, after).as_deref(),
                told,
                "{before:?} -> {after:?}"
            );
        }
    }

    #[test]
    fn a_bucket_in_the_making_is_no_event() {
        let making = in_force(1);
        let making = ReconcileResult {
            decision: Decision::Refused(Phase::progressing("Applying", "").into()),
            ..making
        };
        assert_eq!(
            reason(
                &TokenBucketStatus::default(),
                &status(&making, &ConnectionState::Up)
            ),
            None
        );
    }
}
