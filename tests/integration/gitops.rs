//! How Argo CD judges TokenBuckets: its health script, run on resources of every state.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Operator, RARELY, Testbed, condition, stage, tool};

/// A value as an expression of Lua.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Array(items) => {
            format!(
                "{{{}}}",
                items.iter().map(lua).collect::<Vec<_>>().join(", ")
            )
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("[{name:?}] = {}", lua(value));
            format!(
                "{{{}}}",
                fields.iter().map(field).collect::<Vec<_>>().join(", ")
            )
        }
        // JSON's escapes of what is in statuses are those of Lua.
        scalar => scalar.to_string(),
    }
}

/// What Argo CD says of a resource: its health and the message.
fn health(object: &Value) -> (String, String) {
    tool("lua");
    let file = format!("{}/deploy/argocd/health.yaml", env!("CARGO_MANIFEST_DIR"));
    let patch: Value =
        serde_yaml::from_str(&fs::read_to_string(file).expect("the patch")).expect("YAML");
    let script = &patch["data"]["resource.customizations.health.tokenbucket.dev_TokenBucket"];
    let program = format!(
        "local function judge(obj) {} end\nlocal health = judge({})\nprint(health.status)\nprint(health.message)",
        script.as_str().expect("the script"),
        lua(object)
    );
    let output = Command::new("lua5.1").args(["-e", &program]).output();
    let output = output.expect("Lua runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{program}");
    let said = String::from_utf8(output.stdout).expect("text");
    let (status, message) = said.split_once('\n').expect("two lines");
    (status.to_owned(), message.trim_end().to_owned())
}

fn object(testbed: &Testbed, namespace: &str, name: &str) -> Value {
    let shown = testbed.kubectl_ok(&["get", "tb", name, "-n", namespace, "-o", "json"]);
    serde_json::from_str(&shown).expect("JSON")
}

#[tokio::test]
async fn argo_cd_tells_every_state_of_a_bucket() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let named = |name: &str| object(testbed, namespace.name(), name);
    let spec = |extra: Value| {
        let mut spec = json!({"schedule": RARELY, "amount": 1, "maximum": 5});
        spec.as_object_mut()
            .expect("fields")
            .extend(extra.as_object().expect("fields").clone());
        spec
    };
    buckets.create("good", spec(json!({}))).await;
    let (status, message) = health(&named("good"));
    assert_eq!(status, "Progressing");
    assert!(message.contains("take note"), "{message}");

    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets.ready("good").await;
    assert_eq!(health(&named("good")).0, "Healthy");

    buckets
        .create("bad", spec(json!({"timeZone": "Mars/Olympus"})))
        .await;
    let stalled = |status: &_| condition(status, "Stalled") == "True";
    buckets.until("bad", "it to be stalled", stalled).await;
    let (status, message) = health(&named("bad"));
    assert_eq!(status, "Degraded");
    assert!(message.contains("Mars/Olympus"), "{message}");

    let missing = json!({"connection": {"secretRef": {"name": "later"}}});
    buckets.create("waiting", spec(missing)).await;
    let reconciling = |status: &_| condition(status, "Reconciling") == "True";
    buckets.until("waiting", "it to wait", reconciling).await;
    let (status, message) = health(&named("waiting"));
    assert_eq!(status, "Progressing");
    assert!(message.contains("later"), "{message}");

    // A status that is about an earlier generation says nothing about this one.
    let mut edited = named("good");
    edited["metadata"]["generation"] = json!(99);
    assert_eq!(health(&edited).0, "Progressing");
    let mut deleted = named("good");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(
        health(&deleted),
        (
            "Progressing".to_owned(),
            "Its queues are being deleted".to_owned()
        )
    );
}
