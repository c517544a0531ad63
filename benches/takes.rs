//! Takes a second of the clients, beside the Python library's own way and the broker's answers to a raw client; and what it costs
//! that a thousand wait.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use token_bucket_client::{Bucket, Client};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::raw::{self, Raw};
use crate::report::{Goal, Report};
use crate::support::{Testbed, Vhost, testbed, tool};
use crate::system;

const BUCKET: &str = "token_bucket_x";
/// More than are taken in a measurement.
const TOKENS: u32 = 400_000;
/// Published at one time.
const PART: u32 = 10_000;
const FOR: Duration = Duration::from_secs(2);
const CALLERS: usize = 16;
const PREFETCH: u16 = 1_000;
const WAITING: u32 = 1_000;
/// How long the broker is watched while they wait.
const WATCHED: Duration = Duration::from_secs(10);

pub async fn run(report: &mut Report, rounds: usize) {
    rates(report, rounds).await;
    waiting(report, rounds).await;
}

async fn rates(report: &mut Report, rounds: usize) {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    declare(&vhost).await;
    let client = Client::connect(&vhost.amqp_url()).await.expect("a broker");
    let bucket = client.bucket("x").expect("a name");
    let (mut one, mut many, mut raw_gets) = (Vec::new(), Vec::new(), Vec::new());
    let mut python = Vec::new();
    for _ in 0..rounds {
        python.push(by_python(&vhost).await);
        fill(&vhost, TOKENS).await;
        one.push(rate(&bucket, 1).await);
        raw_gets.push(by_raw(&vhost).await);
        fill(&vhost, TOKENS).await;
        many.push(rate(&bucket.with_prefetch(PREFETCH), CALLERS).await);
    }
    client.close().await;
    let of = |name: &str| -> Vec<f64> {
        let rates = python.iter();
        let rate = |rates: &Value| {
            rates[name]
                .as_f64()
                .unwrap_or_else(|| panic!("no {name}: {rates}"))
        };
        rates.map(rate).collect()
    };
    let library = of("library");
    let over = |ours: &[f64], peer: &[f64]| -> Vec<f64> {
        ours.iter()
            .zip(peer)
            .map(|(ours, peer)| ours / peer)
            .collect()
    };
    let mut add =
        |what: &str, unit, values, goal| report.add(format!("takes: {what}"), unit, values, goal);
    let least = |goal| Some(Goal::AtLeast(goal));
    let (python_one, python_many) = (of("one_caller"), of("tasks_16_prefetch"));
    add(
        "Rust, one caller ÷ Python library",
        "×",
        over(&one, &library),
        least(20.0),
    );
    add(
        "Rust, 16 with prefetch ÷ Python library",
        "×",
        over(&many, &library),
        least(200.0),
    );
    add(
        "Python, one caller ÷ Python library",
        "×",
        over(&python_one, &library),
        least(10.0),
    );
    add(
        "Python, 16 with prefetch ÷ Python library",
        "×",
        over(&python_many, &library),
        least(50.0),
    );
    add(
        "Rust, one caller ÷ raw basic.get",
        "×",
        over(&one, &raw_gets),
        None,
    );
    add("Python library", "takes/s", library, None);
    add(
        "raw basic.get, one after the other",
        "takes/s",
        raw_gets,
        None,
    );
    add("Rust, one caller", "takes/s", one, None);
    add("Rust, 16 callers with prefetch", "takes/s", many, None);
    add("Python, one caller", "takes/s", python_one, None);
    add(
        "Python, 16 callers with prefetch",
        "takes/s",
        python_many,
        None,
    );
}

/// So many clients, each with a connection of its own, wait for one token each.
async fn waiting(report: &mut Report, rounds: usize) {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    declare(&vhost).await;
    let mut clients = Vec::new();
    while clients.len() < WAITING as usize {
        let some = (0..50).map(|_| async {
            let client = Client::connect(&vhost.amqp_url()).await.expect("a broker");
            client.bucket("x").expect("a name")
        });
        clients.extend(futures::future::join_all(some).await);
    }
    let (mut idle, mut cost, mut served) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        idle.push(broker_cpu(testbed).await);
        let mut waits = JoinSet::new();
        for bucket in &clients {
            let bucket = bucket.clone();
            waits.spawn(async move { bucket.acquire().await.map(drop) });
        }
        vhost.consumers_become(BUCKET, WAITING).await;
        cost.push(broker_cpu(testbed).await);
        let start = Instant::now();
        fill(&vhost, WAITING).await;
        while let Some(waited) = waits.join_next().await {
            waited.expect("it ends").expect("a token");
        }
        served.push(start.elapsed().as_secs_f64());
        vhost.consumers_become(BUCKET, 0).await;
    }
    let mut add = |what: &str, unit, values, goal| {
        report.add(format!("1,000 clients: {what}"), unit, values, goal)
    };
    add(
        "all served after a refill of 1,000",
        "s",
        served,
        Some(Goal::AtMost(0.2)),
    );
    add("broker's CPU while they wait", "%", cost, None);
    add(
        "broker's CPU while they are only connected",
        "%",
        idle,
        None,
    );
}

async fn broker_cpu(testbed: &Testbed) -> f64 {
    let broker = system::server(testbed, "rabbitmq");
    let before = system::cpu(broker);
    sleep(WATCHED).await;
    100.0 * (system::cpu(broker) - before).as_secs_f64() / WATCHED.as_secs_f64()
}

async fn declare(vhost: &Vhost<'_>) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongUInt(10_000_000));
    vhost.declare(BUCKET, arguments).await;
}

/// Fills the bucket as the operator does, in transactions.
async fn fill(vhost: &Vhost<'_>, tokens: u32) {
    let have = u32::try_from(vhost.depth(BUCKET).await.expect("the bucket")).expect("few");
    let (url, mut missing) = (vhost.amqp_url(), tokens.saturating_sub(have));
    let filled = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::connect(&url);
        while missing > 0 {
            let part = missing.min(PART);
            let mut frames = Vec::new();
            for _ in 0..part {
                raw::publish(&mut frames, BUCKET, b"");
            }
            raw.commit(&frames);
            missing -= part;
        }
    });
    filled.await.expect("it is filled");
}

/// Takes in so many tasks without pause.
async fn rate(bucket: &Bucket, callers: usize) -> f64 {
    let (taken, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (bucket, taken, stop) = (bucket.clone(), taken.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                drop(bucket.acquire().await.expect("a token"));
                taken.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let start = Instant::now();
    sleep(FOR).await;
    let rate = taken.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    rate
}

/// What a broker answers to who writes `basic.get` and reads the answer, and does nothing else.
async fn by_raw(vhost: &Vhost<'_>) -> f64 {
    let url = vhost.amqp_url();
    let gets = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::connect(&url);
        let (start, mut gets) = (Instant::now(), 0_u32);
        while start.elapsed() < FOR {
            raw.get(BUCKET);
            gets += 1;
        }
        f64::from(gets) / start.elapsed().as_secs_f64()
    });
    gets.await.expect("it is asked")
}

/// The library's own way, and those of the Python client.
async fn by_python(vhost: &Vhost<'_>) -> Value {
    let environment = Path::new(&tool("python-client")).join("newest");
    let output = Command::new(environment.join("bin/python"))
        .arg("clients/python/benches/takes.py")
        .env("AMQP_URL", vhost.amqp_url())
        .env("PYTHONPATH", "clients/python/src")
        .output()
        .await
        .expect("Python runs");
    let (out, error) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    let rates: Value = serde_json::from_slice(&out).unwrap_or_else(|_| panic!("{error}"));
    rates["takes_per_second"].clone()
}
