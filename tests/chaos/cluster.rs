//! The buckets of a soak, and the resources that describe them: once for each cluster.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use token_bucket_operator::api::from_time;

use crate::accounts::Promise;
use crate::support::{Buckets, Namespace, Pace, last_tick, reason, testbed};

/// With the number of a cluster behind it.
const REFILL_QUEUE: &str = "token_buckets.refill";
/// Beyond every sum of a soak.
pub const PLENTY: u64 = 1_000_000;

/// Name, pace, amount, maximum, policy, promise.
pub type Plan = (&'static str, Pace, u64, u64, &'static str, Promise);
pub const PLANS: &[Plan] = &[
    ("each_second", Pace(1), 3, PLENTY, "All", Promise::Exact),
    ("each_second_2", Pace(1), 7, PLENTY, "All", Promise::Exact),
    ("each_2", Pace(2), 1, PLENTY, "All", Promise::Exact),
    ("each_3", Pace(3), 50, PLENTY, "All", Promise::Exact),
    ("each_5", Pace(5), 2_000, PLENTY, "All", Promise::Exact),
    ("edited", Pace(1), 2, PLENTY, "All", Promise::Exact),
    ("suspended", Pace(1), 4, PLENTY, "All", Promise::Exact),
    ("latest", Pace(1), 5, PLENTY, "Latest", Promise::AtMost),
    ("skip", Pace(2), 5, PLENTY, "Skip", Promise::AtMost),
    ("small", Pace(1), 20, 50, "All", Promise::AtMost),
];

/// What one operator, or replicas of it, are responsible for. To the operators of another one it is another cluster: they
/// see none of it.
pub struct Cluster {
    pub namespace: Namespace<'static>,
    pub buckets: Buckets,
    pub refill_queue: String,
}

impl Cluster {
    pub async fn new(number: usize) -> Self {
        let testbed = testbed().await;
        let namespace = testbed.namespace().await;
        Self {
            buckets: Buckets::of(testbed, &namespace).await,
            namespace,
            refill_queue: format!("{REFILL_QUEUE}.{number}"),
        }
    }

    pub async fn create(
        &self,
        (name, pace, amount, maximum, policy, _): Plan,
        minutes: &Minutes,
    ) -> DateTime<Utc> {
        let spec = json!({
            "name": name, "schedule": minutes.schedule(pace), "amount": amount, "maximum": maximum,
            "missedRefills": policy, "refillQueue": self.refill_queue,
        });
        let resource = self.buckets.create(&name.replace('_', "-"), spec).await;
        from_time(&resource.metadata.creation_timestamp.expect("a time"))
    }

    /// Creates resources for the buckets of `first`. They answer for no tick before that, so those are carried out before;
    /// then each one takes its bucket over, and loses it to the one that comes first.
    pub async fn contend(&self, first: &Self, minutes: &Minutes) {
        for &plan in PLANS {
            let name = plan.0.replace('_', "-");
            let refilled = |status: &_| last_tick(status).is_some();
            let what = "a first refill";
            first.buckets.until(&name, what, refilled).await;
            self.create(plan, minutes).await;
        }
        for (name, ..) in PLANS {
            let told = |status: &_| reason(status, "Stalled") == "NameConflict";
            let what = "the conflict in the status";
            self.buckets
                .until(&name.replace('_', "-"), what, told)
                .await;
        }
    }
}

/// When buckets are refilled: in these minutes, so that the schedules end by themselves and the sums stand still. A
/// balance drawn while ticks go on would take one that is late for one that is lost.
pub struct Minutes {
    first: DateTime<Utc>,
    /// Their last second.
    pub last: DateTime<Utc>,
}

impl Minutes {
    pub fn until(end: DateTime<Utc>) -> Self {
        let first = Utc::now();
        let last = end.timestamp() / 60 * 60 + 59;
        let last = DateTime::from_timestamp(last, 0).expect("a time of this century");
        assert!(last - first < TimeDelta::minutes(59), "less than an hour");
        Self { first, last }
    }

    fn schedule(&self, pace: Pace) -> String {
        let minutes = self.first.timestamp() / 60..=self.last.timestamp() / 60;
        let list: Vec<_> = minutes.map(|it| (it % 60).to_string()).collect();
        format!("*/{} {} * * * *", pace.0, list.join(","))
    }
}
