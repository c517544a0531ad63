//! Virtual hosts that TokenBuckets name themselves.

use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Buckets, Operator, RARELY, SOON, condition, eventually, reason, stage};

/// The message of a condition once it has this reason.
async fn told(buckets: &Buckets, name: &str, kind: &str, expected: &str) -> String {
    let as_expected = |status: &TokenBucketStatus| reason(status, kind) == expected;
    let status = buckets.until(name, expected, as_expected).await;
    let mut conditions = status.conditions.into_iter();
    conditions.find(|it| it.type_ == kind).expect("it").message
}

#[tokio::test]
async fn one_secret_serves_several_virtual_hosts() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let other = testbed.vhost().await;
    other.admit(&vhost).await;
    namespace.create_secret("rabbit", &vhost.amqp_url()).await;
    let spec = |name: Option<&str>| {
        json!({"name": "api", "schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 5,
               "connection": {"secretRef": {"name": "rabbit"}, "vhost": name}})
    };
    let operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    buckets.create("here", spec(None)).await;
    buckets.ready("here").await;
    // In another virtual host the name is free.
    buckets.create("there", spec(Some(&other.name()))).await;
    buckets.ready("there").await;
    for vhost in [&vhost, &other] {
        assert_eq!(vhost.depth("token_bucket_api").await, Some(5));
    }
    let broker = format!("{}/rabbit", namespace.name());
    for label in [&broker, &format!("{broker}:{}", other.name())] {
        let series = format!("tokenbucket_broker_connected{{broker=\"{label}\"}}");
        assert_eq!(operator.metric(&series).await, Ok(Some(1.0)), "{label}");
    }
    buckets.delete("here").await;
    assert_eq!(vhost.depth("token_bucket_api").await, None);
    assert_eq!(other.depth("token_bucket_api").await, Some(5));

    // One that its user may not enter.
    let closed = testbed.vhost().await.name();
    let connection = json!({"connection": {"vhost": closed}});
    buckets.edit("there", connection.clone()).await;
    let said = told(&buckets, "there", "Reconciling", "BrokerUnavailable").await;
    assert!(said.contains(&format!("virtual host {closed}")), "{said}");
    buckets
        .edit("there", json!({"connection": {"vhost": null}}))
        .await;
    buckets.ready("there").await;
    assert_eq!(vhost.depth("token_bucket_api").await, Some(5));
}

#[tokio::test]
async fn a_virtual_host_of_the_operators_broker_is_for_those_whom_it_is_opened_to() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let other = testbed.vhost().await;
    other.admit(&vhost).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1, "connection": {"vhost": other.name()}});
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    for name in ["api", "goes"] {
        buckets.create(name, spec.clone()).await;
        let said = told(&buckets, name, "Stalled", "VhostNotAllowed").await;
        for word in [&*other.name(), "--default-broker-vhosts", "(none)"] {
            assert!(said.contains(word), "{said}");
        }
    }
    buckets.delete("goes").await;
    assert_eq!(other.depth("token_bucket_api").await, None);
    operator.terminate().await;

    let vhosts = ["--default-broker-vhosts=shop,test/*"];
    let operator = Operator::start(testbed, &namespace, &vhost, &vhosts).await;
    buckets.ready("api").await;
    assert_eq!(other.depth("token_bucket_api").await, Some(0));
    assert_eq!(vhost.depth("token_bucket_api").await, None);
    let label = format!("default:{}", other.name());
    let series = format!("tokenbucket_broker_connected{{broker=\"{label}\"}}");
    eventually("the metric of the broker", SOON, async || {
        match operator.metric(&series).await? {
            Some(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let status = buckets.status("api").await;
    assert_eq!(condition(&status, "BrokerConnected"), "True");
}
