//! The engine in the bench's own process: its outcomes tell how late each refill was.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Datelike, Timelike, Utc};
use chrono_tz::UTC;
use token_bucket_operator::api::{MissedRefills, QueueType};
use token_bucket_operator::broker::Endpoint;
use token_bucket_operator::bucket::{Bucket, BucketId};
use token_bucket_operator::engine::{Engine, Options, Outcome, Permit, Phase};
use token_bucket_operator::schedule::Timetable;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Vhost;

/// Longest time between two outcomes.
const LIMIT: Duration = Duration::from_secs(60);
/// Counts are not read meanwhile.
const SELDOM: Duration = Duration::from_secs(600);

pub struct Running {
    engine: Engine,
    outcomes: UnboundedReceiver<Outcome>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    revision: u64,
}

impl Running {
    pub fn start(vhost: &Vhost<'_>) -> Self {
        let endpoint = Endpoint::parse(&vhost.amqp_url()).expect("an AMQP URL");
        let options = Options {
            connection_name: "bench".into(),
            status_interval: SELDOM,
            refill_queue_type: QueueType::Classic,
            permit: Permit::unlimited(),
        };
        let (sender, outcomes) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (engine, task) = Engine::start(endpoint, options, sender, stop.clone());
        Self {
            engine,
            outcomes,
            stop,
            task: tokio::spawn(task),
            revision: 0,
        }
    }

    /// Puts buckets into force, and waits until their refills run.
    pub async fn apply(&mut self, buckets: &[Bucket]) {
        self.revision += 1;
        for bucket in buckets {
            self.engine.apply(bucket.clone(), self.revision);
        }
        let mut ready = HashSet::new();
        while ready.len() < buckets.len() {
            if let Outcome::Bucket(id, state) = self.next().await
                && state.phase == Phase::Ready
                && state.revision == self.revision
                && state.next_refill.is_some()
            {
                ready.insert(id);
            }
        }
    }

    /// From due to committed, for the next `count` refills.
    pub async fn lags(&mut self, count: usize) -> Vec<Duration> {
        let mut lags = Vec::new();
        while lags.len() < count {
            if let Outcome::Refilled { lag, .. } = self.next().await {
                lags.push(lag.expect("nobody asks but the schedule"));
            }
        }
        lags
    }

    async fn next(&mut self) -> Outcome {
        let outcome = tokio::time::timeout(LIMIT, self.outcomes.recv()).await;
        outcome.expect("something happens").expect("it runs")
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the engine ends by itself");
    }
}

pub fn bucket(number: usize, schedule: &str, amount: u64) -> Bucket {
    let name = format!("b{number}");
    let created = Utc::now();
    Bucket {
        id: BucketId {
            namespace: "bench".into(),
            name: name.as_str().into(),
        },
        uid: format!("uid-{number}"),
        created,
        timetable: Timetable::new(schedule.parse().expect("a schedule"), UTC, created),
        name,
        amount,
        maximum: 10_000_000,
        initial_tokens: 0,
        refill_queue: "token_buckets.refill".into(),
        suspend: false,
        missed_refills: MissedRefills::Latest,
        starting_deadline: None,
        queue_type: QueueType::Classic,
        refill_request: None,
    }
}

/// A schedule that is due at `at`, and then not for a year.
pub fn once(at: DateTime<Utc>) -> String {
    let (second, minute, hour) = (at.second(), at.minute(), at.hour());
    format!("{second} {minute} {hour} {} {} *", at.day(), at.month())
}

/// The value that `percent` of all are not above.
pub fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64()
}
