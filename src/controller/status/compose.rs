//! What a status says, from everything that is known about a bucket. No client required.

use chrono::{DateTime, Utc};

use super::report::{Decision, ReconcileResult};
use crate::controller::public::{self, Whose};
use api::conditions::conditions;
use api::{LastRefill, TokenBucketStatus, to_time};
use bucket::Refill;
use engine::{BucketState, ConnectionState, Phase};

/// Reason of a bucket that cannot be refilled because its broker is away.
pub(super) const BROKER_UNAVAILABLE: &str = "BrokerUnavailable";

/// The status to write. `state` is what the engine told last about the bucket, `connection` what it told about the
/// broker; what neither of them says stays as it was `written`.
pub(super) fn compose(
    result: &ReconcileResult,
    state: Option<&BucketState>,
    connection: Option<&ConnectionState>,
    written: &TokenBucketStatus,
    now: DateTime<Utc>,
) -> TokenBucketStatus {
    let suspended = matches!(result.decision, Decision::InForce { suspend: true, .. });
    let generation = result.generation;
    let connection = connection.map(|state| public::connection(state, result.decision.whose()));
    let connection = connection.as_ref();
    let status = TokenBucketStatus {
        observed_generation: Some(generation),
        conditions: conditions(
            &written.conditions,
            &phase(result, state, connection),
            suspended,
            connection,
            generation,
            now,
        ),
        queue_name: result.queue.clone(),
        next_refill_time: None,
        ..written.clone()
    };
    match (&result.decision, state) {
        (Decision::InForce { .. }, Some(state)) => with_state(status, state),
        (Decision::InForce { .. }, None) => TokenBucketStatus {
            next_refill_time: written.next_refill_time.clone(),
            ..status
        },
        (Decision::Refused(_), _) => status,
    }
}

fn with_state(status: TokenBucketStatus, state: &BucketState) -> TokenBucketStatus {
    let BucketState {
        revision: _,
        phase,
        observed,
        limit,
        last_refill,
        next_refill,
        issued,
        refill_request,
    } = state;
    let stalled = matches!(phase, Phase::Stalled { .. });
    // Of an engine that has not reached the broker yet, nothing is known but what was known before.
    let seen = observed.is_some() || last_refill.is_some();
    TokenBucketStatus {
        available_tokens: observed
            .map(|observed| tokens(observed.tokens))
            .or(status.available_tokens),
        observed_at: observed
            .map(|observed| to_time(observed.at))
            .or(status.observed_at),
        maximum: limit.map(tokens).or(status.maximum),
        last_refill: last_refill.as_ref().map(refill).or(status.last_refill),
        next_refill_time: next_refill.filter(|_| !stalled).map(to_time),
        tokens_issued: if seen {
            Some(*issued)
        } else {
            status.tokens_issued
        },
        last_handled_refill_request: refill_request
            .as_deref()
            .map(str::to_owned)
            .or(status.last_handled_refill_request),
        observed_generation: status.observed_generation,
        conditions: status.conditions,
        queue_name: status.queue_name,
    }
}

/// The engine's word counts, as far as there is one about the resource as it is now.
fn phase(
    result: &ReconcileResult,
    state: Option<&BucketState>,
    connection: Option<&ConnectionState>,
) -> Phase {
    if let Decision::Refused(phase) = &result.decision {
        return Phase::clone(phase);
    }
    match connection {
        None => return Phase::progressing("Connecting", "connecting to the broker"),
        Some(ConnectionState::Down { message, .. }) => {
            return Phase::progressing(BROKER_UNAVAILABLE, message);
        }
        Some(ConnectionState::Up) => {}
    }
    if let Decision::InForce { moving: true, .. } = result.decision {
        return Phase::progressing(
            "Moving",
            "taking the tokens out of the broker where the bucket was before",
        );
    }
    // A state of an earlier generation says nothing about the spec as it is now.
    match state.filter(|state| i64::try_from(state.revision) == Ok(result.generation)) {
        Some(state) => public::phase(&state.phase, result.decision.whose()),
        None => Phase::progressing(
            "Applying",
            "making the bucket at the broker as the spec says",
        ),
    }
}

impl Decision {
    /// Whose broker the bucket is at.
    pub(super) fn whose(&self) -> Whose<'_> {
        match self {
            Self::InForce { secret, vhost, .. } => Whose {
                secret: secret.as_deref(),
                vhost: vhost.as_deref(),
            },
            Self::Refused(_) => Whose::OPERATOR,
        }
    }
}

