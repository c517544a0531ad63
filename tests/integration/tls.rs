//! Brokers that are reached by TLS.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Operator, RARELY, Testbed, Vhost, condition, stage, testbed};

/// A TLS listener in front of the broker of the tests, and an authority of its own.
struct Proxy {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Proxy {
    /// Its certificate is for `name`, for example `DNS:localhost`.
    fn start(vhost: &Vhost<'_>, name: &str, options: &[&str]) -> Self {
        let url = vhost.amqp_url();
        let (_, address) = url.rsplit_once("@127.0.0.1:").expect("an address");
        let (port, _) = address.split_once('/').expect("a vhost");
        let folder = tempfile::tempdir().expect("a folder");
        // It ends with this process, or at the end of the test: then its standard input does.
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/tls-proxy");
        let mut process = Command::new(program)
            .arg(folder.path())
            .args([port, name])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let mut port = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut port).expect("a port");
        let port = port.trim().parse().expect("a port");
        Self {
            process,
            port,
            folder,
        }
    }

    /// What the operator says of a broker that is reached by this proxy as `host`, and whether that is success.
    async fn judged(
        &self,
        testbed: &Testbed,
        vhost: &Vhost<'_>,
        host: &str,
        trusting: bool,
    ) -> (bool, String) {
        let url = vhost.amqp_url();
        let (user, rest) = url.rsplit_once("@127.0.0.1:").expect("an address");
        let (_, name) = rest.split_once('/').expect("a vhost");
        let user = user.replacen("amqp:", "amqps:", 1);
        let url = format!("{user}@{host}:{}/{name}", self.port);
        let authority = self.folder.path().join("ca.crt");
        validated(testbed, &url, trusting.then_some(&authority)).await
    }
}

/// What the operator says of a broker, with these authorities or those of the system, and whether that is success.
async fn validated(testbed: &Testbed, url: &str, authorities: Option<&Path>) -> (bool, String) {
    let authorities = authorities.map(|path| ("SSL_CERT_FILE", path.to_str().expect("text")));
    let environment = [("AMQP_URL", url), ("REQUIRE_TLS", "all")];
    let environment = environment.into_iter().chain(authorities);
    let check = ["run", "--validate-only"].map(str::to_owned);
    let mut operator = Operator::start_as(testbed.kubeconfig(), &check, environment);
    let success = operator.end().await.success();
    (success, operator.logs())
}

