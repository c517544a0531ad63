//! The conditions of a bucket, exactly as kstatus reads them: Stalled is Failed, Reconciling is InProgress, Ready alone is
//! Current.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::to_time;

/// The bucket is as the spec says and is refilled.
pub const READY: &str = "Ready";
/// The operator is still working towards the spec, or waits for the broker.
pub const RECONCILING: &str = "Reconciling";
/// Nothing will happen until a person changes something.
pub const STALLED: &str = "Stalled";
/// The operator has a connection to the bucket's broker.
pub const BROKER_CONNECTED: &str = "BrokerConnected";

/// How a bucket fares, as the operator judges it at the end of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which conditions are true.
    pub state: State,
    /// Why, as one CamelCase word that programs may compare, for example `NameConflict`.
    pub reason: &'static str,
    /// Why, as a sentence for people: what is wrong, where, and what to do.
    pub message: String,
}

/// The states that kstatus tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The bucket is as the spec says and is refilled.
    Ready,
    /// Work is under way, or the broker is away and the operator tries again by itself.
    Progressing,
    /// A person must act.
    Stalled,
}

/// What is known of the connection to the bucket's broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// It is open.
    Connected,
    /// It is not; the operator tries again by itself.
    Away {
        /// The last error, without credentials.
        message: String,
    },
    /// Nobody has tried yet, or there is no broker to try.
    Unknown,
}

impl Verdict {
    /// The bucket is as the spec says and is refilled.
    pub fn ready(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            state: State::Ready,
            reason,
            message: message.into(),
        }
    }

    /// Work is under way, or the broker is away.
    pub fn progressing(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            state: State::Progressing,
            reason,
            message: message.into(),
        }
    }

    /// A person must act.
    pub fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            state: State::Stalled,
            reason,
            message: message.into(),
        }
    }
}

/// The conditions to write for `generation`. `lastTransitionTime` is taken from `previous` where the status is the
/// same, so that the result equals `previous` when nothing changed.
pub fn conditions(
    previous: &[Condition],
    verdict: &Verdict,
    broker: &Broker,
    generation: i64,
    now: DateTime<Utc>,
) -> Vec<Condition> {
    let Verdict {
        state,
        reason,
        message,
    } = verdict;
    let of_verdict = |type_, true_in: State| {
        let holds = *state == true_in;
        // A message at a False condition would be read as a second complaint; Ready is the one that people look at.
        let message = if holds || type_ == READY {
            message.as_str()
        } else {
            ""
        };
        (
            type_,
            if holds { "True" } else { "False" },
            *reason,
            message,
        )
    };
    let of_broker = match broker {
        Broker::Connected => ("True", "Connected", ""),
        Broker::Away { message } => ("False", "Unreachable", message.as_str()),
        Broker::Unknown => ("Unknown", "NotTried", ""),
    };
    [
        of_verdict(READY, State::Ready),
        of_verdict(RECONCILING, State::Progressing),
        of_verdict(STALLED, State::Stalled),
        (BROKER_CONNECTED, of_broker.0, of_broker.1, of_broker.2),
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

    fn first(verdict: &Verdict) -> Vec<Condition> {
        conditions(&[], verdict, &Broker::Connected, 1, at(1))
    }

    fn shown(conditions: &[Condition]) -> Vec<String> {
        conditions
            .iter()
            .map(|c| format!("{}={} {} {:?}", c.type_, c.status, c.reason, c.message))
            .collect()
    }

    #[test]
    fn a_ready_bucket_is_current() {
        let conditions = first(&Verdict::ready("Refilling", "fine"));
        assert_eq!(
            shown(&conditions),
            [
                r#"Ready=True Refilling "fine""#,
                r#"Reconciling=False Refilling """#,
                r#"Stalled=False Refilling """#,
                r#"BrokerConnected=True Connected """#,
            ]
        );
        assert_eq!(kstatus(&conditions, 1, 1), "Current");
    }

    #[test]
    fn a_stalled_bucket_is_failed() {
        let conditions = first(&Verdict::stalled("NameConflict", "owned by shop/a"));
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
        let broker = Broker::Away {
            message: "connection refused".to_owned(),
        };
        let conditions = conditions(
            &[],
            &Verdict::progressing("BrokerAway", "waiting"),
            &broker,
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
            &Verdict::stalled("NoBroker", "none"),
            &Broker::Unknown,
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
        let before = first(&Verdict::progressing("Declaring", "declaring the queue"));
        let after = conditions(
            &before,
            &Verdict::ready("Refilling", "fine"),
            &Broker::Connected,
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
        let before = first(&Verdict::stalled("InvalidSchedule", "never fires"));
        let after = conditions(
            &before,
            &Verdict::stalled("NameConflict", "owned"),
            &Broker::Connected,
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
    fn the_same_verdict_gives_the_same_conditions() {
        let verdict = Verdict::ready("Refilling", "fine");
        let before = first(&verdict);
        assert_eq!(
            conditions(&before, &verdict, &Broker::Connected, 1, at(9)),
            before
        );
    }
}
