//! Brokers that are reached by TLS.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{Operator, Testbed, Vhost, testbed};

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
        let authority = authority.to_str().expect("text");
        let mut environment = vec![("AMQP_URL", &*url), ("REQUIRE_TLS", "all")];
        if trusting {
            environment.push(("SSL_CERT_FILE", authority));
        }
        let check = ["run", "--validate-only"].map(str::to_owned);
        let mut operator = Operator::start_as(testbed.kubeconfig(), &check, environment);
        let success = operator.end().await.success();
        (success, operator.logs())
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
