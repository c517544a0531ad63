//! The way to the API server by a proxy.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{ConnectProxy, Operator, RARELY, Testbed, stage, testbed};

/// A name that no resolver has: only the proxy knows the way.
const SERVER: &str = "kubernetes.invalid:6443";

/// A kubeconfig of the testbed with a changed cluster.
fn kubeconfig(testbed: &Testbed, change: impl FnOnce(&mut Value)) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kubeconfig");
    let mut kubeconfig = testbed.kubeconfig_as_json();
    change(&mut kubeconfig["clusters"][0]["cluster"]);
    // JSON is YAML.
    fs::write(&file, kubeconfig.to_string()).expect("a file");
    (folder, file)
}

/// Host and port of the real API server.
fn address(testbed: &Testbed) -> String {
    let kubeconfig = testbed.kubeconfig_as_json();
    let url = kubeconfig["clusters"][0]["cluster"]["server"].as_str();
    let address = url.and_then(|url| url.strip_prefix("https://"));
    address.expect("an address").to_owned()
}

async fn validated(kubeconfig: &Path, environment: &[(&str, &str)]) -> String {
    let arguments = ["run", "--validate-only", "--leader-elect=false"].map(str::to_owned);
    let environment = environment.iter().copied();
    let mut operator = Operator::start_as(kubeconfig, &arguments, environment);
    operator.end().await;
    operator.logs()
}

#[tokio::test]
async fn the_operator_works_behind_the_proxy_of_its_environment() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let address = address(testbed);
    let proxy = ConnectProxy::to(SERVER, &address).await;
    let (host, _) = address.rsplit_once(':').expect("a port");
    let (_folder, file) = kubeconfig(testbed, |cluster| {
        cluster["server"] = json!(format!("https://{SERVER}"));
        cluster["tls-server-name"] = json!(host);
    });
    let url = format!("http://operator:s3cret@{}", proxy.address());
    let broker = vhost.amqp_url();
    let arguments = [
        "run",
        "--namespace",
        namespace.name(),
        "--listen=127.0.0.1:0",
        "--leader-elect=false",
    ];
    let arguments = arguments.map(str::to_owned);
    let environment = [
        ("HTTPS_PROXY", &*url),
        ("NO_PROXY", "127.0.0.0/8,.example.com"),
        ("AMQP_URL", &*broker),
    ];
    let operator = Operator::start_as(&file, &arguments, environment);
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 4});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    vhost.depth_becomes("token_bucket_x", 4).await;
    let asked = proxy.asked();
    // operator:s3cret
    let credentials = "Basic b3BlcmF0b3I6czNjcmV0";
    assert!(
        asked.iter().all(|head| head.contains(credentials)),
        "{asked:?}"
    );
    assert!(!operator.logs().contains("s3cret"), "{}", operator.logs());
}

#[tokio::test]
async fn the_proxy_of_the_kubeconfig_comes_first_and_a_server_on_this_machine_needs_none() {
    let testbed = testbed().await;
    let address = address(testbed);
    let proxy = ConnectProxy::to(&address, &address).await;
    let nobody = [("HTTPS_PROXY", "http://u:s3cret@127.0.0.1:9")];

    let (_folder, direct) = kubeconfig(testbed, |_| ());
    let said = validated(&direct, &nobody).await;
    assert!(said.contains("ok: TokenBuckets can be listed"), "{said}");

    let (_folder, by_proxy) = kubeconfig(testbed, |cluster| {
        cluster["proxy-url"] = json!(format!("http://{}", proxy.address()));
    });
    assert_eq!(proxy.asked(), Vec::<String>::new());
    let said = validated(&by_proxy, &nobody).await;
    assert!(said.contains("ok: TokenBuckets can be listed"), "{said}");
    assert_ne!(proxy.asked(), Vec::<String>::new());

    let wrong = [("HTTPS_PROXY", "ftp://u:s3cret@h")];
    let (_folder, far) = kubeconfig(testbed, |cluster| {
        cluster["server"] = json!(format!("https://{SERVER}"));
    });
    let said = validated(&far, &wrong).await;
    assert!(said.contains("HTTPS_PROXY names no proxy"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}
