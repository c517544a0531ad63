//! The accountant: knows by its own arithmetic which ticks were due, and counts tokens at the broker. It asks neither the
//! operator nor its statuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::options::BasicGetOptions;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{Pace, Vhost};

/// How long after the last tick the sums have to agree, at most.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// Sums that have to agree in a row, a second apart. One could agree by accident: a doubled tick and one that is late.
const AGREEMENTS: u32 = 3;

/// What is promised about the sum of a bucket's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Every tick once, whatever happens: `missedRefills: All` and a maximum that is never reached.
    Exact,
    /// No tick twice: `Latest` or `Skip`, or a small maximum.
    AtMost,
}

/// One bucket's account.
pub struct Account {
    pub name: &'static str,
    pub pace: Pace,
    pub amount: u64,
    /// Highest maximum that it ever has.
    pub maximum: u64,
    pub promise: Promise,
    pub created: DateTime<Utc>,
    taken: Arc<AtomicU64>,
}

/// What the accountant found.
#[derive(Debug, Default)]
pub struct Balance {
    pub ticks: u64,
    pub taken: u64,
    pub left: u64,
    pub lost: u64,
    pub doubled: u64,
}

impl Account {
    pub fn new(
        name: &'static str,
        pace: Pace,
        amount: u64,
        maximum: u64,
        promise: Promise,
        created: DateTime<Utc>,
    ) -> Self {
        Self {
            name,
            pace,
            amount,
            maximum,
            promise,
            created,
            taken: Arc::default(),
        }
    }

    pub fn queue(&self) -> String {
        format!("token_bucket_{}", self.name)
    }

    /// Waits until the tokens agree with the ticks up to and with `last`, after which there are none, and says so; or by
    /// how many ticks they do not.
    pub async fn settle(&self, vhost: &Vhost<'_>, last: DateTime<Utc>) -> Balance {
        let ticks = self.pace.ticks(self.created, last);
        let due = ticks * self.amount;
        let (start, mut agreements) = (Instant::now(), 0);
        loop {
            sleep(Duration::from_secs(1)).await;
            let taken = self.taken.load(Ordering::SeqCst);
            let left = vhost.depth(&self.queue()).await.unwrap_or_default();
            let tokens = taken + left;
            let agrees = match self.promise {
                Promise::Exact => tokens == due,
                Promise::AtMost => tokens <= due && tokens > 0,
            };
            agreements = if agrees { agreements + 1 } else { 0 };
            if agreements == AGREEMENTS || start.elapsed() > SETTLED_WITHIN {
                let off = |more: u64, less: u64| more.saturating_sub(less).div_ceil(self.amount);
                let exact = self.promise == Promise::Exact;
                return Balance {
                    ticks,
                    taken,
                    left,
                    lost: if exact { off(due, tokens) } else { 0 },
                    doubled: off(tokens, due),
                };
            }
        }
    }
}

/// Takes tokens as workers do and looks at how many there are, until `stop`. `quiet` keeps the takers from asking while
/// the broker goes down: what it hands out then never arrives. Answers how often a bucket held more than its maximum.
pub async fn work(
    url: String,
    accounts: Arc<Vec<Account>>,
    quiet: Arc<RwLock<()>>,
    stop: CancellationToken,
) -> u64 {
    let mut takers = JoinSet::new();
    for index in 0..accounts.len() {
        let (url, accounts, quiet, stop) =
            (url.clone(), accounts.clone(), quiet.clone(), stop.clone());
        takers.spawn(async move { take(&url, &accounts[index], &quiet, &stop).await });
    }
    takers.join_all().await.into_iter().sum()
}

async fn take(url: &str, account: &Account, quiet: &RwLock<()>, stop: &CancellationToken) -> u64 {
    let mut channel: Option<(Connection, Channel)> = None;
    let mut over = 0;
    while !stop.is_cancelled() {
        sleep(Duration::from_millis(40)).await;
        let _permit = quiet.read().await;
        let Some((_, open)) = channel.as_ref().filter(|(_, it)| it.status().connected()) else {
            channel = connect(url).await.ok();
            continue;
        };
        let got = open.basic_get(account.queue().into(), BasicGetOptions { no_ack: true });
        if let Ok(Some(token)) = got.await {
            account.taken.fetch_add(1, Ordering::SeqCst);
            over += u64::from(u64::from(token.message_count) >= account.maximum);
        }
    }
    over
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}
