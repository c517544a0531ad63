//! What the API server and the broker take for the same work when the bench itself asks for it: the limits that no
//! operator gets below.

use std::time::Instant;

use chrono::Utc;
use futures::{StreamExt, stream};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use token_bucket_operator::api::conditions::conditions;
use token_bucket_operator::api::{TokenBucket, TokenBucketStatus, to_time};
use token_bucket_operator::bucket::{ledger_queue_name, queue_name};
use token_bucket_operator::engine::{ConnectionState, Phase};

use crate::support::{RARELY, testbed};

/// Requests to the API server that are under way at one time.
const IN_FLIGHT: usize = 32;
/// Channels to the broker; more make nothing faster.
const CHANNELS: usize = 16;

/// Seconds for each part of the work.
pub struct Alone {
    pub creates: f64,
    /// The two writes that make a bucket ready.
    pub patches: f64,
    /// Its two queues.
    pub declares: f64,
    /// The two writes of a deletion.
    pub deletes: f64,
    pub queues: f64,
}

type Part = (&'static str, fn(&Alone) -> f64);

/// What each part is called.
pub const PARTS: [Part; 5] = [
    ("creates", |it| it.creates),
    ("finalizers and statuses", |it| it.patches),
    ("declares of the queues", |it| it.declares),
    ("deletes and finalizers", |it| it.deletes),
    ("deletes of the queues", |it| it.queues),
];

impl Alone {
    pub fn ready(&self) -> f64 {
        self.creates + self.patches + self.declares
    }

    pub fn gone(&self) -> f64 {
        self.deletes + self.queues
    }
}

/// All parts, one after the other.
pub async fn measure(client: &Client, count: usize) -> Alone {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets: Api<TokenBucket> = Api::namespaced(client.clone(), namespace.name());
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(vhost.channel().await);
    }
    let params = PatchParams::default();
    let finalizers = Patch::Merge(json!({"metadata": {"finalizers": ["tokenbucket.dev/queues"]}}));
    let status = Patch::Merge(json!({"status": status()}));
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let creates = seconds(create(&buckets, count)).await;
    let patches = seconds(each(count, async |name| {
        let patched = buckets.patch(&name, &params, &finalizers).await;
        patched.expect("a finalizer");
        let patched = buckets.patch_status(&name, &params, &status).await;
        patched.expect("a status");
    }))
    .await;
    let declares = seconds(on_each(&channels, count, async |channel, queue, limit| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(limit));
        let durable = QueueDeclareOptions::durable();
        let declared = channel.queue_declare(queue.into(), durable, arguments);
        declared.await.expect("it is declared");
    }))
    .await;
    let deletes = seconds(async {
        delete(&buckets, count).await;
        each(count, async |name| {
            let patched = buckets.patch(&name, &params, &release).await;
            patched.expect("no finalizer");
        })
        .await;
    })
    .await;
    let queues = seconds(on_each(&channels, count, async |channel, queue, _| {
        let deleted = channel.queue_delete(queue.into(), Default::default());
        deleted.await.expect("it is deleted");
    }))
    .await;
    Alone {
        creates,
        patches,
        declares,
        deletes,
        queues,
    }
}

/// As the operator writes it: what an object has in it is what each of its writes costs.
fn status() -> TokenBucketStatus {
    let now = Utc::now();
    TokenBucketStatus {
        observed_generation: Some(1),
        conditions: conditions(
            &[],
            &Phase::Ready,
            false,
            Some(&ConnectionState::Up),
            1,
            now,
        ),
        queue_name: Some(queue_name("bucket_00000")),
        available_tokens: Some(0),
        observed_at: Some(to_time(now)),
        maximum: Some(100),
        next_refill_time: Some(to_time(now)),
        tokens_issued: Some(0),
        ..TokenBucketStatus::default()
    }
}

pub async fn create(buckets: &Api<TokenBucket>, count: usize) {
    each(count, async |name| {
        let bucket = json!({
            "metadata": {"name": name},
            "spec": {"schedule": RARELY, "amount": 10, "maximum": 100},
        });
        let bucket = serde_json::from_value(bucket).expect("a bucket");
        let created = buckets.create(&PostParams::default(), &bucket).await;
        created.expect("it is accepted");
    })
    .await;
}

pub async fn delete(buckets: &Api<TokenBucket>, count: usize) {
    each(count, async |name| {
        let deleted = buckets.delete(&name, &DeleteParams::default()).await;
        deleted.expect("it can be deleted");
    })
    .await;
}

async fn each(count: usize, work: impl AsyncFn(String)) {
    stream::iter(0..count)
        .for_each_concurrent(IN_FLIGHT, |number| work(format!("bucket-{number:05}")))
        .await;
}

/// Both queues of every bucket, with their limits; each channel has its share.
async fn on_each(channels: &[Channel], count: usize, work: impl AsyncFn(&Channel, String, i64)) {
    let work = &work;
    stream::iter(channels.iter().enumerate())
        .for_each_concurrent(None, |(first, channel)| async move {
            for number in (first..count).step_by(CHANNELS) {
                let name = format!("bucket_{number:05}");
                work(channel, queue_name(&name), 100).await;
                work(channel, ledger_queue_name(&name), 1).await;
            }
        })
        .await;
}

async fn seconds(work: impl Future<Output = ()>) -> f64 {
    let start = Instant::now();
    work.await;
    start.elapsed().as_secs_f64()
}
