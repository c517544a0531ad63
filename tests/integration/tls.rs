//! Brokers that are reached by TLS.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{Operator, testbed};

#[tokio::test]
async fn a_broker_is_trusted_by_its_authority_and_by_no_other() {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    let url = vhost.amqp_url();
    let (rest, name) = url.rsplit_once('/').expect("a vhost");
    let (user, port) = rest.rsplit_once("@127.0.0.1:").expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    // It ends with this process, or at the end of the test: then its standard input does.
    let mut proxy = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/testbed/tls-proxy"
    ))
    .arg(folder.path())
    .arg(port)
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .expect("Python runs");
    let mut port = String::new();
    let output = proxy.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut port).expect("a port");
    let user = user.replacen("amqp:", "amqps:", 1);
    let url = format!("{user}@localhost:{}/{name}", port.trim());

    let authority = folder.path().join("ca.crt");
    let authority = authority.to_str().expect("text");
    let check = ["run", "--validate-only"].map(str::to_owned);
    let trusting = [("AMQP_URL", &*url), ("SSL_CERT_FILE", authority)];
    let mut good = Operator::start_as(testbed.kubeconfig(), &check, trusting);
    assert!(good.end().await.success(), "{}", good.logs());
    assert!(
        good.logs().contains("lets the operator in"),
        "{}",
        good.logs()
    );

    let mut bad = Operator::start_as(testbed.kubeconfig(), &check, [("AMQP_URL", &*url)]);
    assert!(!bad.end().await.success(), "{}", bad.logs());
    let said = bad.logs();
    for word in ["certificate", "SSL_CERT_FILE"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    drop(proxy.stdin.take());
    assert!(proxy.wait().expect("it ends").success());
}
