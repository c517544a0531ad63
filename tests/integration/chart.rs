//! The chart: what it refuses, and the life of a release on a real API server with RBAC.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use crate::support::{Helm, Operator, Pod, SOON, Testbed, chart, eventually, testbed};

mod rendered;

const NAMESPACE: &str = "ops";

/// A copy of the chart as an earlier version: another number, and a CustomResourceDefinition with another text.
fn earlier_chart(folder: &Path) {
    let copied = Command::new("cp")
        .arg("-r")
        .arg(chart())
        .arg(folder)
        .status();
    assert!(copied.expect("cp runs").success());
    let version = concat!("version: ", env!("CARGO_PKG_VERSION"));
    for (file, from, to) in [
        ("Chart.yaml", version, "version: 0.0.1"),
        (
            "files/tokenbuckets.yaml",
            "Tokens in the bucket",
            "An earlier text",
        ),
    ] {
        let file = folder.join("token-bucket-operator").join(file);
        let text = fs::read_to_string(&file).expect("a file of the chart");
        assert!(text.contains(from), "{} has no {from:?}", file.display());
        fs::write(&file, text.replace(from, to)).expect("a file");
    }
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let text = fs::read_to_string(chart().join("Chart.yaml")).expect("Chart.yaml");
    let metadata: Value = serde_yaml::from_str(&text).expect("YAML");
    for field in ["version", "appVersion"] {
        assert_eq!(metadata[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
}

#[tokio::test]
async fn helm_finds_nothing_to_say_against_the_chart() {
    let (helm, chart) = (Helm::new(None), chart());
    let chart = chart.to_str().expect("text");
    helm.ok(&["lint", "--strict", chart]);
    for values in values_files() {
        helm.ok(&["lint", "--strict", chart, "--values", &values]);
    }
}

fn values_files() -> Vec<String> {
    let files = fs::read_dir(chart().join("ci")).expect("a folder");
    let path = |file: std::io::Result<fs::DirEntry>| file.expect("a file").path();
    files
        .map(|file| path(file).to_str().expect("text").to_owned())
        .collect()
}

/// What the chart renders, without what needs the Prometheus operator.
fn rendered(helm: &Helm<'_>, values: &str, file: &Path) {
    let chart = chart();
    let chart = chart.to_str().expect("text");
    let template = [
        "template",
        "t",
        chart,
        "-n",
        NAMESPACE,
        "--skip-tests",
        "--values",
        values,
        // A Helm that was built without its release's settings knows no version of today.
        "--kube-version",
        "v1.34.0",
    ];
    let text = helm.ok(&template);
    let documents = text.split("\n---\n");
    let known = documents.filter(|document| !document.contains("monitoring.coreos.com"));
    fs::write(file, known.collect::<Vec<_>>().join("\n---\n")).expect("a file");
}

#[tokio::test]
async fn helm_3_renders_the_same_and_installs_it() {
    let testbed = testbed().await;
    let (three, four) = (Helm::three(Some(testbed)), Helm::new(None));
    let (chart, namespace) = (chart(), testbed.namespace().await);
    let chart = chart.to_str().expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    for values in values_files() {
        three.ok(&["lint", "--strict", chart, "--values", &values]);
        let files = ["three", "four"].map(|name| folder.path().join(name));
        rendered(&three, &values, &files[0]);
        rendered(&four, &values, &files[1]);
        let [ours, theirs] = files.map(|file| manifests(&file));
        assert_eq!(ours, theirs, "{values}");
    }
    let said = three.refuses(&[
        "template",
        "t",
        chart,
        "--kube-version",
        "v1.34.0",
        "--set",
        "replica=3",
    ]);
    assert!(said.contains("replica"), "{said}");

    let (name, none) = (namespace.name(), "crds.enabled=false");
    let install = ["install", name, chart, "-n", name, "--set", none];
    assert!(three.ok(&install).contains("rollout status"));
    let upgrade = [
        "upgrade",
        name,
        chart,
        "-n",
        name,
        "--reuse-values",
        "--set",
        "ui.enabled=true",
    ];
    three.ok(&upgrade);
    let deployments = ["get", "deployments", "-n", name, "-o", "yaml"];
    assert!(testbed.kubectl_ok(&deployments).contains("- --ui"));
    three.ok(&["uninstall", name, "-n", name]);
    assert!(
        !testbed
            .kubectl_ok(&deployments)
            .contains("kind: Deployment")
    );
}

/// The manifests of a file, whatever stands between them.
fn manifests(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("a file");
    let documents = serde_yaml::Deserializer::from_str(&text);
    let documents = documents.map(|document| Value::deserialize(document).expect("YAML"));
    documents.filter(|document| !document.is_null()).collect()
}

/// Needs a cluster where nobody else has installed the CustomResourceDefinition.
#[tokio::test]
async fn a_release_lives_with_exactly_its_rights() {
    let testbed = Testbed::bare();
    let (helm, folder) = (
        Helm::new(Some(&testbed)),
        tempfile::tempdir().expect("a folder"),
    );
    let chart = chart();
    let chart = chart.to_str().expect("text");
    for namespace in [NAMESPACE, "shop", "billing"] {
        testbed.kubectl_ok(&["create", "namespace", namespace]);
    }
    // The pods have to satisfy the strictest standard.
    let restricted = "pod-security.kubernetes.io/enforce=restricted";
    testbed.kubectl_ok(&["label", "namespace", NAMESPACE, restricted]);

    // An earlier version is installed.
    earlier_chart(folder.path());
    let earlier = folder.path().join("token-bucket-operator");
    let earlier = earlier.to_str().expect("text");
    let secret = "broker.existingSecret.name=broker";
    let notes = helm.ok(&["install", "tbo", earlier, "-n", NAMESPACE, "--set", secret]);
    assert!(
        notes.contains("rollout status deployment/tbo-token-bucket-operator"),
        "{notes}"
    );
    let established = "--for=condition=Established";
    let crd = "crd/tokenbuckets.tokenbucket.dev";
    testbed.kubectl_ok(&["wait", established, crd]);
    // The bucket of the notes can be pasted as it is.
    let pasted = notes
        .split_once("<<YAML\n")
        .and_then(|(_, rest)| rest.split_once("\nYAML\n"));
    let (pasted, _) = pasted.expect("a bucket in the notes");
    let bucket = folder.path().join("pasted.yaml");
    fs::write(&bucket, pasted).expect("a file");
    let file = bucket.to_str().expect("text");
    testbed.kubectl_ok(&["apply", "--dry-run=server", "-f", file]);
    let text = || testbed.kubectl_ok(&["get", crd, "-o", "yaml"]);
    assert!(text().contains("An earlier text"));

    // Every rendering of the present version is valid here.
    let manifests = folder.path().join("rendered.yaml");
    for values in values_files() {
        rendered(&helm, &values, &manifests);
        let file = manifests.to_str().expect("text");
        let apply = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--force-conflicts",
            "-f",
            file,
        ];
        testbed.kubectl_ok(&apply);
    }

    // The operator does its work with the rights of its service account.
    let vhost = testbed.vhost().await;
    let deployment = [
        "get",
        "deployment",
        "tbo-token-bucket-operator",
        "-n",
        NAMESPACE,
        "-o",
        "json",
    ];
    let amqp_url = vhost.amqp_url();
    let uri = format!("--from-literal=AMQP_URL={amqp_url}");
    testbed.kubectl_ok(&[
        "create", "secret", "generic", "broker", "-n", NAMESPACE, &uri,
    ]);
    let pod = Pod::of(&testbed, &testbed.kubectl_ok(&deployment));
    // Nothing makes pods of the Deployment here, so whether they are admitted is asked with one of them.
    fs::write(&manifests, pod.manifest("one", NAMESPACE)).expect("a file");
    let file = manifests.to_str().expect("text");
    testbed.kubectl_ok(&["create", "--dry-run=server", "-f", file]);
    let environment = [("POD_NAME", "tbo-0")];
    let mut check = pod.run_with(&environment, &["--validate-only"]);
    assert!(check.end().await.success(), "{}", check.logs());
    assert!(
        check.logs().contains("lets the operator in (RabbitMQ"),
        "{}",
        check.logs()
    );
    let mut operator = pod.run(&environment);
    operator.becomes_leader().await;
    let uri = format!("--from-literal=uri={amqp_url}");
    testbed.kubectl_ok(&[
        "create", "secret", "generic", "rabbitmq", "-n", "shop", &uri,
    ]);
    let bucket = folder.path().join("bucket.yaml");
    let manifest = r#"{"apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket",
        "metadata": {"name": "calls", "namespace": "shop"},
        "spec": {"schedule": "* * * * * *", "amount": 1, "maximum": 9, "initialTokens": 5,
                 "connection": {"secretRef": {"name": "rabbitmq"}}}}"#;
    fs::write(&bucket, manifest).expect("a file");
    testbed.kubectl_ok(&["apply", "-f", bucket.to_str().expect("text")]);
    // It reads no Secret until somebody lets it, and says how.
    let says = |text: &str| {
        format!("--for=jsonpath={{.status.conditions[?(@.type==\"Stalled\")].reason}}={text}")
    };
    let forbidden = says("SecretForbidden");
    let within = "--timeout=60s";
    testbed.kubectl_ok(&["wait", &forbidden, within, "tb/calls", "-n", "shop"]);
    let described = testbed.kubectl_ok(&["describe", "tb/calls", "-n", "shop"]);
    let setting = "rbac.secrets.enabled=true";
    assert!(described.contains(setting), "{described}");
    let upgrade = ["upgrade", "tbo", earlier, "-n", NAMESPACE, "--reuse-values"];
    helm.ok(&[&upgrade[..], &["--set", setting]].concat());
    let ready = [
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "tb/calls",
        "-n",
        "shop",
    ];
    testbed.kubectl_ok(&ready);
    vhost.depth_becomes("token_bucket_calls", 9).await;
    let conflict = manifest
        .replace("\"calls\"", "\"rival\"")
        .replace("\"schedule\"", "\"name\": \"calls\", \"schedule\"");
    fs::write(&bucket, conflict).expect("a file");
    testbed.kubectl_ok(&["apply", "-f", bucket.to_str().expect("text")]);
    eventually("an event about the rival", SOON, async || {
        let events = testbed.kubectl_ok(&["get", "events", "-n", "shop", "-o", "json"]);
        match events.contains("NameConflict") {
            true => Ok(()),
            false => Err(events),
        }
    })
    .await;
    let holder = [
        "get",
        "lease",
        "token-bucket-operator",
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ];
    assert_eq!(testbed.kubectl_ok(&holder), "tbo-0");

    // And cannot do anything else.
    for forbidden in [
        &["get", "secrets", "-n", "shop"][..],
        &["delete", "tb/calls", "-n", "shop"],
        &["get", "pods", "-n", NAMESPACE],
        &["get", "configmaps", "-n", NAMESPACE],
        &["get", "leases", "-n", NAMESPACE],
        &["get", "lease", "other", "-n", NAMESPACE],
        &["delete", "lease", "token-bucket-operator", "-n", NAMESPACE],
        &[
            "scale",
            "deployment/tbo-token-bucket-operator",
            "--replicas=9",
            "-n",
            NAMESPACE,
        ],
        &["create", "namespace", "more"],
    ] {
        let mut arguments = vec!["--kubeconfig", pod.kubeconfig()];
        arguments.extend(forbidden);
        let output = Command::new(testbed.setting("KUBECTL"))
            .args(&arguments)
            .output();
        let errors = String::from_utf8(output.expect("kubectl runs").stderr).expect("text");
        assert!(errors.contains("orbidden"), "{forbidden:?}: {errors}");
    }

    // `helm test` tries it. There is no node to run its pod, so it is run here, and its end is told.
    let test = ["test", "tbo", "-n", NAMESPACE, "--timeout", "120s"];
    let mut tested = helm.command(&test).spawn().expect("Helm runs");
    let pod = "pod/tbo-token-bucket-operator-test";
    let object = eventually("the pod of the test", SOON, async || {
        let output = testbed.kubectl(&["get", pod, "-n", NAMESPACE, "-o", "json"]);
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).expect("text")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    })
    .await;
    let test = Pod::of(&testbed, &object);
    let mut verify = test.run(&[]);
    assert!(verify.end().await.success(), "{}", verify.logs());
    // It has the rights of a user, which are too few for an operator.
    let run = ["run", "--validate-only"].map(str::to_owned);
    let mut check = Operator::start_as(test.kubeconfig().as_ref(), &run, []);
    assert!(!check.end().await.success(), "{}", check.logs());
    for wanted in [
        "may not list TokenBuckets in all namespaces",
        "may not patch tokenbuckets/status",
        "no default broker",
    ] {
        assert!(check.logs().contains(wanted), "{wanted}: {}", check.logs());
    }
    assert!(
        verify.logs().contains("the operator works"),
        "{}",
        verify.logs()
    );
    let succeeded = r#"{"status": {"phase": "Succeeded"}}"#;
    testbed.kubectl_ok(&[
        "patch",
        pod,
        "-n",
        NAMESPACE,
        "--subresource=status",
        "-p",
        succeeded,
    ]);
    assert!(tested.wait().expect("Helm ends").success());

    // The upgrade brings the new CustomResourceDefinition and a bucket of the release; what was there stays.
    let identity = [
        "get",
        "tb/calls",
        "-n",
        "shop",
        "-o",
        "jsonpath={.metadata.uid}{.metadata.generation}",
    ];
    let before = testbed.kubectl_ok(&identity);
    let buckets = r#"buckets={"of-the-release": {"schedule": "@hourly", "amount": 3, "maximum": 3, "initialTokens": 3}}"#;
    helm.ok(&[
        "upgrade",
        "tbo",
        chart,
        "-n",
        NAMESPACE,
        "--reuse-values",
        "--set-json",
        buckets,
    ]);
    assert!(!text().contains("An earlier text"));
    assert_eq!(testbed.kubectl_ok(&identity), before);
    vhost.depth_becomes("token_bucket_of_the_release", 3).await;

    // Uninstalled, the release leaves the buckets and their queues.
    testbed.kubectl_ok(&["delete", "tb/rival", "-n", "shop", "--timeout=60s"]);
    testbed.kubectl_ok(&["delete", "tb/calls", "-n", "shop", "--timeout=60s"]);
    assert_eq!(
        vhost.depth("token_bucket_calls").await,
        None,
        "the operator deleted the queue"
    );
    helm.ok(&["uninstall", "tbo", "-n", NAMESPACE]);
    operator.terminate().await;
    testbed.kubectl_ok(&["get", "tb/of-the-release", "-n", NAMESPACE]);
    assert_eq!(vhost.depth("token_bucket_of_the_release").await, Some(3));
}
