//! docs/recipes.md: its manifests are applied, its workers run, and what it shows is what is in the files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{
    Buckets, Helm, Namespace, Operator, RARELY, Testbed, Vhost, Worker, calls_become, chart,
    condition, stage, testbed, tool,
};

mod workers;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn apply(testbed: &Testbed, namespace: &Namespace<'_>, path: &str) {
    let path = file(path);
    let path = path.to_str().expect("text");
    testbed.kubectl_ok(&["apply", "-n", namespace.name(), "-f", path]);
}

/// An operator that is to find these buckets, of which each is full and nothing becomes due.
async fn begin(
    (testbed, namespace, vhost, buckets): &(&Testbed, Namespace<'_>, Vhost<'_>, Buckets),
    names: &[&str],
) -> Operator {
    for name in names {
        buckets.edit(name, json!({"schedule": RARELY})).await;
    }
    let extra = ["--status-interval", "200ms"];
    let operator = Operator::start(testbed, namespace, vhost, &extra).await;
    for name in names {
        buckets.ready(name).await;
    }
    operator
}

/// Four workers, in each language, with so much work each.
fn workers(vhost: &Vhost<'_>, bucket: &str, calls: usize) -> Vec<Worker> {
    vec![
        Worker::go(vhost, &[bucket], calls),
        Worker::node(vhost, bucket, calls),
        Worker::rust(vhost, bucket, calls),
        Worker::rust(vhost, bucket, calls),
    ]
}

async fn all_end_well(workers: &mut [Worker]) {
    for worker in workers {
        let status = worker.end().await;
        assert!(status.success(), "{status}: {}", worker.log());
    }
}

#[tokio::test]
async fn of_several_limits_each_holds_and_no_token_is_taken_for_nothing() {
    let stage = stage().await;
    let (testbed, namespace, vhost, buckets) = &stage;
    apply(testbed, namespace, "examples/recipes/several-limits.yaml");
    buckets
        .edit("maps-per-second", json!({"initialTokens": 5}))
        .await;
    let _operator = begin(&stage, &["maps-per-second", "maps-per-day"]).await;
    let [second, day] = ["token_bucket_maps_per_second", "token_bucket_maps_per_day"];
    vhost.depth_becomes(second, 5).await;
    vhost.depth_becomes(day, 10_000).await;
    // The day is nearly over.
    assert_eq!(vhost.take(day, 9_992).await, 9_992);

    let both = ["maps_per_second", "maps_per_day"];
    let mut worker = [Worker::go(vhost, &both, 20)];
    calls_become(&worker, 5).await;
    buckets.request_refill("maps-per-second", "one").await;
    calls_become(&worker, 8).await;
    // Now it takes of the one, finds none in the other, and gives back.
    buckets.request_refill("maps-per-second", "two").await;
    vhost.depth_becomes(second, 5).await;
    assert_eq!(vhost.depth(day).await, Some(0));

    buckets.request_refill("maps-per-day", "tomorrow").await;
    calls_become(&worker, 13).await;
    let spec = json!({"schedule": "* * * * * *"});
    buckets.edit("maps-per-second", spec).await;
    all_end_well(&mut worker).await;
    assert_eq!(vhost.depth(day).await, Some(10_000 - 12));
}

#[tokio::test]
async fn what_is_reserved_is_left_to_important_workers() {
    let stage = stage().await;
    let (testbed, namespace, vhost, buckets) = &stage;
    apply(testbed, namespace, "examples/recipes/priority.yaml");
    let _operator = begin(&stage, &["reserved", "shared"]).await;
    vhost.depth_becomes("token_bucket_reserved", 20).await;
    vhost.depth_becomes("token_bucket_shared", 40).await;

    let mut others = workers(vhost, "shared", 20);
    calls_become(&others, 40).await;
    let mut important = [Worker::go(vhost, &["-first", "reserved", "shared"], 30)];
    calls_become(&important, 20).await;
    let next = "the next minute";
    buckets.request_refill("reserved", next).await;
    all_end_well(&mut important).await;
    vhost.depth_becomes("token_bucket_reserved", 10).await;
    calls_become(&others, 40).await;
    buckets.request_refill("shared", next).await;
    all_end_well(&mut others).await;
}

