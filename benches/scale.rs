//! The controller at scale: many buckets created at once, taken up again after a restart, deleted.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use token_bucket_operator::api::TokenBucket;

use crate::alone::{self, Alone};
use crate::report::{Goal, Report};
use crate::support::{Namespace, Operator, Vhost, condition, eventually, testbed};
use crate::{steady, system};

/// Resources as the API server's metrics name them.
const BUCKETS: &str = "tokenbuckets";
const EVENTS: &str = "events";
/// Counts are read so seldom that nothing of it is seen.
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
    alone: Vec<Alone>,
    ready: Vec<f64>,
    /// Processor time until then, by process.
    ready_cpu: Vec<[f64; 5]>,
    peak: Vec<f64>,
    steady: Vec<f64>,
    idle: Vec<f64>,
    writes: Vec<f64>,
    events: Vec<f64>,
    restart: Vec<f64>,
    restart_cpu: Vec<f64>,
    restart_writes: Vec<f64>,
    counting: steady::Counting,
    deletion: Vec<f64>,
    deletion_cpu: Vec<[f64; 5]>,
}

/// Measures `count` buckets, `rounds` times.
pub async fn run(report: &mut Report, count: usize, rounds: usize) {
    let mut results = Results::default();
    for _ in 0..rounds {
        round(count, &mut results).await;
    }
    tell(report, count, results);
}

fn tell(report: &mut Report, count: usize, results: Results) {
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
    let alone = |part: fn(&Alone) -> f64| results.alone.iter().map(part).collect::<Vec<_>>();
    let over = |times: &[f64], floor: Vec<f64>| {
        let ratios = times.iter().zip(floor).map(|(time, floor)| time / floor);
        ratios.collect::<Vec<_>>()
    };
    let each = |all: &[f64]| all.iter().map(|it| it / count as f64).collect::<Vec<_>>();
    let most = |goal| Some(Goal::AtMost(goal));
    let mut add = |what: &str, unit, values, goal| {
        report.add(format!("{count} buckets: {what}"), unit, values, goal);
    };
    if !results.alone.is_empty() {
        let ready = over(&results.ready, alone(Alone::ready));
        add("ready ÷ the same by the bench", "×", ready, None);
        let deletion = over(&results.deletion, alone(Alone::gone));
        add("deletion ÷ the same by the bench", "×", deletion, None);
        for (what, part) in alone::PARTS {
            add(&format!("bench: {what}"), "s", alone(part), None);
        }
    }
    let ready = "from the first create to the last Ready";
    add(ready, "s", results.ready, most(goals.ready));
    for (who, used) in by_process(&results.ready_cpu) {
        add(&format!("CPU for that: {who}"), "s", used, None);
    }
    add("API writes each", "", each(&results.writes), most(2.0));
    add("events of all", "", results.events, most(0.0));
    add("peak memory", "MiB", results.peak, None);
    let memory = goals.memory.map(Goal::AtMost);
    add("steady memory", "MiB", results.steady, memory);
    add("CPU while idle", "% core", results.idle, most(2.0));
    let restart = "restart until all are in force";
    add(restart, "s", results.restart, most(goals.restart));
    add("CPU for that: operator", "s", results.restart_cpu, None);
    let steady::Counting {
        sweeps,
        cpu,
        memory: counting,
    } = results.counting;
    let sweep = (count > 1_000).then_some(Goal::AtMost(0.5));
    add("a sweep of counts", "s", sweeps, sweep);
    add("CPU with a sweep every 10 s", "% core", cpu, None);
    add("memory after sweeps", "MiB", counting, memory);
    let writes = "API writes of the restart";
    add(writes, "", results.restart_writes, most(0.0));
    let deletion = goals.deletion.map(Goal::AtMost);
    add("deletion of all", "s", results.deletion, deletion);
    for (who, used) in by_process(&results.deletion_cpu) {
        add(&format!("CPU for the deletion: {who}"), "s", used, None);
    }
}

/// Processor time of each of the processes that share the machine.
fn by_process(used: &[[f64; 5]]) -> impl Iterator<Item = (&'static str, Vec<f64>)> {
    ["operator", "API server", "etcd", "broker", "bench"]
        .into_iter()
        .enumerate()
        .map(|(index, who)| (who, used.iter().map(|all| all[index]).collect()))
}

async fn round(count: usize, results: &mut Results) {
    let testbed = testbed().await;
    let client = testbed.client().await;
    // The limits grow with the number: they are measured where that takes seconds.
    if count <= 1_000 {
        results.alone.push(alone::measure(&client, count).await);
    }

    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets: Api<TokenBucket> = Api::namespaced(client.clone(), namespace.name());
    let operator = Operator::start(testbed, &namespace, &vhost, &[SELDOM]).await;
    serving(&operator).await;
    let pid = operator.pid();

    let (written, told) = (
        writes(&client, BUCKETS).await,
        writes(&client, EVENTS).await,
    );
    let everybody = |operator| {
        [
            operator,
            system::server(testbed, "kube-apiserver"),
            system::server(testbed, "etcd"),
            system::server(testbed, "rabbitmq"),
            std::process::id(),
        ]
    };
    let since = |used: [Duration; 5], operator| {
        let now = everybody(operator).map(system::cpu);
        std::array::from_fn(|it| (now[it] - used[it]).as_secs_f64())
    };
    let (used, start) = (everybody(pid).map(system::cpu), Instant::now());
    let ready = tokio::spawn(all_ready(buckets.clone(), count));
    alone::create(&buckets, count).await;
    ready.await.expect("every bucket becomes ready");
    results.ready.push(start.elapsed().as_secs_f64());
    results.ready_cpu.push(since(used, pid));
    results
        .writes
        .push(writes(&client, BUCKETS).await - written - count as f64);
    results.events.push(writes(&client, EVENTS).await - told);
    results.peak.push(system::memory(pid).1);

    // What idles is measured when the writes of the start are over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    results.idle.push(steady::idle(pid).await);
    results.steady.push(system::memory(pid).0);

    let operator = restart(operator, &namespace, &vhost, count, &client, results).await;
    results.counting.measure(&operator, count).await;

    let pid = operator.pid();
    let (used, start) = (everybody(pid).map(system::cpu), Instant::now());
    alone::delete(&buckets, count).await;
    eventually("no bucket to be left", LIMIT, async || {
        let left = buckets.list_metadata(&ListParams::default().limit(1)).await;
        match left.map(|list| list.items.len()) {
            Ok(0) => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    results.deletion.push(start.elapsed().as_secs_f64());
    results.deletion_cpu.push(since(used, pid));
    assert_eq!(vhost.queues().await, Vec::<String>::new());
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
    let operator = Operator::start(testbed().await, namespace, vhost, &[]).await;
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
    results
        .restart_cpu
        .push(system::cpu(operator.pid()).as_secs_f64());
    tokio::time::sleep(Duration::from_secs(3)).await;
    results
        .restart_writes
        .push(writes(client, BUCKETS).await - written);
    operator
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
