//! What an administrator does not allow is refused, with a word about what is allowed.

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use serde_json::json;
use token_bucket_operator::api::{TokenBucket, TokenBucketStatus};

use crate::support::{
    Buckets, Operator, RARELY, SOON, condition, event, eventually, reason, stage, testbed,
};

/// Waits until a bucket is refused, and answers what people are told.
async fn refused(buckets: &Buckets, name: &str, wanted: &str) -> String {
    let holds = |status: &TokenBucketStatus| reason(status, "Stalled") == wanted;
    let status = buckets.until(name, "it to be refused", holds).await;
    assert_eq!(condition(&status, "Stalled"), "True");
    let ready = status.conditions.into_iter().find(|it| it.type_ == "Ready");
    ready.expect("a condition").message
}

#[tokio::test]
async fn a_bucket_that_is_too_large_keeps_its_tokens_and_gets_no_more() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 5, "maximum": 25, "initialTokens": 7});
    buckets.create("api", spec).await;
    let full = |status: &TokenBucketStatus| status.available_tokens == Some(7);
    buckets.until("api", "its tokens", full).await;
    operator.terminate().await;

    let limit = ["--max-tokens-per-bucket=20"];
    let operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    let said = refused(&buckets, "api", "MaximumTooLarge").await;
    for word in ["25", "at most 20", "--max-tokens-per-bucket"] {
        assert!(said.contains(word), "{said}");
    }
    event(testbed, &namespace, "api", "MaximumTooLarge").await;
    let series = "tokenbucket_reconcile_errors_total{reason=\"MaximumTooLarge\"}";
    assert!(operator.metric(series).await.expect("metrics").is_some());
    buckets.request_refill("api", "now").await;
    assert_eq!(vhost.depth("token_bucket_api").await, Some(7));
    buckets.edit("api", json!({"maximum": 20})).await;
    let refilled = |status: &TokenBucketStatus| status.available_tokens == Some(12);
    buckets.until("api", "the refill", refilled).await;
}

#[tokio::test]
async fn the_oldest_buckets_of_a_namespace_are_in_force() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut by_age = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1});
        let metadata = buckets.create(name, spec).await.metadata;
        let created = metadata.creation_timestamp.expect("a time");
        by_age.push((created.0, metadata.uid.expect("a UID"), name));
    }
    by_age.sort();
    let [oldest, second, third, youngest] = [0, 1, 2, 3].map(|place: usize| by_age[place].2);
    let limit = ["--max-buckets-per-namespace=2"];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    buckets.ready(oldest).await;
    buckets.ready(second).await;
    let said = refused(&buckets, youngest, "TooManyBuckets").await;
    assert!(
        said.contains("--max-buckets-per-namespace allows 2"),
        "{said}"
    );
    refused(&buckets, third, "TooManyBuckets").await;

    buckets.delete(second).await;
    buckets.ready(third).await;
    operator.terminate().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    operator.logs_have("every TokenBucket is known").await;
    buckets.delete(oldest).await;
    buckets.ready(youngest).await;
    operator.terminate().await;
}

#[tokio::test]
async fn a_schedule_with_two_ticks_too_close_is_refused() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let limit = ["--min-refill-interval=1h"];
    let _operator = Operator::start(testbed, &namespace, &vhost, &limit).await;
    let spec = |schedule: &str| json!({"schedule": schedule, "timeZone": "Europe/Berlin", "amount": 1, "maximum": 1});
    for (name, schedule) in [("twice", "0,1 * * * *"), ("often", "@every 5s")] {
        buckets.create(name, spec(schedule)).await;
        let said = refused(&buckets, name, "ScheduleTooFrequent").await;
        for word in ["one in 3600 s", "--min-refill-interval"] {
            assert!(said.contains(word), "{said}");
        }
    }
    buckets.create("hourly", spec("0 * * * *")).await;
    buckets.ready("hourly").await;
    buckets.edit("twice", json!({"schedule": "@hourly"})).await;
    buckets.ready("twice").await;
}

const POLICIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policies");