#[tokio::test]
async fn no_tenant_takes_from_the_share_of_another() {
    let stage = stage().await;
    let (testbed, namespace, vhost, buckets) = &stage;
    let values = file("examples/recipes/tenants-values.yaml");
    let values = values.to_str().expect("text");
    let chart = chart();
    let helm = Helm::new(Some(testbed));
    let manifests = helm.ok(&[
        "template",
        "tenants",
        chart.to_str().expect("text"),
        "--kube-version=1.35.0",
        "--show-only=templates/buckets.yaml",
        "--set=broker.existingSecret.name=broker",
        "--namespace",
        namespace.name(),
        "--values",
        values,
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let rendered = folder.path().join("buckets.yaml");
    fs::write(&rendered, manifests).expect("a file");
    apply(testbed, namespace, rendered.to_str().expect("text"));
    let names = ["maps-red", "maps-blue", "maps-green"];
    let _operator = begin(&stage, &names).await;
    for (name, share) in names.into_iter().zip([25, 25, 50]) {
        let queue = format!("token_bucket_{}", name.replace('-', "_"));
        vhost.depth_becomes(&queue, share).await;
    }

    let mut greedy = workers(vhost, "maps_red", 10);
    calls_become(&greedy, 25).await;
    let mut modest = [
        Worker::go(vhost, &["maps_blue"], 25),
        Worker::rust(vhost, "maps_green", 50),
    ];
    all_end_well(&mut modest).await;
    buckets.request_refill("maps-red", "the next minute").await;
    all_end_well(&mut greedy).await;
}

#[tokio::test]
async fn a_bucket_that_is_suspended_and_drained_stops_its_workers_until_it_is_resumed() {
    let stage = stage().await;
    let (testbed, namespace, vhost, buckets) = &stage;
    apply(testbed, namespace, "examples/hourly-api-limit.yaml");
    let operator = begin(&stage, &["my-api-client"]).await;
    let queue = "token_bucket_my_api_client";
    vhost.depth_becomes(queue, 1000).await;
    let patch = |text: &str| {
        let home = namespace.name();
        let patch = [
            "patch",
            "tb",
            "my-api-client",
            "--type=merge",
            "-n",
            home,
            "-p",
            text,
        ];
        testbed.kubectl_ok(&patch);
    };

    patch(r#"{"spec": {"suspend": true}}"#);
    buckets.ready("my-api-client").await;
    let purge = ["purge_queue", "-p", &vhost.name(), queue];
    testbed.rabbitmqctl(&purge).await;
    let mut workers = workers(vhost, "my_api_client", 5);
    let drained = buckets
        .until("my-api-client", "no tokens", |status| {
            status.available_tokens == Some(0)
        })
        .await;
    assert_eq!(condition(&drained, "Ready"), "True");
    assert_eq!(drained.tokens_issued, Some(1000));
    assert_eq!(drained.next_refill_time, None);

    // A few calls, to see whether the API works again.
    patch(r#"{"spec": {"amount": 2}}"#);
    buckets.request_refill("my-api-client", "two").await;
    calls_become(&workers, 2).await;
    patch(r#"{"spec": {"suspend": false, "schedule": "* * * * * *"}}"#);
    all_end_well(&mut workers).await;
    assert!(!operator.logs().contains("WARN"), "{}", operator.logs());
}

#[tokio::test]
async fn a_job_takes_one_token_before_its_call_and_waits_for_it() {
    let stage = stage().await;
    let (testbed, namespace, vhost, buckets) = &stage;
    apply(testbed, namespace, "examples/hourly-api-limit.yaml");
    apply(testbed, namespace, "examples/recipes/job.yaml");
    let operator = begin(&stage, &["my-api-client"]).await;
    let queue = "token_bucket_my_api_client";
    vhost.depth_becomes(queue, 1000).await;
    let job = [
        "get",
        "cronjob",
        "nightly-report",
        "-o",
        "json",
        "-n",
        namespace.name(),
    ];
    let job: Value = serde_json::from_str(&testbed.kubectl_ok(&job)).expect("JSON");
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let script = pod["containers"][0]["args"][0].as_str().expect("a script");
    let setting = |name: &str| testbed.setting(name).to_owned();
    let at = |vhost: String| {
        [
            (
                "API",
                format!("http://{}/livez", operator.address().expect("it listens")),
            ),
            ("RABBITMQ", setting("RABBITMQ_MANAGEMENT_URL")),
            ("VHOST", vhost.replace('/', "%2F")),
            ("ACCOUNT_USER", setting("RABBITMQ_USER")),
            ("ACCOUNT_PASSWORD", setting("RABBITMQ_PASSWORD")),
        ]
    };

    let mut first = [Worker::shell(script, &at(vhost.name()))];
    all_end_well(&mut first).await;
    assert_eq!(vhost.depth(queue).await, Some(999));
    assert_eq!(vhost.take(queue, 999).await, 999);
    let mut next = [Worker::shell(script, &at(vhost.name()))];
    next[0].says("sleep 10").await;
    buckets.request_refill("my-api-client", "now").await;
    all_end_well(&mut next).await;
    assert_eq!(vhost.depth(queue).await, Some(999));

    let empty = testbed.vhost().await;
    let mut astray = Worker::shell(script, &at(empty.name()));
    assert!(!astray.end().await.success());
    assert!(astray.log().contains("404"), "{}", astray.log());
}

#[tokio::test]
async fn keda_knows_the_fields_of_the_scaled_object() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let folder = tool("keda");
    for kind in ["scaledobjects", "triggerauthentications"] {
        let crd = format!("{folder}/keda.sh_{kind}.yaml");
        // A cluster of one's own may have another version.
        if !testbed.kubectl(&["get", "-f", &crd]).status.success() {
            testbed.kubectl_ok(&["apply", "--server-side", "-f", &crd]);
        }
        testbed.kubectl_ok(&["wait", "--for=condition=Established", "-f", &crd]);
    }
    let create = |path: &Path| {
        let path = path.to_str().expect("text");
        let home = namespace.name();
        testbed.kubectl(&["create", "--validate=strict", "-n", home, "-f", path])
    };

    let example = file("examples/recipes/keda.yaml");
    let text = fs::read_to_string(&example).expect("the example");
    let broken = tempfile::tempdir().expect("a folder");
    let broken = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let path = broken.path().join("keda.yaml");
        fs::write(&path, text.replace(from, to)).expect("a file");
        let output = create(&path);
        testbed.kubectl(&[
            "delete",
            "-n",
            namespace.name(),
            "--ignore-not-found",
            "-f",
            path.to_str().expect("text"),
        ]);
        String::from_utf8(output.stderr).expect("text")
    };
    let said = broken("formula:", "formulas:");
    assert!(said.contains("formulas"), "{said}");
    let said = broken("maxReplicaCount: 10", "maxReplicaCount: 0");
    assert!(said.contains("maxReplicaCount"), "{said}");

    let output = create(&example);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn the_recipes_show_what_is_in_the_files() {
    let text = fs::read_to_string(file("docs/recipes.md")).expect("the recipes");
    // Only the script stands further to the right in its file.
    let lines = |text: &str, language: &str| -> String {
        let line = |line| match language {
            "sh" => str::trim(line),
            _ => line,
        };
        text.lines().map(|it| format!("{}\n", line(it))).collect()
    };
    let (mut shown, mut from) = (0, "");
    // Text and blocks of code by turns. The last link to a file before a block says where it is from.
    for pair in text.split("```").collect::<Vec<_>>().chunks_exact(2) {
        let links = pair[0].split("](../").skip(1);
        let links = links.filter_map(|link| Some(link.split_once(')')?.0));
        from = links
            .filter(|link| file(link).is_file())
            .last()
            .unwrap_or(from);
        let (language, code) = pair[1].split_once('\n').expect("a language");
        if language == "console" {
            continue;
        }
        let source = fs::read_to_string(file(from)).expect("an example");
        let (source, code) = (lines(&source, language), lines(code, language));
        assert!(source.contains(&code), "{from} has no such part:\n{code}");
        shown += 1;
    }
    assert!(shown > 0, "no code");
}
