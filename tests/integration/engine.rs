//! The engine on its own: no Kubernetes, a real RabbitMQ.

use std::time::{Duration, Instant};

use chrono::Utc;
use token_bucket_operator::api::{DeletionPolicy, MissedRefills, QueueType};
use token_bucket_operator::broker::Endpoint;
use token_bucket_operator::bucket::{Bucket, BucketId};
use token_bucket_operator::engine::{Engine, Options, Outcome, Phase, Removal};
use token_bucket_operator::schedule::{Timetable, parse_zone};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{SOON, Vhost, eventually, testbed};

struct Running {
    engine: Engine,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(vhost: &Vhost<'_>) -> Self {
        let endpoint = Endpoint::parse(&vhost.amqp_url()).expect("an AMQP URL");
        let options = Options {
            connection_name: "test".into(),
            status_interval: Duration::from_millis(200),
            refill_queue_type: QueueType::Classic,
        };
        let (sender, outcomes) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (engine, task) = Engine::start(endpoint, options, sender, stop.clone());
        Self { engine, outcomes, stop, task: tokio::spawn(task) }
    }

    async fn ready(&mut self, count: usize, revision: u64) {
        let mut ready = std::collections::HashSet::new();
        while ready.len() < count {
            let outcome = tokio::time::timeout(SOON, self.outcomes.recv()).await;
            if let Outcome::Bucket(id, state) = outcome.expect("buckets are ready soon").expect("an engine")
                && state.phase == Phase::Ready
                && state.revision == revision
            {
                ready.insert(id);
            }
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the engine ends by itself");
    }
}

fn bucket(name: &str, schedule: &str, amount: u64, maximum: u64) -> Bucket {
    let zone = parse_zone("Etc/UTC").expect("UTC");
    let created = Utc::now();
    Bucket {
        id: BucketId { namespace: "test".into(), name: name.into() },
        uid: format!("uid-{name}"),
        created,
        name: name.into(),
        timetable: Timetable::new(schedule.parse().expect("a schedule"), zone, created),
        amount,
        maximum,
        initial_tokens: 0,
        refill_queue: "refill".into(),
        suspend: false,
        missed_refills: MissedRefills::Latest,
        starting_deadline: None,
        queue_type: QueueType::Classic,
        refill_request: None,
    }
}

#[tokio::test]
async fn quick_smoke() {
    let vhost = testbed().await.vhost().await;
    let mut running = Running::start(&vhost);
    let start = Instant::now();
    for number in 0..1000 {
        running.engine.apply(bucket(&format!("b{number}"), "* * * * * *", 1, 25), 1);
    }
    running.ready(1000, 1).await;
    println!("1000 ready after {:?}", start.elapsed());
    running.engine.apply(bucket("big", "0 0 1 1 *", 100_000, 100_000), 1);
    running.ready(1, 1).await;
    let start = Instant::now();
    let request = Some("now".to_owned());
    running.engine.apply(Bucket { refill_request: request, ..bucket("big", "0 0 1 1 *", 100_000, 100_000) }, 2);
    eventually("100,000", SOON, async || match vhost.depth("token_bucket_big").await {
        Some(100_000) => Ok(()),
        depth => Err(format!("{depth:?}")),
    }).await;
    println!("100k in {:?}", start.elapsed());
    eventually("full", SOON, async || match vhost.depth("token_bucket_b7").await {
        Some(25) => Ok(()),
        depth => Err(format!("{depth:?}")),
    }).await;
    let start = Instant::now();
    for number in 0..1000 {
        let name = format!("b{number}");
        let id = BucketId { namespace: "test".into(), name: name.clone() };
        running.engine.remove(Removal { id, name, refill_queue: "refill".into(), policy: DeletionPolicy::Delete }).await.expect("removed");
    }
    println!("1000 removed in {:?}", start.elapsed());
    let name = "big".to_owned();
    let id = BucketId { namespace: "test".into(), name: name.clone() };
    running.engine.remove(Removal { id, name, refill_queue: "refill".into(), policy: DeletionPolicy::Delete }).await.expect("removed");
    assert_eq!(vhost.queues().await, Vec::<String>::new());
    running.stop().await;
}