/// What the API server says to a new bucket, or nothing when it takes it.
async fn answer(buckets: &Api<TokenBucket>, name: &str, spec: serde_json::Value) -> String {
    let bucket = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}));
    let bucket = bucket.expect("a TokenBucket");
    match buckets.create(&PostParams::default(), &bucket).await {
        Ok(_) => String::new(),
        Err(kube::Error::Api(status)) => status.message,
        Err(error) => panic!("the API server did not answer: {error}"),
    }
}

#[tokio::test]
async fn the_example_of_a_policy_refuses_what_it_says() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets: Api<TokenBucket> = Api::namespaced(testbed.client().await, namespace.name());
    let spec = |maximum: u32| {
        json!({"schedule": RARELY, "amount": 1, "maximum": maximum,
               "connection": {"secretRef": {"name": "rabbit"}}})
    };
    testbed.kubectl_ok(&["apply", "-f", &format!("{POLICIES}/admission.yaml")]);
    let limited = "tokenbucket.dev/limited=true";
    testbed.kubectl_ok(&["label", "namespace", namespace.name(), limited]);
    // It takes a moment until the API server knows its policies.
    let mut attempt = 0;
    let said = eventually("the policy to be in force", SOON, async || {
        attempt += 1;
        let said = answer(&buckets, &format!("large-{attempt}"), spec(100_001)).await;
        if said.is_empty() {
            Err("accepted".to_owned())
        } else {
            Ok(said)
        }
    })
    .await;
    assert!(
        said.contains("100001 is too many tokens here: write at most 100000"),
        "{said}"
    );
    let without = json!({"schedule": RARELY, "amount": 1, "maximum": 1});
    let said = answer(&buckets, "without", without).await;
    assert!(said.contains("name a Secret"), "{said}");
    assert_eq!(answer(&buckets, "small", spec(100_000)).await, "");
}

#[tokio::test]
async fn the_example_of_a_quota_refuses_one_bucket_too_many() {
    let testbed = testbed().await;
    let namespace = testbed.namespace().await;
    let buckets: Api<TokenBucket> = Api::namespaced(testbed.client().await, namespace.name());
    let quota = format!("{POLICIES}/quota.yaml");
    testbed.kubectl_ok(&["apply", "--namespace", namespace.name(), "-f", &quota]);
    // This is what the controller of quotas writes, which does not run here.
    let count = "count/tokenbuckets.tokenbucket.dev";
    let status = json!({"status": {"hard": {count: "2"}, "used": {count: "0"}}});
    let quotas: Api<ResourceQuota> = Api::namespaced(testbed.client().await, namespace.name());
    quotas
        .patch_status(
            "token-buckets",
            &PatchParams::default(),
            &Patch::Merge(status),
        )
        .await
        .expect("the status is accepted");
    let mut taken = 0;
    let said = eventually("the quota to be in force", SOON, async || {
        taken += 1;
        let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1});
        let said = answer(&buckets, &format!("bucket-{taken}"), spec).await;
        if said.is_empty() {
            Err("accepted".to_owned())
        } else {
            Ok(said)
        }
    })
    .await;
    assert!(said.contains("exceeded quota: token-buckets"), "{said}");
}

#[tokio::test]
async fn nobody_connects_to_a_broker_that_is_not_allowed() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    for (name, uri) in [
        ("elsewhere", format!("amqps://{address}/")),
        (
            "plain",
            vhost.amqp_url().replacen("127.0.0.1", "localhost", 1),
        ),
    ] {
        namespace.create_secret(name, &uri).await;
    }
    let spec = |secret: Option<&str>| {
        let connection = secret.map(|name| json!({"secretRef": {"name": name}}));
        let queue = secret.map_or("token_buckets.refill", |_| "tenant.refill");
        json!({"schedule": RARELY, "amount": 1, "maximum": 1, "connection": connection, "refillQueue": queue})
    };
    let hosts = ["--allowed-broker-hosts=localhost,*.example.com"];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &hosts).await;
    buckets.create("own", spec(None)).await;
    buckets.ready("own").await;
    buckets.create("tenant", spec(Some("plain"))).await;
    buckets.ready("tenant").await;
    buckets.create("other", spec(Some("elsewhere"))).await;
    let said = refused(&buckets, "other", "BrokerNotAllowed").await;
    for word in [
        "Secret elsewhere",
        "--allowed-broker-hosts",
        "localhost, *.example.com",
    ] {
        assert!(said.contains(word), "{said}");
    }
    buckets.delete("other").await;
    operator.terminate().await;

    let strict = ["--require-tls=secrets"];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &strict).await;
    let said = refused(&buckets, "tenant", "TLSRequired").await;
    for word in ["Secret plain", "--require-tls", "amqps://"] {
        assert!(said.contains(word), "{said}");
    }
    buckets.ready("own").await;
    operator.terminate().await;

    let strict = ["--require-tls=all"];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &strict).await;
    assert!(!operator.end().await.success());
    let said = operator.logs();
    assert!(said.contains("write amqps://"), "{said}");
    listener.set_nonblocking(true).expect("a listener");
    assert!(listener.accept().is_err(), "somebody has connected");
}

