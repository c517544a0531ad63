//! What the API server lets through, and what it says about the rest: tables of manifests in `admission/`.

mod table;

use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use token_bucket_operator::{
    api::{TokenBucket, TokenBucketStatus, conditions},
    engine::{ConnectionState, Phase},
    schedule::Schedule,
};

use self::table::{
    Case, Change, answer, assert_none, create, manifest, misjudged, no_change, table,
};
use crate::support::{Namespace, testbed};

async fn buckets(namespace: &Namespace<'_>) -> Api<DynamicObject> {
    let client = testbed().await.client().await;
    Api::namespaced_with(
        client,
        namespace.name(),
        &ApiResource::erase::<TokenBucket>(&()),
    )
}

#[tokio::test]
async fn bad_manifests_are_refused_with_what_to_write_instead() {
    let namespace = testbed().await.namespace().await;
    let buckets = buckets(&namespace).await;
    let mut wrong = Vec::new();
    for Case {
        case,
        metadata,
        spec,
        field,
        says,
    } in table::<Case>(include_str!("admission/refused.yaml"))
    {
        let says = says.expect("a refusal says what to write instead");
        let answer = create(&buckets, &manifest(&metadata, &spec)).await;
        wrong.extend(
            misjudged(&answer, field.as_deref(), Some(&says)).map(|what| format!("{case}: {what}")),
        );
    }
    assert_none(wrong);
}

#[tokio::test]
async fn good_manifests_are_accepted_and_read_back_as_buckets() {
    let namespace = testbed().await.namespace().await;
    let buckets = buckets(&namespace).await;
    let mut wrong = Vec::new();
    for Case {
        case,
        metadata,
        spec,
        ..
    } in table::<Case>(include_str!("admission/accepted.yaml"))
    {
        let answer = create(&buckets, &manifest(&metadata, &spec)).await;
        wrong.extend(misjudged(&answer, None, None).map(|what| format!("{case}: {what}")));
        if let Ok(object) = answer {
            let bucket = object.try_parse::<TokenBucket>();
            wrong.extend(
                bucket
                    .err()
                    .map(|error| format!("{case}: unreadable: {error}")),
            );
        }
    }
    assert_none(wrong);
}

#[tokio::test]
async fn the_examples_are_accepted() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let output = testbed.kubectl(&[
        "apply",
        "--dry-run=server",
        "--namespace",
        namespace.name(),
        "-f",
        concat!(env!("CARGO_MANIFEST_DIR"), "/examples"),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "kubectl warns");
}

#[tokio::test]
async fn the_name_and_the_queue_type_cannot_change_and_all_else_can() {
    let namespace = testbed().await.namespace().await;
    let buckets = buckets(&namespace).await;
    let mut wrong = Vec::new();
    for Change {
        case,
        before,
        after,
        field,
        says,
    } in table::<Change>(include_str!("admission/changes.yaml"))
    {
        let created = buckets
            .create(&PostParams::default(), &manifest(&Value::Null, &before))
            .await
            .unwrap_or_else(|error| panic!("{case}: before: {error}"));
        let mut changed = manifest(&Value::Null, &after);
        changed.metadata.resource_version = created.resource_version();
        let answer = answer(
            buckets
                .replace(&created.name_any(), &PostParams::default(), &changed)
                .await,
        );
        wrong.extend(
            misjudged(&answer, field.as_deref(), says.as_deref())
                .map(|what| format!("{case}: {what}")),
        );
        buckets
            .delete(&created.name_any(), &DeleteParams::default())
            .await
            .expect("it exists");
    }
    assert_none(wrong);
}

#[tokio::test]
async fn what_the_operator_reads_has_the_defaults_of_the_types() {
    let namespace = testbed().await.namespace().await;
    let buckets = buckets(&namespace).await;
    let sent = manifest(&Value::Null, &no_change());
    let stored = create(&buckets, &sent)
        .await
        .expect("the base manifest is good");
    let (sent, stored): (TokenBucket, TokenBucket) =
        (sent.try_parse().unwrap(), stored.try_parse().unwrap());
    assert_eq!(stored.spec, sent.spec);
}

