//! What a namespace does in crowds keeps nobody else from their turn.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use token_bucket_operator::api::{TokenBucket, TokenBucketStatus};

use crate::support::{
    Buckets, Crowd, Network, Operator, Proxy, RARELY, SOON, condition, eventually, reason, testbed,
};

/// The resources of a tenant: more than passes at a time.
fn crowd() -> Crowd {
    Crowd::of(200)
}

fn spec(name: Option<&str>, secret: Option<&str>) -> Value {
    let mut spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9});
    if let Some(name) = name {
        spec["name"] = json!(name);
    }
    if let Some(secret) = secret {
        spec["connection"] = json!({"secretRef": {"name": secret}});
        spec["refillQueue"] = json!("tenant.refill");
    }
    spec
}

async fn create_many(buckets: &Buckets, spec: &Value) {
    let creations = stream::iter(0..crowd().many).map(|number| async move {
        buckets.create(&format!("b{number}"), spec.clone()).await;
    });
    creations.buffer_unordered(16).collect::<Vec<_>>().await;
}

/// How many of the resources are so.
async fn those(api: &Api<TokenBucket>, are_so: impl Fn(&TokenBucketStatus) -> bool) -> usize {
    let all = api.list(&ListParams::default()).await.expect("a list");
    let statuses = all.items.into_iter().filter_map(|bucket| bucket.status);
    statuses.filter(|status| are_so(status)).count()
}

fn ready(status: &TokenBucketStatus) -> bool {
    condition(status, "Ready") == "True"
}

fn conflict(status: &TokenBucketStatus) -> bool {
    reason(status, "Stalled") == "NameConflict"
}

async fn count(api: &Api<TokenBucket>) -> usize {
    let all = api.list_metadata(&ListParams::default()).await;
    all.expect("a list").items.len()
}

