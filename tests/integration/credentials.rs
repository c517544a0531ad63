//! Credentials that change while the operator runs.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{
    Account, Accountant, Operator, Pace, RARELY, SOON, condition, eventually, reason, stage,
};

const USABLE: &str = "tokenbucket_broker_file_usable";

/// A Secret as the kubelet mounts it: all of it is replaced at once, by a symbolic link.
struct Mounted {
    folder: TempDir,
    versions: Cell<u32>,
}

impl Mounted {
    fn nothing() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        symlink("..data/uri", folder.path().join("uri")).expect("a link");
        let versions = Cell::default();
        Self { folder, versions }
    }

    fn of(content: &str) -> Self {
        let mounted = Self::nothing();
        mounted.put(content);
        mounted
    }

    fn put(&self, content: &str) {
        self.versions.set(self.versions.get() + 1);
        let (version, folder) = (format!("..{}", self.versions.get()), self.folder.path());
        fs::create_dir(folder.join(&version)).expect("a folder");
        fs::write(folder.join(&version).join("uri"), content).expect("a file");
        symlink(&version, folder.join("..data_tmp")).expect("a link");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a link");
    }

    fn flag(&self) -> String {
        let path = self.folder.path().join("uri");
        format!("--amqp-url-file={}", path.display())
    }
}

async fn becomes(operator: &Operator, series: &str, value: f64) {
    eventually(series, SOON, async || {
        match operator.metric(series).await? {
            Some(now) if now == value => Ok(()),
            now => Err(format!("{now:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn new_credentials_in_the_file_are_used_without_a_restart_and_cost_no_tick() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let file = Mounted::of(&vhost.amqp_url());
    let mut operator = Operator::start_at(testbed, &namespace, None, &[&file.flag()]).await;
    let limits = [3, 1_000_000];
    let account = Account::open(&buckets, "x", Pace(1), limits, true, json!({})).await;
    let account = Arc::new(account);
    let others: Vec<_> = (0..20).map(|number| format!("other-{number}")).collect();
    for name in &others {
        let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 2});
        buckets.create(name, spec).await;
    }
    for name in others.iter().map(String::as_str).chain(["x"]) {
        buckets.ready(name).await;
    }
    let accountant = Accountant::start(&vhost, std::slice::from_ref(&account)).await;
    vhost.operator_connects_as(&vhost.amqp_url()).await;

    let url = vhost.amqp_url_of_another_user().await;
    file.put(&url);
    vhost.operator_connects_as(&url).await;
    for name in &others {
        // Each of them is worked on, though nothing is due, and has got nothing twice.
        buckets.request_refill(name, "now").await;
        let queue = format!("token_bucket_{}", name.replace('-', "_"));
        vhost.depth_becomes(&queue, 3).await;
    }
    accountant.stop().await;
    account.check(&buckets, &vhost).await;
    // Its series have never ended, and nobody was told that it was away.
    let connections = r#"tokenbucket_broker_connections_total{broker="default"}"#;
    assert_eq!(operator.metric(connections).await, Ok(Some(2.0)));
    let events = testbed.kubectl_ok(&["get", "events", "-n", namespace.name(), "-o", "yaml"]);
    assert!(!events.contains("BrokerUnavailable"), "{events}");
    assert_eq!(operator.ended(), None);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let file = Mounted::of(&vhost.amqp_url());
    let operator = Operator::start_at(testbed, &namespace, None, &[&file.flag()]).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    becomes(&operator, USABLE, 1.0).await;

    file.put("s3cret");
    becomes(&operator, USABLE, 0.0).await;
    operator.logs_have("has to begin with amqp://").await;
    buckets.request_refill("x", "one").await;
    vhost.depth_becomes("token_bucket_x", 1).await;
    vhost.operator_connects_as(&vhost.amqp_url()).await;

    let url = vhost.amqp_url_of_another_user().await;
    file.put(&url);
    becomes(&operator, USABLE, 1.0).await;
    vhost.operator_connects_as(&url).await;
    assert!(!operator.logs().contains("s3cret"), "{}", operator.logs());
}

#[tokio::test]
async fn a_file_that_is_optional_may_come_later() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let file = Mounted::nothing();
    let flags = [&*file.flag(), "--amqp-url-file-optional"];
    let _operator = Operator::start_at(testbed, &namespace, None, &flags).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9});
    buckets.create("x", spec).await;
    let lacking = |status: &TokenBucketStatus| reason(status, "Stalled") == "NoBroker";
    buckets.until("x", "the lack of a broker", lacking).await;
    file.put(&vhost.amqp_url());
    buckets.ready("x").await;
    let stalled = |status: &TokenBucketStatus| condition(status, "Stalled") == "False";
    buckets.until("x", "no trace of it", stalled).await;
}