/// Whoever may write a TokenBucket acts with the operator's account: no field that holds a queue's name leads to others' queues.
#[tokio::test]
async fn a_tenant_neither_drains_nor_deletes_nor_reads_the_queues_of_others() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let channel = vhost.channel().await;
    let durable = QueueDeclareOptions::durable();
    for queue in ["orders", "idle", "my_token_buckets.refill"] {
        let declaring = channel.queue_declare(queue.into(), durable, FieldTable::default());
        declaring.await.expect("a queue");
    }
    for _ in 0..3 {
        let properties = BasicProperties::default().with_delivery_mode(2);
        vhost.publish("orders", b"an order", properties).await;
    }
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = |queue: &str| json!({"schedule": "* * * * * *", "amount": 1, "maximum": 9, "refillQueue": queue});
    for (name, queue) in [
        ("drains", "orders"),
        ("deletes", "idle"),
        ("resembles", "my_token_buckets.refill"),
        ("parks", "orders.rejected.more"),
    ] {
        buckets.create(name, spec(queue)).await;
        let said = refused(&buckets, name, "RefillQueueNotAllowed").await;
        for word in [queue, "--refill-queues", "token_buckets.*"] {
            assert!(said.contains(word), "{said}");
        }
    }
    buckets.create("edits", spec("token_buckets.tenant")).await;
    buckets.ready("edits").await;
    buckets.edit("edits", json!({"refillQueue": "idle"})).await;
    refused(&buckets, "edits", "RefillQueueNotAllowed").await;
    // A bucket's name is not the name of its queue.
    let mut named = spec("token_buckets.refill");
    named["name"] = json!("orders");
    buckets.create("names", named).await;
    let status = buckets.ready("names").await;
    assert_eq!(status.queue_name.as_deref(), Some("token_bucket_orders"));
    for name in ["drains", "deletes", "resembles", "parks", "edits", "names"] {
        buckets.delete(name).await;
    }
    assert_eq!(vhost.depth("orders").await, Some(3));
    assert_eq!(vhost.depth("idle").await, Some(0));
    assert_eq!(vhost.depth("my_token_buckets.refill").await, Some(0));
    assert_eq!(vhost.depth("orders.rejected").await, None);

    // With an account of its own it may do what that account may.
    namespace.create_secret("own", &vhost.amqp_url()).await;
    let mut own = spec("shop.refill");
    own["connection"] = json!({"secretRef": {"name": "own"}});
    buckets.create("own", own).await;
    buckets.ready("own").await;
}

#[tokio::test]
async fn the_operators_own_broker_is_for_the_namespaces_that_may_use_it() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let limits = ["--default-broker-namespaces=team-*,kube-system"];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &limits).await;
    namespace.create_secret("own", &vhost.amqp_url()).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1});
    buckets.create("default", spec.clone()).await;
    let said = refused(&buckets, "default", "DefaultBrokerNotAllowed").await;
    for word in ["--default-broker-namespaces", "team-*, kube-system"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(vhost.depth("token_bucket_default").await, None);
    let mut own = spec;
    own["connection"] = json!({"secretRef": {"name": "own"}});
    buckets.create("own", own).await;
    buckets.ready("own").await;
    operator.terminate().await;

    let limits = format!("--default-broker-namespaces={}", namespace.name());
    let _operator = Operator::start(testbed, &namespace, &vhost, &[&limits]).await;
    buckets.ready("default").await;
}