impl Proxy {
    fn pem(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).expect("a file")
    }

    /// What a Secret says of the broker behind this proxy, with its authority and a client certificate.
    fn secret(&self, vhost: &Vhost<'_>) -> Value {
        let url = vhost.amqp_url();
        let (account, rest) = url.split_once('@').expect("an address");
        let (_, account) = account.split_once("://").expect("a scheme");
        let (username, password) = account.split_once(':').expect("an account");
        let (_, name) = rest.split_once('/').expect("a vhost");
        let name = name.replace("%2F", "/");
        json!({
            "host": "localhost", "port": self.port.to_string(), "tls": "true", "vhost": name,
            "username": username, "password": password,
            "ca.crt": self.pem("ca.crt"), "tls.crt": self.pem("client.crt"), "tls.key": self.pem("client.key"),
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_broker_is_trusted_by_its_authority_and_by_no_other() {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    let proxy = Proxy::start(&vhost, "DNS:localhost", &[]);
    let (success, said) = proxy.judged(testbed, &vhost, "localhost", true).await;
    assert!(success && said.contains("lets the operator in"), "{said}");
    let (success, said) = proxy.judged(testbed, &vhost, "localhost", false).await;
    assert!(!success, "{said}");
    for word in ["certificate", "SSL_CERT_FILE"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[tokio::test]
async fn a_certificate_counts_for_the_names_and_addresses_in_it_and_for_no_others() {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    for (name, host, trusted) in [
        ("DNS:localhost", "127.0.0.1", false),
        ("DNS:rabbit.example.com", "localhost", false),
        ("IP:127.0.0.1", "127.0.0.1", true),
        ("IP:127.0.0.2", "127.0.0.1", false),
        ("IP:127.0.0.1", "localhost", false),
    ] {
        let proxy = Proxy::start(&vhost, name, &[]);
        let (success, said) = proxy.judged(testbed, &vhost, host, true).await;
        assert_eq!(success, trusted, "{name} as {host}: {said}");
        assert!(success || said.contains("certificate"), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_has_signed_is_refused() {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    let proxy = Proxy::start(&vhost, "DNS:localhost", &["self-signed"]);
    let (success, said) = proxy.judged(testbed, &vhost, "localhost", true).await;
    assert!(!success && said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn a_broker_that_speaks_no_tls_1_2_is_refused() {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    let proxy = Proxy::start(&vhost, "DNS:localhost", &["old"]);
    let (success, said) = proxy.judged(testbed, &vhost, "localhost", true).await;
    assert!(!success && said.contains("no connection to"), "{said}");
}

#[tokio::test]
async fn each_secret_has_its_authority_and_its_client_certificate_and_may_change_them() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let proxies = [1, 2].map(|_| Proxy::start(&vhost, "DNS:localhost", &["client"]));
    let secrets: Api<Secret> = Api::namespaced(testbed.client().await, namespace.name());
    let write = async |name: &str, data: Value| {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        let params = PatchParams::apply("test").force();
        let written = secrets.patch(name, &params, &Patch::Apply(secret)).await;
        written.expect("the Secret is accepted");
    };
    let spec = |secret: &str| {
        json!({"schedule": RARELY, "amount": 1, "maximum": 1, "refillQueue": format!("refill.{secret}"),
               "connection": {"secretRef": {"name": secret}}})
    };
    let operator = Operator::start_at(testbed, &namespace, None, &["--require-tls=secrets"]).await;
    for (name, proxy) in ["one", "two"].into_iter().zip(&proxies) {
        write(name, proxy.secret(&vhost)).await;
        buckets.create(name, spec(name)).await;
    }
    for name in ["one", "two"] {
        buckets.ready(name).await;
    }
    let missed = |status: &TokenBucketStatus| condition(status, "BrokerConnected") == "False";
    let mistakes = [
        ("authority", &["ca.crt"][..], "ca.crt of the Secret"),
        (
            "client",
            &["tls.crt", "tls.key"],
            "refuses the one that it is shown",
        ),
    ];
    for (name, keys, _) in mistakes {
        let (mut secret, other) = (proxies[0].secret(&vhost), proxies[1].secret(&vhost));
        for key in keys {
            secret[key] = other[key].clone();
        }
        write(name, secret).await;
        buckets.create(name, spec(name)).await;
    }
    for (name, _, words) in mistakes {
        let status = buckets.until(name, "its broker to be missed", missed).await;
        let said = format!("{:?}", status.conditions);
        assert!(said.contains(words), "{said}");
        // Whoever is refused looks at the Secret again.
        write(name, proxies[0].secret(&vhost)).await;
        buckets.ready(name).await;
    }
    let logs = operator.logs();
    for secret in [proxies[0].pem("client.key"), proxies[1].pem("client.key")] {
        let line = secret.lines().nth(1).expect("a line of base64");
        assert!(!logs.contains(line), "{logs}");
    }
}

#[tokio::test]
async fn each_mistake_with_certificates_is_told_as_what_it_is() {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    for (name, option, trusting, words) in [
        (
            "DNS:localhost",
            Some("expired"),
            true,
            "it has expired: renew it",
        ),
        (
            "DNS:rabbit.example.com",
            None,
            true,
            "it is not for localhost, but for rabbit.example.com: write",
        ),
        (
            "DNS:localhost",
            None,
            false,
            "no authority that is trusted here has signed it",
        ),
        ("DNS:localhost", Some("authority"), true, "without CA:TRUE"),
        (
            "DNS:localhost",
            Some("client"),
            true,
            "write tls.crt and tls.key into the Secret",
        ),
    ] {
        let proxy = Proxy::start(&vhost, name, option.as_slice());
        let (success, said) = proxy.judged(testbed, &vhost, "localhost", trusting).await;
        assert!(!success && said.contains(words), "{option:?}: {said}");
    }
    let plain = vhost.amqp_url().replacen("amqp:", "amqps:", 1);
    let (success, said) = validated(testbed, &plain, None).await;
    assert!(
        !success && said.contains("does not speak TLS: write amqp://"),
        "{said}"
    );
}

#[tokio::test]
async fn authorities_that_cannot_be_read_end_the_start_with_the_name_of_their_file() {
    let testbed = testbed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let [missing, empty] = ["missing.crt", "empty.crt"].map(|name| folder.path().join(name));
    fs::write(&empty, "").expect("a file");
    for path in [missing, empty] {
        let (success, said) = validated(testbed, "amqps://localhost:1", Some(&path)).await;
        let path = path.to_str().expect("text");
        assert!(
            !success && said.contains(path) && said.contains("SSL_CERT_FILE"),
            "{said}"
        );
        let environment = [("AMQP_URL", "amqps://localhost:1"), ("SSL_CERT_FILE", path)];
        let run = ["run", "--listen=127.0.0.1:0", "--leader-elect=false"].map(str::to_owned);
        let mut operator = Operator::start_as(testbed.kubeconfig(), &run, environment);
        assert!(!operator.end().await.success());
        assert!(operator.logs().contains(path), "{}", operator.logs());
    }
}
