//! The controller at scale: many buckets created at once, taken up again after a restart, deleted.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Api, Client};
use serde_json::json;
use token_bucket_operator::api::TokenBucket;

use crate::report::{Goal, Report};
use crate::support::{Namespace, Operator, RARELY, Vhost, condition, eventually, testbed};
use crate::system;

/// Requests of the bench itself that are under way at one time.
const IN_FLIGHT: usize = 32;
/// Resources as the API server's metrics name them.
const BUCKETS: &str = "tokenbuckets";
const EVENTS: &str = "events";
/// Counts are read so seldom that a run sees one sweep, at the start.
const SELDOM: &str = "--status-interval=10m";
/// Longest time that a phase may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Goals for a number of buckets, in seconds and MiB.
struct Goals {
    ready: f64,
    restart: f64,
    deletion: Option<f64>,
    memory: Option<f64>,
}

#[derive(Default)]
struct Results {
    floor: Vec<f64>,
    ready: Vec<f64>,
    ready_cpu: Vec<f64>,
    peak: Vec<f64>,
    steady: Vec<f64>,
    idle: Vec<f64>,
    writes: Vec<f64>,
    events: Vec<f64>,
    restart: Vec<f64>,
    restart_writes: Vec<f64>,
    deletion: Vec<f64>,
}

/// Measures `count` buckets, `rounds` times.
pub async fn run(report: &mut Report, count: usize, rounds: usize) {
    let goals = if count <= 1_000 {
        Goals {
            ready: 4.5,
            restart: 2.0,
            deletion: Some(4.0),
            memory: None,
        }
    } else {
        Goals {
            ready: 45.0,
            restart: 15.0,
            deletion: None,
            memory: Some(60.0),
        }
    };
    let mut results = Results::default();
    for _ in 0..rounds {
        round(count, &mut results).await;
    }
    let ratio: Vec<f64> = results
        .ready
        .iter()
        .zip(&results.floor)
        .map(|(ready, floor)| ready / floor)
        .collect();
    let each = |all: &[f64]| all.iter().map(|it| it / count as f64).collect::<Vec<_>>();
    let most = |goal| Some(Goal::AtMost(goal));
    let mut add = |what: &str, unit, values, goal| {
        report.add(format!("{count} buckets: {what}"), unit, values, goal);
    };
    add("ready ÷ the same writes by the bench", "×", ratio, None);
    add("the same writes by the bench", "s", results.floor, None);
    add(
        "from the first create to the last Ready",
        "s",
        results.ready,
        most(goals.ready),
    );
    add("operator's CPU for that", "s", results.ready_cpu, None);
    add("API writes each", "", each(&results.writes), most(2.0));
    add("events of all", "", results.events, most(0.0));
    add("peak memory", "MiB", results.peak, None);
    add(
        "steady memory",
        "MiB",
        results.steady,
        goals.memory.map(Goal::AtMost),
    );
    add("CPU while idle", "% core", results.idle, most(2.0));
    add(
        "restart until all are in force",
        "s",
        results.restart,
        most(goals.restart),
    );
    add(
        "API writes of the restart",
        "",
        results.restart_writes,
        most(0.0),
    );
    add(
        "deletion of all",
        "s",
        results.deletion,
        goals.deletion.map(Goal::AtMost),
    );
}

