use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use token_bucket_operator::api::{TokenBucketStatus, from_time};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Buckets, Vhost, last_tick};

/// When a bucket of an [`Accountant`] is refilled: in each second of the minute that is a multiple of this one. It knows
/// the ticks by arithmetic of its own.
#[derive(Clone, Copy, Debug)]
pub struct Pace(pub u64);

impl Pace {
    /// As `spec.schedule`.
    pub fn schedule(self) -> String {
        format!("*/{} * * * * *", self.0)
    }

    /// How many ticks there are after `created` up to and with `last`.
    pub fn ticks(self, created: DateTime<Utc>, last: DateTime<Utc>) -> u64 {
        let due = |second: &i64| (second.rem_euclid(60) as u64).is_multiple_of(self.0);
        let seconds = created.timestamp() + 1..=last.timestamp();
        seconds.filter(due).count() as u64
    }
}

/// One bucket in the books.
#[derive(Debug)]
pub struct Account {
    pub name: String,
    pub pace: Pace,
    pub amount: u64,
    pub maximum: u64,
    /// Whether workers take from it, without pause.
    pub takers: bool,
    created: DateTime<Utc>,
    taken: AtomicU64,
    highest: AtomicU64,
}

/// What the books say of one bucket at the end.
#[derive(Clone, Copy, Debug)]
pub struct Balance {
    /// Ticks that were due.
    pub ticks: u64,
    /// Tokens that were taken, and tokens that are left.
    pub taken: u64,
    pub left: u64,
    /// The most tokens that were ever seen in it.
    pub highest: u64,
}

impl Account {
    /// Creates the bucket.
    pub async fn open(
        buckets: &Buckets,
        name: &str,
        pace: Pace,
        [amount, maximum]: [u64; 2],
        takers: bool,
        extra: Value,
    ) -> Self {
        let mut spec = json!({
            "schedule": pace.schedule(), "amount": amount, "maximum": maximum, "missedRefills": "All",
        });
        let fields = spec.as_object_mut().expect("an object");
        fields.extend(extra.as_object().cloned().unwrap_or_default());
        let created = buckets.create(name, spec).await;
        Self {
            name: name.to_owned(),
            pace,
            amount,
            maximum,
            takers,
            created: from_time(&created.creation_timestamp().expect("a creation time")),
            taken: AtomicU64::default(),
            highest: AtomicU64::default(),
        }
    }

    pub fn queue(&self) -> String {
        format!("token_bucket_{}", self.name.replace('-', "_"))
    }

    /// Tokens taken until now.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Counts tokens that a test has taken itself.
    pub fn count(&self, tokens: u64) {
        self.taken.fetch_add(tokens, Ordering::SeqCst);
    }

    /// Waits for a tick after now, so that everything before it has been dealt with, and stops the schedule, which makes
    /// the sum exact.
    pub async fn balance(&self, buckets: &Buckets, vhost: &Vhost<'_>) -> Balance {
        let healed = Utc::now();
        let what = "a refill after everything";
        buckets
            .until(&self.name, what, |status| last_tick(status) > Some(healed))
            .await;
        buckets.edit(&self.name, json!({"suspend": true})).await;
        let stopped = |status: &TokenBucketStatus| status.next_refill_time.is_none();
        let status = buckets.until(&self.name, "the suspension", stopped).await;
        let last = last_tick(&status).expect("a last tick");
        let left = vhost.depth(&self.queue()).await.expect("its queue");
        Balance {
            ticks: self.pace.ticks(self.created, last),
            taken: self.taken(),
            left,
            highest: self.highest.load(Ordering::SeqCst).max(left),
        }
    }

    /// Panics unless each tick has added its amount once.
    pub async fn check(&self, buckets: &Buckets, vhost: &Vhost<'_>) {
        let balance = self.balance(buckets, vhost).await;
        assert_eq!(
            balance.taken + balance.left,
            self.amount * balance.ticks,
            "{}: {balance:?}",
            self.name
        );
        assert!(
            balance.highest <= self.maximum,
            "{}: {balance:?}",
            self.name
        );
    }
}

/// Takes tokens and counts them, and looks again and again how full the buckets are. It has its own way to the broker,
/// and counters of its own.
pub struct Accountant {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Accountant {
    /// Each bucket gets a taker or, where nobody takes, somebody who looks.
    pub async fn start(vhost: &Vhost<'_>, accounts: &[Arc<Account>]) -> Self {
        let url = vhost.amqp_url();
        let connection = Connection::connect(&url, ConnectionProperties::default())
            .await
            .expect("the broker accepts connections");
        let connection = Arc::new(connection);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for account in accounts {
            let (account, connection) = (account.clone(), connection.clone());
            let stop = stop.clone();
            tasks.spawn(async move {
                let channel = connection.create_channel().await.expect("a channel");
                while !stop.is_cancelled() {
                    account.look(&channel).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        Self { stop, tasks }
    }

    /// Returns when nobody takes any more.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no taker has failed");
        }
    }
}

impl Account {
    async fn look(&self, channel: &Channel) {
        let queue = self.queue();
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let found = channel
            .queue_declare(queue.as_str().into(), passive, Default::default())
            .await;
        let depth = found.expect("its queue stays").message_count();
        self.highest.fetch_max(depth.into(), Ordering::SeqCst);
        if self.takers {
            let no_ack = BasicGetOptions { no_ack: true };
            let token = channel.basic_get(queue.as_str().into(), no_ack).await;
            if token.expect("its queue stays").is_some() {
                self.count(1);
            }
        }
    }
}
