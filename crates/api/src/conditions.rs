//! The conditions of a bucket, exactly as kstatus reads them: Stalled is Failed, Reconciling is InProgress, Ready alone is
//! Current.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::to_time;
use bucket::machine::{ConnectionState, Phase};

/// The bucket is as the spec says and is refilled.
pub const READY: &str = "Ready";
/// The operator is still working towards the spec, or waits for the broker.
pub const RECONCILING: &str = "Reconciling";
/// Nothing will happen until a person changes something.
pub const STALLED: &str = "Stalled";
/// The operator has a connection to the bucket's broker.
pub const BROKER_CONNECTED: &str = "BrokerConnected";

/// The conditions to write for `generation`. Without a `connection` nobody has tried the broker yet, or there is none to try.
/// `lastTransitionTime` is taken from `previous` where the status is the
/// same, so that the result equals `previous` when nothing changed.
pub fn conditions(
    previous: &[Condition],
    phase: &Phase,
    suspended: bool,
    connection: Option<&ConnectionState>,
    generation: i64,
    now: DateTime<Utc>,
) -> Vec<Condition> {
    let (holds, reason, message) = match phase {
        Phase::Ready if suspended => (
            READY,
            "Suspended",
            "the bucket is as the spec says; scheduled refills are suspended",
        ),
        Phase::Ready => (
            READY,
            "Refilling",
            "the bucket is as the spec says and is refilled",
        ),
        Phase::Progressing { reason, message } => (RECONCILING, *reason, message.as_str()),
        Phase::Stalled { reason, message } => (STALLED, *reason, message.as_str()),
    };
    let of_phase = |type_| {
        let status = if type_ == holds { "True" } else { "False" };
        // A message at a False condition would be read as a second complaint; Ready is the one that people look at.
        let told = type_ == holds || type_ == READY;
        (type_, status, reason, if told { message } else { "" })
    };
    let of_connection = match connection {
        Some(ConnectionState::Up) => ("True", "Connected", ""),
        Some(ConnectionState::Down { message, .. }) => ("False", "Unreachable", message.as_str()),
        None => ("Unknown", "NotTried", ""),
    };
    [
        of_phase(READY),
        of_phase(RECONCILING),
        of_phase(STALLED),
        (
            BROKER_CONNECTED,
            of_connection.0,
            of_connection.1,
            of_connection.2,
        ),
    ]
    .map(|(type_, status, reason, message)| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: previous
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == status)
            .map_or_else(
                || to_time(now),
                |condition| condition.last_transition_time.clone(),
            ),
    })
    .into()
}

/// `condition` without its time.
pub(super) fn undated(condition: &Condition) -> Condition {
    Condition {
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        ..condition.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kstatus, as its `status.Compute` judges a custom resource.
    fn kstatus(conditions: &[Condition], generation: i64, observed: i64) -> &'static str {
        let status = |type_| {
            conditions
                .iter()
                .find(|condition| condition.type_ == type_)
                .map(|c| c.status.as_str())
        };
        if observed != generation || status(RECONCILING) == Some("True") {
            "InProgress"
        } else if status(STALLED) == Some("True") {
            "Failed"
        } else if matches!(status(READY), Some("False" | "Unknown")) {
            "InProgress"
        } else {
            "Current"
        }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn first(phase: &Phase) -> Vec<Condition> {
        conditions(&[], phase, false, Some(&ConnectionState::Up), 1, at(1))
    }

    fn shown(conditions: &[Condition]) -> Vec<String> {
        conditions
            .iter()
            .map(|c| format!("{}={} {} {:?}", c.type_, c.status, c.reason, c.message))
            .collect()
    }

    #[test]
    fn a_ready_bucket_is_current() {
        let conditions = first(&Phase::Ready);
        assert_eq!(
            shown(&conditions),
            [
                r#"Ready=True Refilling "the bucket is as the spec says and is refilled""#,
                r#"Reconciling=False Refilling """#,
                r#"Stalled=False Refilling """#,
                r#"BrokerConnected=True Connected """#,
            ]
        );
        assert_eq!(kstatus(&conditions, 1, 1), "Current");
    }

    #[test]
    fn a_stalled_bucket_is_failed() {
        let conditions = first(&Phase::stalled("NameConflict", "owned by shop/a"));
        assert_eq!(
            shown(&conditions),
            [
                r#"Ready=False NameConflict "owned by shop/a""#,
                r#"Reconciling=False NameConflict """#,
                r#"Stalled=True NameConflict "owned by shop/a""#,
                r#"BrokerConnected=True Connected """#,
            ]
        );
        assert_eq!(kstatus(&conditions, 1, 1), "Failed");
    }

    #[test]
    fn a_bucket_that_waits_for_its_broker_is_in_progress() {
        let away = ConnectionState::Down {
            reason: "BrokerUnreachable",
            message: "connection refused".to_owned(),
        };
        let conditions = conditions(
            &[],
            &Phase::progressing("BrokerAway", "waiting"),
            false,
            Some(&away),
            1,
            at(1),
        );
        assert_eq!(
            shown(&conditions),
            [
                r#"Ready=False BrokerAway "waiting""#,
                r#"Reconciling=True BrokerAway "waiting""#,
                r#"Stalled=False BrokerAway """#,
                r#"BrokerConnected=False Unreachable "connection refused""#,
            ]
        );
        assert_eq!(kstatus(&conditions, 1, 1), "InProgress");
    }

    #[test]
    fn a_broker_that_nobody_tried_is_unknown() {
        let conditions = conditions(
            &[],
            &Phase::stalled("NoBroker", "none"),
            false,
            None,
            1,
            at(1),
        );
        assert_eq!(
            shown(&conditions)[3],
            r#"BrokerConnected=Unknown NotTried """#
        );
        assert_eq!(kstatus(&conditions, 1, 1), "Failed");
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_flips() {
        let before = first(&Phase::progressing("Declaring", "declaring the queue"));
        let after = conditions(
            &before,
            &Phase::Ready,
            false,
            Some(&ConnectionState::Up),
            1,
            at(9),
        );
        let times: Vec<_> = after
            .iter()
            .map(|c| c.last_transition_time.0.as_second())
            .collect();
        assert_eq!(
            times,
            [9, 9, 1, 1],
            "Ready and Reconciling flipped, the others did not"
        );
    }

    #[test]
    fn a_new_message_is_not_a_transition() {
        let before = first(&Phase::stalled("InvalidSchedule", "never fires"));
        let after = conditions(
            &before,
            &Phase::stalled("NameConflict", "owned"),
            false,
            Some(&ConnectionState::Up),
            2,
            at(9),
        );
        for condition in &after {
            assert_eq!(
                condition.last_transition_time,
                to_time(at(1)),
                "{}",
                condition.type_
            );
            assert_eq!(
                condition.observed_generation,
                Some(2),
                "{}",
                condition.type_
            );
        }
        assert_ne!(shown(&after), shown(&before));
    }

    #[test]
    fn the_same_phase_gives_the_same_conditions() {
        let phase = Phase::Ready;
        let before = first(&phase);
        assert_eq!(
            conditions(&before, &phase, false, Some(&ConnectionState::Up), 1, at(9)),
            before
        );
    }
}
