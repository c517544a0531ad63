//! Which Secrets the operator uses for `spec.connection`.

use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Operator, RARELY, condition, reason, stage};

#[tokio::test]
async fn a_secret_without_the_label_is_not_used_until_it_has_it() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let label = ["--require-secret-label=example.com/broker=allowed"];
    let _operator = Operator::start_at(testbed, &namespace, None, &label).await;
    let (name, uri) = (
        namespace.name(),
        format!("--from-literal=uri={}", vhost.amqp_url()),
    );
    testbed.kubectl_ok(&["create", "secret", "generic", "rabbit", "-n", name, &uri]);
    let set = |value: &str| {
        let label = format!("example.com/broker={value}");
        let overwrite = "--overwrite";
        testbed.kubectl_ok(&["label", "secret", "rabbit", "-n", name, &label, overwrite]);
    };
    set("perhaps");
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1,
                      "connection": {"secretRef": {"name": "rabbit"}}});
    buckets.create("api", spec).await;
    let refused = |status: &TokenBucketStatus| reason(status, "Stalled") == "SecretNotAllowed";
    let status = buckets
        .until("api", "its Secret to be refused", refused)
        .await;
    let said = serde_json::to_string(&status).expect("a status");
    let advice = "kubectl label secret rabbit example.com/broker=allowed";
    assert!(said.contains(advice), "{said}");
    set("allowed");
    buckets.ready("api").await;
    let stalled = |status: &TokenBucketStatus| condition(status, "Stalled") == "False";
    buckets.until("api", "no trace of it", stalled).await;
}
