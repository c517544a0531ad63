//! Passes, states and statuses for the tests of this module.

use chrono::{DateTime, Utc};

use super::report::{Decision, ReconcileResult};
use amqp::Endpoint;
use api::TokenBucketStatus;
use bucket::BucketId;
use engine::{BucketState, ConnectionState, Observed, Phase};

pub(super) fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

pub(super) fn id() -> BucketId {
    BucketId::new("shop", "a")
}

pub(super) fn broker() -> Endpoint {
    Endpoint::parse("amqp://h").unwrap()
}

pub(super) fn result(generation: i64, decision: Decision) -> ReconcileResult {
    let queue = Some("token_bucket_a".to_owned());
    ReconcileResult {
        id: id(),
        uid: "u1".into(),
        generation,
        alert_when_empty: false,
        queue,
        published: None,
        decision,
    }
}

pub(super) fn in_force(generation: i64) -> ReconcileResult {
    result(
        generation,
        Decision::InForce {
            broker: broker(),
            secret: None,
            vhost: None,
            suspend: false,
            moving: false,
        },
    )
}

pub(super) fn refused(generation: i64, reason: &'static str) -> ReconcileResult {
    result(
        generation,
        Decision::Refused(Phase::stalled(reason, "mend it").into()),
    )
}

pub(super) fn state(revision: u64, tokens: u64) -> BucketState {
    BucketState {
        revision,
        phase: Phase::Ready,
        observed: Some(Observed { tokens, at: at(10) }),
        limit: Some(1000),
        last_refill: None,
        next_refill: Some(at(60)),
        issued: 7,
        refill_request: None,
    }
}

pub(super) fn down() -> ConnectionState {
    ConnectionState::Down {
        reason: "BrokerUnreachable",
        message: "connection refused".into(),
    }
}

/// The one of Ready, Reconciling and Stalled that is true, with its reason, and what the broker is.
pub(super) fn shown(status: &TokenBucketStatus) -> String {
    let conditions = &status.conditions;
    let holds = conditions
        .iter()
        .find(|c| c.status == "True" && c.type_ != "BrokerConnected")
        .unwrap();
    let broker = conditions
        .iter()
        .find(|c| c.type_ == "BrokerConnected")
        .unwrap();
    format!(
        "{}=True {} BrokerConnected={}",
        holds.type_, holds.reason, broker.status
    )
}