async fn round(count: usize, results: &mut Results) {
    let testbed = testbed().await;
    let client = testbed.client().await;
    let unwatched = testbed.namespace().await;
    results.floor.push(floor(&client, &unwatched, count).await);

    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets: Api<TokenBucket> = Api::namespaced(client.clone(), namespace.name());
    let operator = Operator::start(testbed, &namespace, &vhost, &[SELDOM]).await;
    serving(&operator).await;
    let pid = operator.pid();

    let (written, told) = (
        writes(&client, BUCKETS).await,
        writes(&client, EVENTS).await,
    );
    let (used, start) = (system::cpu(pid), Instant::now());
    let ready = tokio::spawn(all_ready(buckets.clone(), count));
    create(&buckets, count).await;
    ready.await.expect("every bucket becomes ready");
    results.ready.push(start.elapsed().as_secs_f64());
    results
        .ready_cpu
        .push((system::cpu(pid) - used).as_secs_f64());
    results.peak.push(system::memory(pid).1);
    results
        .writes
        .push(writes(&client, BUCKETS).await - written - count as f64);
    results.events.push(writes(&client, EVENTS).await - told);

    // What idles is measured when the writes of the start are over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (used, start) = (system::cpu(pid), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle = (system::cpu(pid) - used).as_secs_f64() / start.elapsed().as_secs_f64();
    results.idle.push(100.0 * idle);
    results.steady.push(system::memory(pid).0);

    let operator = restart(operator, &namespace, &vhost, count, &client, results).await;
    let start = Instant::now();
    delete(&buckets, count).await;
    eventually("no bucket and no queue to be left", LIMIT, async || {
        let left = buckets.list_metadata(&ListParams::default().limit(1)).await;
        match left.map(|list| list.items.len()) {
            Ok(0) => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    results.deletion.push(start.elapsed().as_secs_f64());
    assert_eq!(vhost.queues().await, Vec::<String>::new());
    drop(operator);
}

async fn restart<'t>(
    mut before: Operator,
    namespace: &Namespace<'t>,
    vhost: &Vhost<'t>,
    count: usize,
    client: &Client,
    results: &mut Results,
) -> Operator {
    assert!(before.terminate().await.success());
    let (written, start) = (writes(client, BUCKETS).await, Instant::now());
    let operator = Operator::start(testbed().await, namespace, vhost, &[SELDOM]).await;
    // A bucket has this series once its queues were looked at and its refills run.
    eventually("every bucket to be in force", LIMIT, async || {
        let metrics = operator.http("/metrics").await?;
        let seen = metrics
            .lines()
            .filter(|line| line.starts_with("tokenbucket_tokens_available{"))
            .count();
        if seen == count {
            Ok(())
        } else {
            Err(format!("{seen}"))
        }
    })
    .await;
    results.restart.push(start.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(3)).await;
    results
        .restart_writes
        .push(writes(client, BUCKETS).await - written);
    operator
}

/// The writes that a bucket takes to become ready, by the bench itself: what the API server allows.
async fn floor(client: &Client, namespace: &Namespace<'_>, count: usize) -> f64 {
    let buckets: Api<TokenBucket> = Api::namespaced(client.clone(), namespace.name());
    let params = PatchParams::default();
    let finalizers = Patch::Merge(json!({"metadata": {"finalizers": ["tokenbucket.dev/queues"]}}));
    let status = Patch::Merge(json!({"status": {"observedGeneration": 1, "availableTokens": 0}}));
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let start = Instant::now();
    each(count, async |name| {
        create_one(&buckets, &name).await;
        let patched = buckets.patch(&name, &params, &finalizers).await;
        patched.expect("a finalizer");
        let patched = buckets.patch_status(&name, &params, &status).await;
        patched.expect("a status");
    })
    .await;
    let elapsed = start.elapsed().as_secs_f64();
    each(count, async |name| {
        let patched = buckets.patch(&name, &params, &release).await;
        patched.expect("no finalizer");
    })
    .await;
    delete(&buckets, count).await;
    elapsed
}

async fn create(buckets: &Api<TokenBucket>, count: usize) {
    each(count, async |name| create_one(buckets, &name).await).await;
}

async fn create_one(buckets: &Api<TokenBucket>, name: &str) {
    let bucket = json!({
        "metadata": {"name": name},
        "spec": {"schedule": RARELY, "amount": 10, "maximum": 100},
    });
    let bucket = serde_json::from_value(bucket).expect("a bucket");
    let created = buckets.create(&PostParams::default(), &bucket).await;
    created.expect("it is accepted");
}

async fn delete(buckets: &Api<TokenBucket>, count: usize) {
    each(count, async |name| {
        let deleted = buckets.delete(&name, &DeleteParams::default()).await;
        deleted.expect("it can be deleted");
    })
    .await;
}

async fn each(count: usize, work: impl AsyncFn(String)) {
    stream::iter(0..count)
        .for_each_concurrent(IN_FLIGHT, |number| work(format!("bucket-{number:05}")))
        .await;
}

/// Waits until `count` buckets were seen ready.
async fn all_ready(buckets: Api<TokenBucket>, count: usize) {
    let mut ready = HashSet::new();
    let mut version = "0".to_owned();
    while ready.len() < count {
        let events = buckets.watch(&WatchParams::default(), &version).await;
        let mut events = pin!(events.expect("buckets can be watched"));
        while let Some(Ok(event)) = events.next().await {
            let (WatchEvent::Added(bucket) | WatchEvent::Modified(bucket)) = event else {
                continue;
            };
            let status = bucket.status.unwrap_or_default();
            let is_ready = condition(&status, "Ready") == "True";
            version = bucket.metadata.resource_version.unwrap_or_default();
            if is_ready && ready.insert(bucket.metadata.name) && ready.len() == count {
                return;
            }
        }
    }
}

async fn serving(operator: &Operator) {
    eventually("the operator to be ready", LIMIT, async || {
        operator.http("/readyz").await.map(drop)
    })
    .await;
}

/// Writes of `resource` that the API server has seen since it began.
async fn writes(client: &Client, resource: &str) -> f64 {
    let request = axum::http::Request::get("/metrics").body(Vec::new());
    let text = client.request_text(request.expect("a request")).await;
    text.expect("the API server's metrics")
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{"))
        .filter(|line| line.contains(&format!("resource=\"{resource}\"")))
        .filter(|line| {
            ["POST", "PUT", "PATCH", "APPLY"]
                .iter()
                .any(|it| line.contains(&format!("verb=\"{it}\"")))
        })
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