#[tokio::test]
async fn a_full_status_is_kept_and_shown() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets = buckets(&namespace).await;
    buckets
        .create(
            &PostParams::default(),
            &manifest(&Value::Null, &no_change()),
        )
        .await
        .expect("the base manifest is good");
    let status = json!({
        "observedGeneration": 1,
        "conditions": conditions::conditions(
            &[], &Phase::Ready, false, Some(&ConnectionState::Up), 1, chrono::Utc::now()),
        "queueName": "token_bucket_base_one",
        "availableTokens": 42,
        "observedAt": "2026-11-24T10:00:07Z",
        "maximum": 100,
        "lastRefill": {
            "scheduledTime": "2026-11-24T10:00:00Z", "completedTime": "2026-11-24T10:00:01Z",
            "added": 10, "trigger": "Schedule",
        },
        "nextRefillTime": "2026-11-24T11:00:00Z",
        "tokensIssued": 9_000_000_000_u64,
        "lastHandledRefillRequest": "one",
    });
    // Read as the operator's type and written by it, so that neither side may lose a field.
    let typed: TokenBucketStatus = serde_json::from_value(status.clone()).unwrap();
    let patch = Patch::Merge(json!({"status": typed}));
    buckets
        .patch_status("base-one", &PatchParams::default(), &patch)
        .await
        .expect("a good status");
    assert_eq!(
        buckets.get_status("base-one").await.unwrap().data["status"],
        status
    );

    let shown = |format| {
        let arguments = ["get", "tb", "--namespace", namespace.name(), "-o", format];
        let output = String::from_utf8(testbed.kubectl(&arguments).stdout).unwrap();
        let columns = |line: &str| -> Vec<String> {
            line.split("   ")
                .map(|column| column.trim().to_owned())
                .filter(|column| !column.is_empty())
                .collect()
        };
        output.lines().map(columns).collect::<Vec<_>>()
    };
    let wide = shown("wide");
    assert_eq!(
        wide[0],
        [
            "NAME",
            "AVAILABLE",
            "MAXIMUM",
            "SCHEDULE",
            "NEXT REFILL",
            "READY",
            "QUEUE",
            "LAST REFILL",
            "REASON",
            "AGE"
        ]
    );
    assert_eq!(
        wide[1][..7],
        [
            "base-one",
            "42",
            "100",
            "0 * * * *",
            "2026-11-24T11:00:00Z",
            "True",
            "token_bucket_base_one"
        ]
    );
    assert_eq!(wide[1][8], "Refilling");
    assert_eq!(
        shown("")[0],
        [
            "NAME",
            "AVAILABLE",
            "MAXIMUM",
            "SCHEDULE",
            "NEXT REFILL",
            "READY",
            "AGE"
        ]
    );
}

#[tokio::test]
async fn conditions_are_merged_by_their_type() {
    let namespace = testbed().await.namespace().await;
    let buckets = buckets(&namespace).await;
    buckets
        .create(
            &PostParams::default(),
            &manifest(&Value::Null, &no_change()),
        )
        .await
        .expect("the base manifest is good");
    for (owner, type_) in [("one", "Ready"), ("two", "Checked")] {
        let status = json!({
            "apiVersion": "tokenbucket.dev/v1alpha1",
            "kind": "TokenBucket",
            "status": {"conditions": [{
                "type": type_, "status": "True", "reason": "Test", "message": "",
                "lastTransitionTime": "2026-11-24T10:00:07Z",
            }]},
        });
        let apply = PatchParams::apply(owner);
        buckets
            .patch_status("base-one", &apply, &Patch::Apply(&status))
            .await
            .expect("a good status");
    }
    let stored = buckets
        .get("base-one")
        .await
        .unwrap()
        .try_parse::<TokenBucket>()
        .unwrap();
    let types: Vec<_> = stored
        .status
        .unwrap_or_default()
        .conditions
        .into_iter()
        .map(|c| c.type_)
        .collect();
    assert_eq!(types, ["Ready", "Checked"]);
}

#[tokio::test]
async fn the_api_server_and_the_operator_agree_about_schedules() {
    // What the rule cannot see; the operator reports it.
    let backwards = "5-1";
    let parts = [
        "*",
        "?",
        "0",
        "00",
        "1",
        "007",
        "7",
        "12",
        "13",
        "24",
        "31",
        "32",
        "59",
        "60",
        "1-5",
        backwards,
        "1-5/2",
        "*/5",
        "*/0",
        "*/99",
        "1/2",
        "1,3-5,*/2",
        "1,,2",
        ",",
        "1-",
        "-1",
        "1-2-3",
        "1/2/3",
        "*-5",
        "**",
        "JAN",
        "feb-Mar",
        "MON",
        "sun-SAT",
        "MON-7",
        "MONDAY",
        "+1",
        "1+",
        "++1",
        "+",
        "L",
        "1.5",
        "0x1",
        "#",
        "é",
    ];
    let mut schedules: Vec<String> = Vec::new();
    for position in 0..6 {
        for part in parts {
            let mut fields = ["0", "0", "0", "*", "*", "*"];
            fields[position] = part;
            schedules.push(fields.join(" "));
            if position > 0 {
                schedules.push(fields[1..].join(" "));
            }
        }
    }
    for duration in [
        "90s", "1h30m", "+2m", ".5m", "1.m", "1000ms", "1d", "1", "", "-1s", "1h 30m", "1H", ".s",
        "h", "1..5h",
    ] {
        schedules.push(format!("@every {duration}"));
    }
    schedules.extend(
        [
            "@hourly",
            "@Hourly",
            " @daily ",
            "@reboot",
            "@",
            "@every",
            "@every  5s",
        ]
        .map(str::to_owned),
    );

    let namespace = testbed().await.namespace().await;
    let buckets = buckets(&namespace).await;
    let mut wrong = Vec::new();
    for schedule in schedules {
        let answer = create(
            &buckets,
            &manifest(&Value::Null, &json!({"schedule": schedule})),
        )
        .await;
        match (answer, schedule.parse::<Schedule>()) {
            (Ok(_), Err(error)) if !schedule.split(' ').any(|field| field == backwards) => {
                wrong.push(format!(
                    "{schedule:?}: only the operator refuses it: {error}"
                ));
            }
            (Err(status), Ok(_)) => {
                wrong.push(format!(
                    "{schedule:?}: only the API server refuses it: {}",
                    status.message
                ));
            }
            _ => {}
        }
    }
    assert_none(wrong);
}