/// Passes over TokenBuckets, and requests that read something, until now.
async fn passes_and_reads(operator: &Operator) -> Result<[f64; 2], String> {
    let passes = "tokenbucket_reconcile_duration_seconds_count";
    let reads = r#"tokenbucket_api_requests_total{method="GET",code="200"}"#;
    let [passes, reads] = [
        operator.metric(passes).await?,
        operator.metric(reads).await?,
    ];
    Ok([passes.unwrap_or_default(), reads.unwrap_or_default()])
}

/// Waits until so many more requests have read something; answers how many passes there were until then.
async fn passes_after_reads(operator: &Operator, more: f64) -> f64 {
    let [_, before] = passes_and_reads(operator).await.expect("metrics");
    eventually("looks at Secrets", SOON, async || {
        match passes_and_reads(operator).await? {
            [passes, reads] if reads >= before + more => Ok(passes),
            counts => Err(format!("{counts:?}, {before} reads before")),
        }
    })
    .await
}

#[tokio::test]
async fn a_changed_secret_is_used_though_its_old_credentials_still_work() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    namespace.create_secret("rabbit", &vhost.amqp_url()).await;
    let often = ["--secret-reread-interval=200ms"];
    let operator = Operator::start_at(testbed, &namespace, None, &often).await;
    let connection = json!({"secretRef": {"name": "rabbit"}});
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9, "connection": connection});
    for name in ["one", "two"] {
        buckets.create(name, spec.clone()).await;
        buckets.ready(name).await;
    }
    vhost.operator_connects_as(&vhost.amqp_url()).await;
    // A look that finds nothing new leads to nothing.
    let passes = passes_after_reads(&operator, 3.0).await;
    assert_eq!(passes_after_reads(&operator, 10.0).await, passes);

    let url = vhost.amqp_url_of_another_user().await;
    namespace.change_secret("rabbit", &url).await;
    vhost.operator_connects_as(&url).await;
    for name in ["one", "two"] {
        buckets.request_refill(name, "now").await;
        vhost
            .depth_becomes(&format!("token_bucket_{name}"), 1)
            .await;
    }
    let connections = format!(
        r#"tokenbucket_broker_connections_total{{broker="{}/rabbit"}}"#,
        namespace.name()
    );
    assert_eq!(operator.metric(&connections).await, Ok(Some(2.0)));

    // One that is deleted is missed in time, and found when it comes back.
    testbed.kubectl_ok(&["delete", "secret", "rabbit", "-n", namespace.name()]);
    let missed = r#"tokenbucket_reconcile_errors_total{reason="SecretNotFound"}"#;
    eventually("the lack of the Secret", SOON, async || {
        match operator.metric(missed).await? {
            Some(passes) if passes >= 2.0 => Ok(()),
            passes => Err(format!("{passes:?}")),
        }
    })
    .await;
    namespace.create_secret("rabbit", &url).await;
    for name in ["one", "two"] {
        buckets.request_refill(name, "again").await;
        vhost
            .depth_becomes(&format!("token_bucket_{name}"), 2)
            .await;
    }
}

#[tokio::test]
async fn without_a_file_that_can_be_used_the_operator_does_not_start_and_says_which() {
    let file = Mounted::nothing();
    let flag = file.flag();
    let (_, path) = flag.split_once('=').expect("a path");
    let run = |more: &[&str]| {
        let arguments: Vec<_> = ["run", &flag]
            .iter()
            .chain(more)
            .map(|it| (*it).to_owned())
            .collect();
        Operator::start_as("/nowhere".as_ref(), &arguments, [])
    };
    let refused = async |more: &[&str], said: &str| {
        let mut operator = run(more);
        assert!(!operator.end().await.success());
        let logs = operator.logs();
        assert!(logs.contains(said) && !logs.contains("s3cret"), "{logs}");
    };
    refused(&[], &format!("there is no file {path}")).await;
    file.put("amqp://u:s3c/ret@h");
    refused(&[], path).await;
    let both = "--amqp-url=amqp://u:s3cret@h";
    refused(&[both], "set one of the two").await;
}
