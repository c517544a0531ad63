use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use jiff::tz::TimeZone;
use token_bucket_operator::amqp::{Broker, Endpoint};
use token_bucket_operator::api::{DeletionPolicy, MissedRefills, QueueType};
use token_bucket_operator::bucket::{Bucket, BucketId, RefillRequest};
use token_bucket_operator::engine::{
    BucketState, Engine, LeaseValidity, Options, Outcome, Phase, Removal,
};
use token_bucket_operator::schedule::Timetable;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{SOON, Vhost};

/// An engine on its own, without Kubernetes.
pub struct Running {
    pub engine: Engine,
    pub outcomes: mpsc::UnboundedReceiver<Outcome>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start(vhost: &Vhost<'_>) -> Self {
        Self::start_with(vhost, LeaseValidity::unlimited())
    }

    pub fn start_with(vhost: &Vhost<'_>, lease: LeaseValidity) -> Self {
        Self::start_at(&vhost.amqp_url(), QueueType::Classic, lease)
    }

    /// On any broker, with refill queues of any type.
    pub fn of_type(amqp_url: &str, refill_queue_type: QueueType) -> Self {
        Self::start_at(amqp_url, refill_queue_type, LeaseValidity::unlimited())
    }

    fn start_at(amqp_url: &str, refill_queue_type: QueueType, lease: LeaseValidity) -> Self {
        let options = Options {
            refill_queue_type,
            lease,
            ..Self::options()
        };
        Self::start_as(amqp_url, options)
    }

    /// What it is told unless a test wants something else.
    pub fn options() -> Options {
        Options {
            connection_name: "test".into(),
            operator: "test".into(),
            status_interval: Duration::from_millis(200),
            refill_queue_type: QueueType::Classic,
            lease: LeaseValidity::unlimited(),
        }
    }

    /// Exactly as it is told.
    pub fn start_as(amqp_url: &str, options: Options) -> Self {
        let endpoint = Endpoint::parse(amqp_url).expect("an AMQP URL");
        let (sender, outcomes) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (engine, task) = Engine::start(endpoint, options, sender, stop.clone());
        Self {
            engine,
            outcomes,
            stop,
            task: tokio::spawn(task),
        }
    }

    /// Waits for an outcome, and answers it.
    pub async fn until(&mut self, wanted: impl Fn(&Outcome) -> bool) -> Outcome {
        loop {
            let outcome = tokio::time::timeout(SOON, self.outcomes.recv()).await;
            let outcome = outcome
                .expect("the outcome comes soon")
                .expect("the engine runs");
            if wanted(&outcome) {
                return outcome;
            }
        }
    }

    /// Waits until `count` buckets are ready in this revision, and answers the state of the last one.
    pub async fn ready(&mut self, count: usize, revision: u64) -> Arc<BucketState> {
        let ready = |outcome: &Outcome| match outcome {
            Outcome::Bucket(_, state) => state.phase == Phase::Ready && state.revision == revision,
            _ => false,
        };
        let mut seen = HashSet::new();
        loop {
            if let Outcome::Bucket(id, state) = self.until(ready).await {
                seen.insert(id);
                if seen.len() == count {
                    return state;
                }
            }
        }
    }

    /// Ends it as a crash does, but for its connections.
    pub async fn abort(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it ran");
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the engine ends by itself");
    }
}

/// A bucket that has just been created.
pub fn bucket(name: &str, schedule: &str, amount: u64, maximum: u64) -> Bucket {
    let created = Utc::now();
    Bucket {
        id: BucketId::new("test", name),
        uid: format!("uid-{name}").into(),
        created,
        name: name.into(),
        timetable: Timetable::new(
            schedule.parse().expect("a schedule"),
            TimeZone::UTC,
            created,
        ),
        amount,
        maximum,
        initial_tokens: 0,
        refill_queue: "refill".into(),
        suspend: false,
        missed_refills: MissedRefills::Latest,
        starting_deadline: None,
        queue_type: QueueType::Classic,
        refill_request: None,
        rivals: Box::default(),
        moved: None,
    }
}

/// The same bucket, with a refill asked for by annotation.
pub fn asked(bucket: &Bucket, value: &str) -> Bucket {
    Bucket {
        refill_request: Some(value.into()),
        ..bucket.clone()
    }
}

/// The removal of a bucket with its queues.
pub fn removal(bucket: &Bucket) -> Removal {
    let Bucket {
        id,
        name,
        uid,
        refill_queue,
        ..
    } = bucket.clone();
    Removal {
        id,
        uid,
        name,
        refill_queue: refill_queue.into(),
        policy: DeletionPolicy::Delete,
        moves: false,
        established: true,
    }
}

/// Whether it says that a bucket is being worked on or waits, for this reason.
pub fn progressing(outcome: &Outcome, why: &str) -> bool {
    let Outcome::Bucket(_, state) = outcome else {
        return false;
    };
    matches!(state.phase, Phase::Progressing { reason, .. } if reason == why)
}

/// Sends refill requests as a program of its own.
pub async fn send_requests(vhost: &Vhost<'_>, queue: &str, requests: Vec<RefillRequest>) {
    let endpoint = Endpoint::parse(&vhost.amqp_url()).expect("an AMQP URL");
    let broker = Broker::connect(&endpoint, "test").await.expect("a broker");
    let publisher = Arc::new(broker).publisher().await.expect("a channel");
    let messages: Vec<_> = requests
        .into_iter()
        .map(|request| (queue.to_owned(), request))
        .collect();
    let results = publisher.publish(&messages).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}
