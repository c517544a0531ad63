//! The HTTP listener of a running operator.

use std::fs;
use std::process::Command;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Helm, Network, Operator, Pod, SOON, chart, eventually, stage, testbed};

/// So many file descriptors may the operator have from now on.
fn allow_files(operator: &Operator, number: usize) {
    let (pid, limit) = (operator.pid().to_string(), format!("--nofile={number}:"));
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(set.expect("prlimit runs").success());
}

async fn is_alive(operator: &Operator) {
    answers(operator, "/livez").await;
}

/// Waits until a probe is content.
async fn answers(operator: &Operator, probe: &str) {
    eventually(&format!("an answer of {probe}"), SOON, async || {
        operator.http(probe).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_connections_is_bounded_and_does_not_keep_probes_from_answers() {
    let (testbed, namespace, vhost, _) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    answers(&operator, "/readyz").await;
    let address = operator.address().expect("its address");
    let mut flood = Vec::new();
    for begun in 0..600 {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n")
            .await
            .expect("half a request");
        flood.push(stream);
        if begun % 50 == 0 {
            operator.http("/livez").await.expect("an answer");
        }
    }
    let files = fs::read_dir(format!("/proc/{}/fd", operator.pid())).expect("its files");
    let files = files.count();
    assert!(files < 400, "{files} file descriptors");
    operator.http("/readyz").await.expect("an answer");
}

#[tokio::test]
async fn without_file_descriptors_the_listener_waits_until_there_are_some() {
    let (testbed, namespace, vhost, _) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    is_alive(&operator).await;
    allow_files(&operator, 3);
    let address = operator.address().expect("its address");
    let _waiting = TcpStream::connect(address)
        .await
        .expect("the system takes it");
    operator.logs_have("cannot accept connections").await;
    allow_files(&operator, 1024);
    is_alive(&operator).await;
    assert!(operator.ended().is_none());
}

#[tokio::test]
async fn metrics_are_for_those_whom_rbac_lets_get_them() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let (name, helm, chart) = (namespace.name(), Helm::new(Some(testbed)), chart());
    // It watches one namespace, and has the rights of its release and no other.
    let settings = format!(
        "crds.enabled=false,metrics.auth.enabled=true,ui.enabled=true,fullnameOverride={name},watchNamespaces={{{name}}}"
    );
    let chart = chart.to_str().expect("text");
    helm.ok(&["install", name, chart, "-n", name, "--set", &settings]);
    let deployment = ["get", "deployment", name, "-n", name, "-o", "json"];
    let pod = Pod::of(testbed, &testbed.kubectl_ok(&deployment));
    let mut check = pod.run_with(&[], &["--validate-only"]);
    assert!(check.end().await.success(), "{}", check.logs());
    let operator = pod.run(&[("POD_NAME", "one")]);
    answers(&operator, "/readyz").await;

    let reader = testbed.account(name, "reader");
    let stranger = testbed.account(name, "stranger");
    let (role, subject) = (
        format!("--clusterrole={name}-metrics-reader"),
        format!("--serviceaccount={name}:reader"),
    );
    testbed.kubectl_ok(&["create", "clusterrolebinding", name, &role, &subject]);
    for path in ["/metrics", "/"] {
        let ask = async |token| operator.http_as(token, path).await.expect("an answer");
        let (status, text) = ask(None).await;
        assert_eq!(status, 401, "{path}: {text}");
        assert!(text.contains("Authorization: Bearer"), "{path}: {text}");
        let (status, text) = ask(Some("nonsense")).await;
        assert_eq!(status, 401, "{path}: {text}");
        assert!(text.contains("does not know this token"), "{path}: {text}");
        let (status, text) = ask(Some(&stranger)).await;
        assert_eq!(status, 403, "{path}: {text}");
        let said = format!("system:serviceaccount:{name}:stranger may not get {path}");
        assert!(text.contains(&said), "{path}: {text}");
        // RBAC takes a moment to know the binding.
        eventually("what is shown", SOON, async || {
            match ask(Some(&reader)).await {
                (200, text) => Ok(text),
                other => Err(format!("{path}: {other:?}")),
            }
        })
        .await;
    }
    operator.http("/livez").await.expect("an answer");
    testbed.kubectl_ok(&["delete", "clusterrolebinding", name]);
    helm.ok(&["uninstall", name, "-n", name]);
}

#[tokio::test]
async fn without_an_answer_of_the_api_server_nobody_sees_metrics() {
    let (testbed, namespace, vhost, _) = stage().await;
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let proxy = testbed.proxy_of_api_server(&kubeconfig).await;
    let (url, auth) = (vhost.amqp_url(), ["--metrics-auth"]);
    let operator = Operator::start_with(&kubeconfig, &namespace, Some(&url), &auth);
    is_alive(&operator).await;
    // Reviews work: this one is refused.
    let (status, text) = operator
        .http_as(Some("nonsense"), "/metrics")
        .await
        .expect("an answer");
    assert_eq!(status, 401, "{text}");
    let token = testbed.account(namespace.name(), "reader");
    proxy.set(Network::Frozen);
    let (status, text) = operator
        .http_as(Some(&token), "/metrics")
        .await
        .expect("an answer");
    assert_eq!(status, 503, "{text}");
    operator.logs_have("nobody can see the metrics").await;
    assert!(!operator.logs().contains(&token));
    is_alive(&operator).await;
    proxy.set(Network::Good);
    eventually(
        "the API server to be asked again",
        SOON,
        async || match operator.http_as(Some(&token), "/metrics").await? {
            (403, _) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}
