//! A tenant of the cluster, with an account of its own and the rights that the chart gives to whoever may edit a namespace,
//! tries to harm another tenant's bucket.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{
    Account, Accountant, Buckets, Helm, Namespace, Pace, Pod, RARELY, SOON, Testbed, chart,
    condition, eventually, reason,
};

/// Where the operator is.
const OPERATORS: &str = "ops";

/// Who tries.
struct Tenant<'t> {
    namespace: &'t Namespace<'t>,
    testbed: &'t Testbed,
    kubeconfig: PathBuf,
    folder: TempDir,
}

impl<'t> Tenant<'t> {
    fn of(testbed: &'t Testbed, namespace: &'t Namespace<'t>) -> Self {
        let token = testbed.account(namespace.name(), "tenant");
        let account = format!("--serviceaccount={}:tenant", namespace.name());
        let role = ["create", "rolebinding", "tenant", "--clusterrole=edit"];
        testbed.kubectl_ok(&[&role[..], &[&account, "-n", namespace.name()]].concat());
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            namespace,
            testbed,
            kubeconfig: testbed.kubeconfig_of(&token, namespace.name(), folder.path()),
            folder,
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        self.testbed.kubectl_as(&self.kubeconfig, arguments)
    }

    fn may_not(&self, arguments: &[&str]) {
        let output = self.kubectl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} succeeds");
        assert!(errors.contains("orbidden"), "{arguments:?}: {errors}");
    }

    /// Whether the API server takes it.
    fn creates(&self, manifest: &Value) -> bool {
        let file = self.folder.path().join("manifest.json");
        fs::write(&file, manifest.to_string()).expect("a file");
        let file = file.to_str().expect("text");
        let output = self.kubectl(&["create", "-n", self.namespace.name(), "-f", file]);
        output.status.success()
    }
}

/// What is tried, and the reason with which it is refused by the operator, or `Ready`; None: the API server refuses it.
fn attempts() -> Vec<(Value, Value, Option<&'static str>)> {
    let named = |name: &str| json!({"name": name});
    let refilled_by = |queue: &str| json!({"refillQueue": queue});
    let asking =
        |value: &str| json!({"annotations": {"tokenbucket.dev/refill-requested-at": value}});
    let labels: Value = (0..200)
        .map(|it| (format!("tenant/l{it}"), json!("x")))
        .collect();
    vec![
        (json!({}), named("victim"), Some("NameConflict")),
        (
            json!({"creationTimestamp": "2001-01-01T00:00:00Z"}),
            named("victim"),
            Some("NameConflict"),
        ),
        (json!({}), named("victim.ledger"), None),
        (json!({}), named("vic\u{1b}[2Jtim"), None),
        (
            json!({}),
            refilled_by("orders"),
            Some("RefillQueueNotAllowed"),
        ),
        (json!({}), refilled_by("token_bucket_victim"), None),
        (
            json!({}),
            refilled_by("token_buckets.refill.rejected"),
            None,
        ),
        (
            json!({}),
            json!({"connection": {"secretRef": {"name": "broker"}}}),
            Some("SecretNotFound"),
        ),
        (
            asking(&"x".repeat(250_000)),
            json!({}),
            Some("InvalidRefillRequest"),
        ),
        (
            asking("a\u{1b}[2J"),
            json!({}),
            Some("InvalidRefillRequest"),
        ),
        (
            json!({"labels": labels, "finalizers": ["tenant/stays"]}),
            json!({}),
            Some("Ready"),
        ),
        (
            json!({}),
            json!({"maximum": 100_000, "initialTokens": 100_000}),
            Some("Ready"),
        ),
        (
            json!({}),
            json!({"schedule": "* * * * * *", "amount": 1_000, "maximum": 1_000}),
            Some("Ready"),
        ),
        (json!({}), json!({"schedule": "* * * * *\n* * * * *"}), None),
    ]
}

