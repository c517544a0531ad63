//! The engine in the bench's own process: its outcomes tell how late each refill was.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Datelike, DurationRound, TimeDelta, Timelike, Utc};
use token_bucket_operator::bucket::{Bucket, BucketId};
use token_bucket_operator::engine::{BucketState, Options, Outcome, Phase};

use crate::support::{self, Running, Vhost};

/// Longest time between two outcomes.
const LIMIT: Duration = Duration::from_secs(180);
/// Counts are not read meanwhile.
const SELDOM: Duration = Duration::from_secs(600);

/// An engine under measurement.
pub struct Measured {
    running: Running,
    revision: u64,
}

impl Measured {
    pub fn start(vhost: &Vhost<'_>) -> Self {
        let options = Options {
            connection_name: "bench".into(),
            status_interval: SELDOM,
            ..Running::options()
        };
        Self {
            running: Running::start_as(&vhost.amqp_url(), options),
            revision: 0,
        }
    }

    /// Puts buckets into force, and waits until their refills run.
    pub async fn apply(&mut self, buckets: &[Bucket]) {
        self.revision += 1;
        for bucket in buckets {
            self.running.engine.apply(bucket.clone(), self.revision);
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

    /// From due to the commit of the last token, for each of `count` buckets that are due at `due`.
    pub async fn lags(&mut self, count: usize, due: DateTime<Utc>) -> Vec<Duration> {
        let mut lags = HashMap::with_capacity(count);
        while lags.len() < count {
            if let Outcome::Bucket(id, state) = self.next().await
                && let Some(lag) = lag(&state, due)
            {
                lags.entry(id).or_insert(lag);
            }
        }
        lags.into_values().collect()
    }

    /// From due to the commit of the last token, for the bucket `id` that is due at `due`; and from due to committed, for
    /// each refill of other buckets meanwhile.
    pub async fn lags_beside(
        &mut self,
        id: &BucketId,
        due: DateTime<Utc>,
    ) -> (Duration, Vec<Duration>) {
        let mut others = Vec::new();
        loop {
            match self.next().await {
                Outcome::Refilled { bucket, lag, .. } if bucket != *id => others.extend(lag),
                Outcome::Bucket(bucket, state) if bucket == *id => {
                    if let Some(lag) = lag(&state, due) {
                        return (lag, others);
                    }
                }
                _ => {}
            }
        }
    }

    /// From due to committed, for the next `count` refills.
    pub async fn next_lags(&mut self, count: usize) -> Vec<Duration> {
        let mut lags = Vec::new();
        while lags.len() < count {
            if let Outcome::Refilled { lag, .. } = self.next().await {
                lags.push(lag.expect("nobody asks but the schedule"));
            }
        }
        lags
    }

    async fn next(&mut self) -> Outcome {
        let outcome = tokio::time::timeout(LIMIT, self.running.outcomes.recv()).await;
        outcome.expect("something happens").expect("it runs")
    }

    pub async fn stop(self) {
        self.running.stop().await;
    }
}

/// How long ago `due` is, when the bucket's newest refill is the one that was due then.
fn lag(state: &BucketState, due: DateTime<Utc>) -> Option<Duration> {
    let refill = state.last_refill.as_ref()?;
    let lag = (Utc::now() - due).to_std();
    (refill.scheduled_time == Some(due)).then(|| lag.expect("nobody is early"))
}

/// The bucket of that number, with room for every refill.
pub fn bucket(number: usize, schedule: &str, amount: u64) -> Bucket {
    support::bucket(&format!("b{number}"), schedule, amount, 10_000_000)
}

/// The whole second that comes `lead` from now, or just before that.
pub fn soon(lead: TimeDelta) -> DateTime<Utc> {
    let due = (Utc::now() + lead).duration_trunc(TimeDelta::seconds(1));
    due.expect("a time of this century")
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