fn refill(refill: &Refill) -> LastRefill {
    let Refill {
        scheduled_time,
        completed_time,
        added,
        trigger,
    } = refill;
    LastRefill {
        scheduled_time: scheduled_time.map(to_time),
        completed_time: to_time(*completed_time),
        added: tokens(*added),
        trigger: *trigger,
    }
}

fn tokens(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{at, down, in_force, refused, shown, state};
    use super::*;
    use api::from_time;

    fn status(
        result: &ReconcileResult,
        state: Option<&BucketState>,
        connection: Option<&ConnectionState>,
    ) -> TokenBucketStatus {
        compose(
            result,
            state,
            connection,
            &TokenBucketStatus::default(),
            at(100),
        )
    }

    #[test]
    fn a_bucket_in_force_is_ready_and_shows_what_was_seen() {
        let status = status(
            &in_force(3),
            Some(&state(3, 412)),
            Some(&ConnectionState::Up),
        );
        assert_eq!(shown(&status), "Ready=True Refilling BrokerConnected=True");
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(status.queue_name.as_deref(), Some("token_bucket_a"));
        assert_eq!(
            (
                status.available_tokens,
                status.maximum,
                status.tokens_issued
            ),
            (Some(412), Some(1000), Some(7))
        );
        assert_eq!(
            status.observed_at.map(|time| from_time(&time)),
            Some(at(10))
        );
        assert_eq!(
            status.next_refill_time.map(|time| from_time(&time)),
            Some(at(60))
        );
    }

    #[test]
    fn a_state_of_an_earlier_generation_does_not_make_the_new_one_ready() {
        let status = status(
            &in_force(4),
            Some(&state(3, 412)),
            Some(&ConnectionState::Up),
        );
        assert_eq!(
            shown(&status),
            "Reconciling=True Applying BrokerConnected=True"
        );
        assert_eq!(
            status.available_tokens,
            Some(412),
            "the count is still what was seen"
        );
    }

    #[test]
    fn a_broker_that_is_away_outweighs_what_was_known() {
        let status = status(&in_force(3), Some(&state(3, 412)), Some(&down()));
        assert_eq!(
            shown(&status),
            "Reconciling=True BrokerUnavailable BrokerConnected=False"
        );
        assert_eq!(status.available_tokens, Some(412));
    }

    #[test]
    fn after_a_restart_what_was_seen_before_stays_until_something_newer_is() {
        let before = status(
            &in_force(3),
            Some(&state(3, 412)),
            Some(&ConnectionState::Up),
        );
        let after = compose(&in_force(3), None, None, &before, at(200));
        assert_eq!(
            shown(&after),
            "Reconciling=True Connecting BrokerConnected=Unknown"
        );
        assert_eq!(after.available_tokens, before.available_tokens);
        assert_eq!(after.next_refill_time, before.next_refill_time);
        let unseen = BucketState {
            observed: None,
            last_refill: None,
            limit: None,
            issued: 0,
            ..state(3, 0)
        };
        let after = compose(
            &in_force(3),
            Some(&unseen),
            Some(&ConnectionState::Up),
            &before,
            at(200),
        );
        assert_eq!(
            (after.available_tokens, after.tokens_issued),
            (Some(412), Some(7))
        );
    }

    #[test]
    fn a_refused_resource_says_why_and_expects_no_refill() {
        let before = status(
            &in_force(3),
            Some(&state(3, 412)),
            Some(&ConnectionState::Up),
        );
        let after = compose(&refused(4, "InvalidSchedule"), None, None, &before, at(200));
        assert_eq!(
            shown(&after),
            "Stalled=True InvalidSchedule BrokerConnected=Unknown"
        );
        assert_eq!(
            (after.next_refill_time, after.available_tokens),
            (None, Some(412))
        );
    }

    #[test]
    fn a_bucket_that_the_broker_stalls_expects_no_refill() {
        let phase = Phase::Stalled {
            reason: "QueueInUse",
            message: "stop it".into(),
        };
        let stalled = BucketState {
            phase,
            ..state(3, 1)
        };
        let status = status(&in_force(3), Some(&stalled), Some(&ConnectionState::Up));
        assert_eq!(
            shown(&status),
            "Stalled=True QueueInUse BrokerConnected=True"
        );
        assert_eq!(status.next_refill_time, None);
    }

    #[test]
    fn a_suspended_bucket_is_ready() {
        let mut result = in_force(3);
        if let Decision::InForce { suspend, .. } = &mut result.decision {
            *suspend = true;
        }
        let status = status(&result, Some(&state(3, 1)), Some(&ConnectionState::Up));
        assert_eq!(shown(&status), "Ready=True Suspended BrokerConnected=True");
    }
}
