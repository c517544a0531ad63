//! What Prometheus makes of the metrics and the alerts.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io::Write};

use serde_json::{Value, json};

use crate::support::{Operator, RARELY, SOON, condition, eventually, stage, tool};

fn project(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs promtool and panics with what it says against its input.
fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn every_alert_fires_on_what_it_is_for() {
    tool("prometheus");
    let rules = project("charts/token-bucket-operator/files/alerts.yaml");
    promtool(&["check", "rules", &rules], "");
    promtool(&["test", "rules", &project("tests/alerts.yaml")], "");
}

/// promtool reads the format before OpenMetrics only: there a counter's type is told of the name with `_total`, units and
/// the end are not told, and information is a gauge.
fn in_the_older_format(metrics: &str) -> String {
    let type_of = |name: &str| {
        let mut lines = metrics.lines();
        lines.find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")))
    };
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        match (words.next()?, words.next()?, words.next(), words.next()) {
            ("#", "UNIT" | "EOF", ..) => None,
            ("#", kind, Some(name), Some(rest)) => Some(match type_of(name) {
                Some("counter") => format!("# {kind} {name}_total {rest}\n"),
                Some("info") => format!("# {kind} {name}_info {}\n", rest.replace("info", "gauge")),
                _ => format!("{line}\n"),
            }),
            _ => Some(format!("{line}\n")),
        }
    };
    metrics.lines().filter_map(line).collect()
}

/// The configuration of a Prometheus that scrapes one operator with the token in a file beside it, and whose alerts do not wait for minutes.
fn configure(folder: &Path, operator: &str, token: &str) {
    fs::write(folder.join("token"), token).expect("a file");
    let rules = fs::read_to_string(project("charts/token-bucket-operator/files/alerts.yaml"));
    let rules = rules.expect("the rules").replace("for: 5m", "for: 1s");
    fs::write(folder.join("alerts.yaml"), rules).expect("a file");
    let configuration = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "operator", "honor_labels": true, "authorization": {"credentials_file": "token"},
                            "static_configs": [{"targets": [operator]}]}],
    });
    // JSON is YAML.
    fs::write(folder.join("prometheus.yml"), configuration.to_string()).expect("a file");
}

#[tokio::test]
async fn a_real_prometheus_scrapes_the_operator_and_an_alert_fires() {
    tool("prometheus");
    let (testbed, namespace, vhost, buckets) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &["--metrics-auth"]).await;
    let (name, token) = (
        namespace.name(),
        testbed.account(namespace.name(), "scraper"),
    );
    let (role, subject) = (
        format!("--clusterrole={name}"),
        format!("--serviceaccount={name}:scraper"),
    );
    let path = "--non-resource-url=/metrics";
    testbed.kubectl_ok(&["create", "clusterrole", name, path, "--verb=get"]);
    testbed.kubectl_ok(&["create", "clusterrolebinding", name, &role, &subject]);
    let spec = json!({"schedule": "* * * * * *", "amount": 1, "maximum": 5});
    buckets.create("good", spec).await;
    let spec = json!({"schedule": RARELY, "timeZone": "Mars/Olympus", "amount": 1, "maximum": 5});
    buckets.ready("good").await;
    let label = "tokenbucket.dev/alert-when-empty=true";
    testbed.kubectl_ok(&[
        "label",
        "tb",
        "good",
        label,
        "--namespace",
        namespace.name(),
    ]);
    buckets.create("bad", spec).await;
    buckets
        .until("bad", "it to be stalled", |status| {
            condition(status, "Stalled") == "True"
        })
        .await;
    let metrics = eventually("the metrics", SOON, async || {
        match operator.http_as(Some(&token), "/metrics").await? {
            (200, metrics) => Ok(metrics),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    promtool(&["check", "metrics"], &in_the_older_format(&metrics));

    let folder = tempfile::tempdir().expect("a folder");
    configure(
        folder.path(),
        &operator.address().expect("its address"),
        &token,
    );
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port").to_string();
    let log = fs::File::create(folder.path().join("log")).expect("a file");
    let _prometheus = tokio::process::Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "prometheus",
            "--config.file=prometheus.yml",
        ])
        .args([
            "--storage.tsdb.path=data",
            &format!("--web.listen-address={address}"),
        ])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("Prometheus starts");
    let ask = async |path: &str| -> Result<Value, String> {
        let answer = reqwest::get(format!("http://{address}/api/v1/{path}")).await;
        let answer = answer.map_err(|error| error.to_string())?;
        answer.json().await.map_err(|error| error.to_string())
    };
    eventually("the alert about the bucket that needs a person", SOON, async || {
        let alerts = ask("alerts").await?;
        let mut firing = alerts["data"]["alerts"].as_array().into_iter().flatten();
        let wanted = json!({"alertname": "TokenBucketStalled", "namespace": namespace.name(), "name": "bad",
            "reason": "InvalidTimeZone"});
        let wanted = wanted.as_object().expect("labels");
        let found = firing.any(|alert| {
            alert["state"] == "firing" && wanted.iter().all(|(label, value)| alert["labels"][label] == *value)
        });
        if found { Ok(()) } else { Err(alerts.to_string()) }
    })
    .await;
    let labelled = "query?query=tokenbucket_bucket_alert_when_empty";
    eventually("the labelled bucket", SOON, async || {
        let found = ask(labelled).await?;
        match &found["data"]["result"][0]["metric"]["name"] {
            name if name == "good" => Ok(()),
            _ => Err(found.to_string()),
        }
    })
    .await;
    // A panel of the dashboard: the tokens by bucket.
    let tokens = ask("query?query=tokenbucket_tokens_available")
        .await
        .expect("an answer");
    assert_eq!(
        tokens["data"]["result"][0]["metric"]["name"], "good",
        "{tokens}"
    );
    assert_eq!(
        tokens["data"]["result"][0]["metric"]["namespace"],
        namespace.name()
    );
    testbed.kubectl_ok(&["delete", "clusterrolebinding,clusterrole", name]);
}