#[tokio::test]
async fn a_tenant_with_the_rights_of_the_chart_harms_no_other() {
    let testbed = Testbed::bare();
    let helm = Helm::new(Some(&testbed));
    testbed.kubectl_ok(&["create", "namespace", OPERATORS]);
    let chart = chart();
    let values = "broker.existingSecret.name=broker,rbac.aggregate=true,rbac.secrets.enabled=true";
    let chart = chart.to_str().expect("text");
    helm.ok(&["install", "tbo", chart, "-n", OPERATORS, "--set", values]);
    let crd = "crd/tokenbuckets.tokenbucket.dev";
    testbed.kubectl_ok(&["wait", "--for=condition=Established", crd]);
    let vhost = testbed.vhost().await;
    let uri = vhost.amqp_url();
    let literal = format!("--from-literal=AMQP_URL={uri}");
    let secret = [
        "create", "secret", "generic", "broker", "-n", OPERATORS, &literal,
    ];
    testbed.kubectl_ok(&secret);
    let deployment = [
        "get",
        "deployment",
        "tbo-token-bucket-operator",
        "-n",
        OPERATORS,
        "-o",
        "json",
    ];
    let pod = Pod::of(&testbed, &testbed.kubectl_ok(&deployment));
    let mut operator = pod.run(&[("POD_NAME", "tbo-0")]);
    operator.becomes_leader().await;

    let (victim, other) = (testbed.namespace().await, testbed.namespace().await);
    let buckets = Buckets::of(&testbed, &victim).await;
    let account = Account::open(&buckets, "victim", Pace(1), [1, 100_000], true, json!({})).await;
    let account = Arc::new(account);
    buckets.ready("victim").await;
    let accountant = Accountant::start(&vhost, std::slice::from_ref(&account)).await;

    let tenant = Tenant::of(&testbed, &other);
    eventually(
        "the rights of the chart in the role edit",
        SOON,
        async || {
            let asked = tenant.kubectl(&[
                "auth",
                "can-i",
                "create",
                "tokenbuckets",
                "-n",
                other.name(),
            ]);
            let answer = String::from_utf8_lossy(&asked.stdout).into_owned();
            asked.status.success().then_some(()).ok_or(answer)
        },
    )
    .await;
    let tried = Buckets::of(&testbed, &other).await;
    let home = victim.name();
    tenant.may_not(&["delete", "tb/victim", "-n", home]);
    tenant.may_not(&[
        "annotate",
        "tb/victim",
        "-n",
        home,
        "tokenbucket.dev/refill-requested-at=now",
    ]);
    tenant.may_not(&["get", "secret/broker", "-n", OPERATORS]);
    tenant.may_not(&["get", "lease", "-n", OPERATORS]);
    for (number, (metadata, spec, expected)) in attempts().into_iter().enumerate() {
        let name = format!("attempt{number}");
        let mut manifest = json!({
            "apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket", "metadata": metadata,
            "spec": {"schedule": RARELY, "amount": 1, "maximum": 9},
        });
        manifest["metadata"]["name"] = json!(name);
        let fields = manifest["spec"].as_object_mut().expect("an object");
        fields.extend(spec.as_object().cloned().unwrap_or_default());
        assert_eq!(
            tenant.creates(&manifest),
            expected.is_some(),
            "{metadata} {spec}"
        );
        let Some(expected) = expected else { continue };
        let as_expected = |status: &TokenBucketStatus| match expected {
            "Ready" => condition(status, "Ready") == "True",
            _ => ["Stalled", "Reconciling"]
                .iter()
                .any(|it| reason(status, it) == expected),
        };
        tried.until(&name, expected, as_expected).await;
        let own = other.name();
        let status = [
            "patch",
            "tb",
            &name,
            "-n",
            own,
            "--subresource=status",
            "--type=merge",
            "-p",
            "{}",
        ];
        tenant.may_not(&status);
        let resource = format!("tb/{name}");
        tenant.kubectl(&["delete", &resource, "-n", own, "--wait=false"]);
        let free = r#"{"metadata": {"finalizers": null}}"#;
        if metadata["finalizers"].is_array() {
            tenant.kubectl(&["patch", &resource, "-n", own, "--type=merge", "-p", free]);
        }
    }
    let told = testbed.kubectl_ok(&["get", "tb,events", "-n", other.name(), "-o", "yaml"]);
    let broker = uri
        .split_once('@')
        .and_then(|(_, rest)| rest.split_once('/'));
    let (address, _) = broker.expect("an address");
    assert!(!told.contains(address), "{address} in {told}");

    accountant.stop().await;
    account.check(&buckets, &vhost).await;
    assert_eq!(operator.ended(), None);
}
