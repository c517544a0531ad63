//! The observer: counts the tokens of every bucket, at an interval and soon after something was committed.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::board::Board;
use super::ensure::EnsureError;
use super::outcome::{Observed, Phase};
use amqp::{Broker, BrokerError};
use bucket::{BucketId, queue_name};

/// Commits come many a second: their buckets are counted together, when there has been none for so long …
const SOON: Duration = Duration::from_millis(200);
/// … or after so long. Counts in the middle of a tick of many buckets would take the broker's time from its refills.
const AT_LAST: Duration = Duration::from_secs(5);

/// A handle of the observer's task.
#[derive(Clone, Debug)]
pub(super) struct Observer {
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Watch(BucketId, Arc<str>),
    Forget(BucketId),
    Soon(BucketId),
}

impl Observer {
    /// A handle, and the task that counts until the connection is lost. Buckets whose queue is missing go to `missing`.
    pub(super) fn new(
        broker: Arc<Broker>,
        board: Arc<Board>,
        interval: Duration,
        missing: mpsc::UnboundedSender<BucketId>,
    ) -> (Self, impl Future<Output = BrokerError>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        (
            Self { commands },
            run(broker, board, interval, missing, receiver),
        )
    }

    /// Counts the bucket called `name` from now on.
    pub(super) fn watch(&self, id: BucketId, name: Arc<str>) {
        let _ = self.commands.send(Command::Watch(id, name));
    }

    /// Does not count it any more.
    pub(super) fn forget(&self, id: BucketId) {
        let _ = self.commands.send(Command::Forget(id));
    }

    /// Counts it soon, apart from the interval.
    pub(super) fn soon(&self, id: BucketId) {
        let _ = self.commands.send(Command::Soon(id));
    }
}

async fn run(
    broker: Arc<Broker>,
    board: Arc<Board>,
    interval: Duration,
    missing: mpsc::UnboundedSender<BucketId>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> BrokerError {
    let mut names = HashMap::new();
    let mut soon = HashSet::new();
    let (mut soon_since, mut soon_at) = (Instant::now(), Instant::now());
    let mut sweep = tokio::time::interval(interval);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        let ids: Vec<BucketId> = tokio::select! {
            received = commands.recv_many(&mut batch, 1000) => {
                if received == 0 {
                    return BrokerError::ConnectionLost { reason: "the engine ends".into() };
                }
                for command in batch.drain(..) {
                    match command {
                        Command::Watch(id, name) => {
                            names.insert(id, name);
                        }
                        Command::Forget(id) => {
                            names.remove(&id);
                            soon.remove(&id);
                        }
                        Command::Soon(id) => {
                            let now = Instant::now();
                            if soon.is_empty() {
                                soon_since = now;
                            }
                            soon_at = (now + SOON).min(soon_since + AT_LAST);
                            soon.insert(id);
                        }
                    }
                }
                continue;
            }
            () = tokio::time::sleep_until(soon_at), if !soon.is_empty() => soon.drain().collect(),
            _ = sweep.tick() => {
                soon.clear();
                names.keys().cloned().collect()
            }
        };
        let (buckets, began) = (ids.len(), Instant::now());
        if let Err(lost) = count(&broker, &board, &names, ids, &missing).await {
            return lost;
        }
        debug!(buckets, took_ms = began.elapsed().as_millis(), "counted");
    }
}

async fn count(
    broker: &Broker,
    board: &Board,
    names: &HashMap<BucketId, Arc<str>>,
    ids: Vec<BucketId>,
    missing: &mpsc::UnboundedSender<BucketId>,
) -> Result<(), BrokerError> {
    let (ids, queues): (Vec<_>, Vec<_>) = ids
        .into_iter()
        .filter_map(|id| names.get(&id).map(|name| (id, queue_name(name))))
        .unzip();
    let counts = futures::stream::iter(ids).zip(broker.counts(&queues));
    let mut counts = pin!(counts);
    while let Some((id, count)) = counts.next().await {
        match count {
            Ok(Some(tokens)) => {
                let now = Observed {
                    tokens,
                    at: Utc::now(),
                };
                board.update(&id, |state| {
                    if state.observed.is_none_or(|before| is_news(before, now)) {
                        state.observed = Some(now);
                    }
                    if state.phase != Phase::Ready && state.phase == blocked() {
                        state.phase = Phase::Ready;
                    }
                });
            }
            Ok(None) => {
                let _ = missing.send(id);
            }
            Err(error) if error.is_connection_lost() => return Err(error),
            // Only buckets that were ready are counted.
            Err(BrokerError::Blocked) => board.update(&id, |state| {
                if state.phase == Phase::Ready {
                    state.phase = blocked();
                }
            }),
            Err(error) => debug!(bucket = %id, %error, "not counted"),
        }
    }
    Ok(())
}

/// Ten thousand buckets that nobody uses are no news every few seconds: a count that stays the same is told once in each
/// minute.
fn is_news(before: Observed, now: Observed) -> bool {
    let minute = |count: Observed| count.at.timestamp().div_euclid(60);
    before.tokens != now.tokens || minute(before) != minute(now)
}

/// What a bucket is in while the broker has a resource alarm.
fn blocked() -> Phase {
    EnsureError::from(BrokerError::Blocked).phase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bucket::fixture::at;

    #[test]
    fn a_count_is_news_when_it_differs_or_is_the_first_of_a_minute() {
        let count = |tokens, second| Observed {
            tokens,
            at: at(second),
        };
        for (before, now, news) in [
            (count(5, 0), count(5, 10), false),
            (count(5, 0), count(6, 10), true),
            (count(5, 59), count(5, 60), true),
            // The clock was set back.
            (count(5, 3600), count(5, 10), true),
        ] {
            assert_eq!(is_news(before, now), news, "{before:?} {now:?}");
        }
    }
}
