use std::sync::Arc;

use chrono::DateTime;

use super::*;
use bucket::Refill;
use engine::{BucketState, Observed, Phase};

fn id() -> BucketId {
    BucketId::new("shop", "api")
}

fn reading() -> Reading {
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
    Reading::Known(Arc::new(BucketState {
        revision: 1,
        phase: Phase::Ready,
        observed: Some(Observed {
            tokens: 3,
            at: at(1_750_000_000),
        }),
        limit: Some(25),
        last_refill: Some(Refill {
            scheduled_time: None,
            completed_time: at(1_700_000_000),
            added: 3,
            trigger: Trigger::Manual,
        }),
        next_refill: Some(at(1_800_000_000)),
        issued: 70,
        refill_request: None,
    }))
}

/// With a sample of everything.
fn full() -> Metrics {
    let metrics = Metrics::new(Readings::default(), true);
    metrics.refilled(Trigger::Schedule, 7, Some(Duration::from_millis(7)));
    metrics.refilled(Trigger::Manual, 0, None);
    metrics.dropped("UnknownBucket", false);
    metrics.dropped("Malformed", true);
    metrics.repaired();
    metrics.skipped(MissedRefills::Skip, 9);
    metrics.api_request("PATCH", 200);
    metrics.bucket(&id(), reading());
    metrics.alert_when_empty(&id(), true);
    let stalled = BucketId::new("shop", "bad");
    let phase = Phase::stalled("NameConflict", "mend it").into();
    metrics.bucket(&stalled, Reading::Refused(phase));
    metrics.connection("shop/rabbit-user", true);
    metrics.reconciled(Duration::from_millis(2));
    metrics.reconcile_error("InvalidSchedule");
    metrics.status_write("ok");
    metrics.leading(true);
    metrics
}

#[test]
fn names_follow_the_conventions() {
    let text = full().encode().unwrap();
    for line in [
        r#"tokenbucket_build_info{version=""#,
        r#"tokenbucket_refills_total{trigger="Schedule",result="added"} 1"#,
        r#"tokenbucket_refills_total{trigger="Manual",result="full"} 1"#,
        "tokenbucket_tokens_added_total 7",
        "tokenbucket_queue_repairs_total 1",
        r#"tokenbucket_ticks_left_out_total{policy="Skip"} 9"#,
        r#"tokenbucket_api_requests_total{method="PATCH",code="200"} 1"#,
        r#"tokenbucket_tokens_available{namespace="shop",name="api"} 3"#,
        r#"tokenbucket_tokens_maximum{namespace="shop",name="api"} 25"#,
        r#"tokenbucket_tokens_issued_total{namespace="shop",name="api"} 70"#,
        r#"tokenbucket_next_refill_timestamp_seconds{namespace="shop",name="api"} 1800000000"#,
        r#"tokenbucket_last_refill_timestamp_seconds{namespace="shop",name="api"} 1700000000"#,
        r#"tokenbucket_bucket_ready{namespace="shop",name="api"} 1"#,
        r#"tokenbucket_bucket_alert_when_empty{namespace="shop",name="api"} 1"#,
        r#"tokenbucket_bucket_stalled{namespace="shop",name="bad",reason="NameConflict"} 1"#,
        r#"tokenbucket_requests_dropped_total{reason="UnknownBucket"} 1"#,
        r#"tokenbucket_requests_parked_total{reason="Malformed"} 1"#,
        r#"tokenbucket_refill_lag_seconds_bucket{le="0.01"} 1"#,
        r#"tokenbucket_reconcile_duration_seconds_bucket{le="0.005"} 1"#,
        r#"tokenbucket_broker_connected{broker="shop/rabbit-user"} 1"#,
        r#"tokenbucket_broker_connections_total{broker="shop/rabbit-user"} 1"#,
        r#"tokenbucket_reconcile_errors_total{reason="InvalidSchedule"} 1"#,
        r#"tokenbucket_status_writes_total{result="ok"} 1"#,
        "tokenbucket_leader 1",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_start_time_seconds ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// The metrics that a text of PromQL names, ours and those of the process.
fn named(text: &str) -> Vec<&str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| word.starts_with("tokenbucket_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn alerts_and_dashboard_use_metrics_that_exist() {
    let text = full().encode().unwrap();
    let chart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/charts/token-bucket-operator/files"
    );
    for file in ["alerts.yaml", "dashboard.json"] {
        let used = std::fs::read_to_string(format!("{chart}/{file}")).unwrap();
        let used = named(&used);
        assert!(used.len() > 5, "{file} names {used:?}");
        for name in used {
            assert!(
                text.contains(&format!("\n{name} ")) || text.contains(&format!("\n{name}{{")),
                "{file}: {name}"
            );
        }
    }
}

#[test]
fn a_replica_that_leads_no_more_knows_no_bucket_and_no_broker() {
    let metrics = full();
    metrics.leading(false);
    let text = metrics.encode().unwrap();
    assert!(!text.contains("shop"), "{text}");
}

#[test]
fn series_vanish_with_their_bucket() {
    let metrics = Metrics::new(Readings::default(), true);
    metrics.bucket(&id(), reading());
    metrics.forget(&id());
    assert!(!metrics.encode().unwrap().contains("shop"));
}

#[test]
fn series_of_each_bucket_can_be_switched_off() {
    let metrics = Metrics::new(Readings::default(), false);
    metrics.bucket(&id(), reading());
    let text = metrics.encode().unwrap();
    assert!(!text.contains("shop") && text.contains("tokenbucket_leader"));
}