async fn delete_all(api: &Api<TokenBucket>) {
    let (how, which) = (DeleteParams::default(), ListParams::default());
    // The API server gives up the deletion of very many in the middle.
    eventually("all to be deleted", crowd().soon(), async || {
        let deleted = api.delete_collection(&how, &which).await;
        deleted.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

async fn all_gone(api: &Api<TokenBucket>) {
    eventually("all to be gone", crowd().soon(), async || {
        match count(api).await {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    })
    .await;
}

async fn passes(operator: &Operator) -> f64 {
    let series = "tokenbucket_reconcile_duration_seconds_count";
    let passes = operator.metric(series).await.expect("the metrics");
    passes.unwrap_or_default()
}

#[tokio::test]
async fn many_resources_with_one_name_are_work_in_proportion_and_one_of_them_has_it() {
    let (testbed, crowd) = (testbed().await, crowd());
    let many = crowd.many;
    let (tenant, victim) = (testbed.namespace().await, testbed.namespace().await);
    let (theirs, others) = (
        Buckets::of(testbed, &tenant).await,
        Buckets::of(testbed, &victim).await,
    );
    let vhost = testbed.vhost().await;
    let scope = format!("--namespace={}", victim.name());
    let operator = Operator::start(testbed, &tenant, &vhost, &[&scope]).await;
    let api: Api<TokenBucket> = Api::namespaced(testbed.client().await, tenant.name());
    let all_but_one = async || {
        eventually("all but one to wait", crowd.soon(), async || {
            let waiting = those(&api, conflict).await;
            let has_it = those(&api, ready).await;
            let there = count(&api).await;
            match (waiting + 1 == there, has_it) {
                (true, 1) => Ok(there),
                _ => Err(format!("{waiting} of {there} wait, {has_it} ready")),
            }
        })
        .await
    };
    create_many(&theirs, &spec(Some("same"), None)).await;
    assert_eq!(all_but_one().await, many);
    others.create("victim", spec(None, None)).await;
    others.ready("victim").await;

    // Whoever has it goes, and the next one has it.
    let all = api.list(&ListParams::default()).await.expect("a list");
    let mut all = all.items.into_iter();
    let holder = all.find(|bucket| bucket.status.as_deref().is_some_and(ready));
    let holder = holder.and_then(|bucket| bucket.metadata.name);
    theirs.delete(&holder.expect("one of them is ready")).await;
    assert_eq!(all_but_one().await, many - 1);
    // One for the finalizer, one for the verdict, and some for whoever was put in force and had to make room.
    let passed = passes(&operator).await;
    crowd.tell(&format!("{passed} passes until one of them has the name"));
    assert!(passed < 5.0 * many as f64, "{passed} passes");

    delete_all(&api).await;
    all_gone(&api).await;
    let passed = passes(&operator).await;
    crowd.tell(&format!("{passed} passes until all are gone"));
    assert!(passed < 10.0 * many as f64, "{passed} passes");
    assert_eq!(vhost.depth("token_bucket_same").await, None);
}

#[tokio::test]
async fn deletions_at_a_silent_broker_keep_no_other_bucket_from_its_turn() {
    let (testbed, crowd) = (testbed().await, crowd());
    let many = crowd.many;
    let (tenant, victim) = (testbed.namespace().await, testbed.namespace().await);
    let (theirs, others) = (
        Buckets::of(testbed, &tenant).await,
        Buckets::of(testbed, &victim).await,
    );
    let (vhost, own) = (testbed.vhost().await, testbed.vhost().await);
    let (proxy, uri) = Proxy::in_front_of(&own.amqp_url()).await;
    tenant.create_secret("own", &uri).await;
    let scope = format!("--namespace={}", victim.name());
    let operator = Operator::start(testbed, &tenant, &vhost, &[&scope]).await;
    let api: Api<TokenBucket> = Api::namespaced(testbed.client().await, tenant.name());
    create_many(&theirs, &spec(None, Some("own"))).await;
    eventually("all to be ready", crowd.soon(), async || {
        match those(&api, ready).await {
            ready if ready == many => Ok(()),
            ready => Err(format!("{ready} are ready")),
        }
    })
    .await;

    proxy.set(Network::Frozen);
    delete_all(&api).await;
    let start = Instant::now();
    others.create("victim", spec(None, None)).await;
    others.ready("victim").await;
    others.request_refill("victim", "now").await;
    vhost.depth_becomes("token_bucket_victim", 1).await;
    let taken = start.elapsed().as_secs_f32();
    crowd.tell(&format!(
        "another bucket is ready and refilled in {taken:.1} s while they are deleted"
    ));
    // Very many take the API server so long to delete that the first are given up meanwhile.
    assert!(
        crowd.is_large() || count(&api).await == many,
        "they were in its way"
    );

    proxy.set(Network::Good);
    all_gone(&api).await;
    let slow = eventually("the metrics", SOON, async || {
        let all = passes(&operator).await;
        let quick = r#"tokenbucket_reconcile_duration_seconds_bucket{le="10.0"}"#;
        Ok(all - operator.metric(quick).await?.unwrap_or_default())
    });
    assert_eq!(slow.await, 0.0, "a pass has waited for a broker");
}

/// Resources of more than a megabyte each.
const LARGE: usize = 40;
/// In MiB; the chart gives twice as much.
const MEMORY: u64 = 128;

#[tokio::test]
async fn resources_of_a_megabyte_fit_into_the_memory_at_the_start() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(testbed, &namespace).await;
    let api: Api<TokenBucket> = Api::namespaced(testbed.client().await, namespace.name());
    // The API server notes who has set each of them, in as many octets again.
    let prefix = "a".repeat(250);
    let label = |number: usize| (format!("{prefix}/{number:0>63}"), "x".repeat(63));
    let labels: BTreeMap<_, _> = (0..1_700).map(label).collect();
    let creations = stream::iter(0..LARGE).map(|number| {
        let metadata = json!({"name": format!("b{number}"), "labels": labels});
        let bucket = json!({"metadata": metadata, "spec": spec(None, None)});
        let bucket = serde_json::from_value(bucket).expect("a TokenBucket");
        let api = &api;
        async move { api.create(&PostParams::default(), &bucket).await }
    });
    let created: Result<Vec<_>, _> = creations.buffer_unordered(8).try_collect().await;
    created.expect("they are accepted");

    let operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets.ready("b0").await;
    let [_, peak] = operator.memory();
    assert!(peak < MEMORY, "{peak} MiB");
}
