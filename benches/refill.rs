//! A big refill of one bucket: the operator, the broker's limit, and the Python library.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::QueuePurgeOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use token_bucket_operator::amqp::{Broker, Endpoint, RequestPublisher};
use token_bucket_operator::bucket::{Origin, REFILL_TASK, RefillRequest};

use crate::raw::{self, Raw};
use crate::report::{Goal, Report};
use crate::support::{Buckets, Celery, Operator, RARELY, Vhost, eventually, testbed};
use crate::system;

const TOKENS: u32 = 100_000;
/// As the operator has it.
const TRANSACTION: u32 = 10_000;
const BUCKET: &str = "token_bucket_x";
const REFILL: &str = "token_buckets.refill";
/// Longest time that a refill may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How often the operator's log is read. The broker is not asked meanwhile: it would have to answer.
const OFTEN: Duration = Duration::from_millis(2);
/// The library needs half a minute for a round, and its results differ little.
const LIBRARY_ROUNDS: usize = 2;

/// Measures all variants, one after the other in each round.
pub async fn run(report: &mut Report, rounds: usize) {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let (ours, limit, theirs) = (
        testbed.vhost().await,
        testbed.vhost().await,
        testbed.vhost().await,
    );
    let operator = Operator::start(testbed, &namespace, &ours, &["--status-interval=10m"]).await;
    let buckets = Buckets::of(testbed, &namespace).await;
    let spec = json!({"schedule": RARELY, "amount": TOKENS, "maximum": TOKENS});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let mut raw = prepare(&limit).await;
    let celery = Celery::new(&theirs, TOKENS, TOKENS).await;
    theirs.declare(REFILL, FieldTable::default()).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongUInt(TOKENS));
    theirs.declare(BUCKET, arguments).await;
    let _worker = celery.worker(REFILL);
    theirs.depth_becomes(REFILL, 0).await;
    let (ask_ours, ask_theirs) = (publisher(&ours).await, publisher(&theirs).await);

    let (mut operators, mut limits, mut libraries) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = Vec::new();
    for round in 0..rounds {
        // Each of the two comes first now and then: what one leaves behind meets the other.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                let before = system::cpu(operator.pid());
                operators.push(by_operator(&ours, &ask_ours, &operator, round).await);
                used.push((system::cpu(operator.pid()) - before).as_secs_f64());
            } else {
                let seconds;
                (raw, seconds) = tokio::task::spawn_blocking(|| by_raw(raw))
                    .await
                    .expect("it is refilled");
                purge(&limit).await;
                limits.push(f64::from(TOKENS) / seconds);
            }
        }
        if round < LIBRARY_ROUNDS {
            libraries.push(by_library(&theirs, &ask_theirs, &celery, round + 1).await);
        }
    }
    let over = |peer: &[f64]| {
        operators
            .iter()
            .zip(peer)
            .map(|(ours, peer)| ours / peer)
            .collect::<Vec<_>>()
    };
    let mut add = |what: &str, unit, values, goal| {
        report.add(format!("100,000 tokens: {what}"), unit, values, goal);
    };
    let least = |goal| Some(Goal::AtLeast(goal));
    add("operator ÷ broker's limit", "×", over(&limits), least(0.95));
    add(
        "operator ÷ Python library",
        "×",
        over(&libraries),
        least(9.0),
    );
    add("broker's limit", "tokens/s", limits, None);
    add("Python library", "tokens/s", libraries, None);
    add("operator", "tokens/s", operators, None);
    add("operator's CPU for that", "s", used, None);
}

/// Asks the library for a refill, and answers tokens per second until its task reports success. That favours it: it
/// awaits no confirms, so tokens may be on their way still.
async fn by_library(
    vhost: &Vhost<'_>,
    publisher: &RequestPublisher,
    celery: &Celery,
    round: usize,
) -> f64 {
    let start = Instant::now();
    ask(publisher, round).await;
    eventually("the library's task to end", LIMIT, async || {
        let journal = celery.journal();
        match journal.attempts(&format!("SUCCESS {REFILL_TASK}")) {
            done if done == round => Ok(()),
            _ => Err(format!("{journal:?}")),
        }
    })
    .await;
    let seconds = start.elapsed().as_secs_f64();
    purge(vhost).await;
    f64::from(TOKENS) / seconds
}

/// Each round has an id of its own: the operator takes a second request with the same one for a duplicate.
async fn ask(publisher: &RequestPublisher, round: usize) {
    let request = RefillRequest {
        bucket: "x".into(),
        origin: Origin::Foreign {
            id: Some(format!("round-{round}")),
        },
    };
    let answers = publisher.publish(&[(REFILL, request)]).await;
    assert_eq!(answers, [Ok(())]);
}

/// Asks for a refill as a Celery app does, and answers tokens per second until the operator says that it is done.
async fn by_operator(
    vhost: &Vhost<'_>,
    publisher: &RequestPublisher,
    operator: &Operator,
    round: usize,
) -> f64 {
    let done = || {
        operator
            .logs()
            .matches("refilled to the last token")
            .count()
    };
    let before = done();
    let start = Instant::now();
    ask(publisher, round).await;
    while done() == before {
        assert!(start.elapsed() < LIMIT, "the bucket is not filled");
        tokio::time::sleep(OFTEN).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(vhost.depth(BUCKET).await, Some(TOKENS.into()));
    purge(vhost).await;
    f64::from(TOKENS) / seconds
}

async fn publisher(vhost: &Vhost<'_>) -> RequestPublisher {
    let endpoint = Endpoint::parse(&vhost.amqp_url()).expect("an address");
    let broker = Broker::connect(&endpoint, "bench").await.expect("a broker");
    let publisher = Arc::new(broker).publisher().await;
    publisher.expect("a channel")
}

async fn purge(vhost: &Vhost<'_>) {
    let channel = vhost.channel().await;
    eventually("the bucket to be empty", LIMIT, async || {
        // Again and again: the library's tokens may come after the end of its task.
        let purged = channel.queue_purge(BUCKET.into(), QueuePurgeOptions::default());
        purged.await.expect("the bucket is there");
        match vhost.depth(BUCKET).await {
            Some(0) => Ok(()),
            depth => Err(format!("{depth:?}")),
        }
    })
    .await;
}

/// The queues of a bucket, and their consumer.
async fn prepare(vhost: &Vhost<'_>) -> Raw {
    let url = vhost.amqp_url();
    let prepared = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::connect(&url);
        raw.declare(BUCKET, Some(TOKENS));
        raw.declare(&format!("{BUCKET}.ledger"), Some(1));
        raw.declare(REFILL, None);
        raw.consume(REFILL, 2_000);
        raw
    });
    prepared.await.expect("the broker is as expected")
}

/// The operator's transactions; answers the seconds from the request to the last commit.
fn by_raw(mut raw: Raw) -> (Raw, f64) {
    let mut tokens = Vec::new();
    for _ in 0..TRANSACTION {
        raw::publish(&mut tokens, BUCKET, b"");
    }
    raw::publish(&mut tokens, &format!("{BUCKET}.ledger"), &[b'x'; 300]);
    let mut request = Vec::new();
    raw::publish(&mut request, REFILL, &[b'x'; 300]);
    let start = Instant::now();
    raw.commit(&request);
    let mut ack = Vec::new();
    raw::acknowledge(&mut ack, raw.delivery());
    raw.send(&ack);
    for _ in 0..TOKENS / TRANSACTION {
        raw.commit(&tokens);
    }
    (raw, start.elapsed().as_secs_f64())
}
