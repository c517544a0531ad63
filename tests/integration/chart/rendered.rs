//! What the chart refuses, and what it makes of values, without a release.

use std::fs;

use crate::support::{Helm, chart, testbed};

#[tokio::test]
async fn wrong_values_are_refused_with_their_names() {
    let (helm, chart) = (Helm::new(None), chart());
    let chart = chart.to_str().expect("text");
    for (setting, named) in [
        ("replica=3", "'replica' not allowed"),
        ("replicas=many", "/replicas"),
        ("image.pullpolicy=Always", "'pullpolicy' not allowed"),
        ("image.digest=latest", "/image/digest"),
        ("broker.url=https://rabbitmq", "/broker/url"),
        ("watchNamespaces={Shop}", "/watchNamespaces/0"),
        ("statusInterval=10", "/statusInterval"),
        ("refillQueueType=stream", "/refillQueueType"),
        ("log.format=xml", "/log/format"),
        (
            "terminationGracePeriodSeconds=5",
            "/terminationGracePeriodSeconds",
        ),
        ("metrics.port=80", "/metrics/port"),
        ("leaderElection.enabled=false", "set replicas to 1"),
        (
            "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true",
            "scraped twice",
        ),
        (
            "metrics.auth.enabled=true,metrics.podMonitor.enabled=true",
            "needs metrics.auth.tokenSecret.name",
        ),
        (
            "broker.url=amqp://a,broker.existingSecret.name=b",
            "set one of the two",
        ),
    ] {
        let said = helm.refuses(&["template", "t", chart, "--set", setting]);
        assert!(said.contains(named), "--set {setting}: {said}");
    }
}

#[tokio::test]
async fn nothing_but_its_secret_depends_on_the_brokers_url() {
    let helm = Helm::new(None);
    let rendered = |password: &str| {
        let (chart, url) = (chart(), format!("broker.url=amqp://u:{password}@rabbitmq"));
        let text = helm.ok(&[
            "template",
            "t",
            chart.to_str().expect("text"),
            "--set",
            &url,
        ]);
        let documents = text.split("\n---\n").map(str::to_owned);
        let (secrets, others): (Vec<_>, Vec<_>) =
            documents.partition(|document| document.contains("\nkind: Secret\n"));
        assert!(secrets[0].contains(password), "{secrets:?}");
        others
    };
    // A hash, however short, would let whoever sees it try passwords.
    assert_eq!(rendered("one"), rendered("two"));
}

#[tokio::test]
async fn the_example_of_a_network_policy_is_accepted() {
    let testbed = testbed().await;
    let (namespace, helm, chart) = (testbed.namespace().await, Helm::new(None), chart());
    let operations = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let operations = fs::read_to_string(operations).expect("a document");
    let example = operations
        .split_once("```yaml\nnetworkPolicy:")
        .and_then(|(_, rest)| rest.split_once("```"));
    let (example, _) = example.expect("an example");
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (values, manifest) = (file("values"), file("manifest"));
    fs::write(&values, format!("networkPolicy:{example}")).expect("a file");
    let policy = helm.ok(&[
        "template",
        "t",
        chart.to_str().expect("text"),
        "-n",
        namespace.name(),
        "--values",
        &values,
        "--show-only",
        "templates/networkpolicy.yaml",
    ]);
    for named in ["monitoring", "10.0.0.10/32", "port: 6443", "port: 5672"] {
        assert!(policy.contains(named), "{named}: {policy}");
    }
    fs::write(&manifest, policy).expect("a file");
    testbed.kubectl_ok(&["apply", "--dry-run=server", "-f", &manifest]);
}
