//! What is in a Secret, and what answers at the address in it, is told to nobody but the reader of the operator's log.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Buckets, Operator, RARELY, condition, event, stage};

/// The messages of `Ready` and `BrokerConnected` once the broker is missed.
async fn missed(buckets: &Buckets, name: &str) -> [String; 2] {
    let away = |status: &TokenBucketStatus| condition(status, "BrokerConnected") == "False";
    let status = buckets.until(name, "its broker to be missed", away).await;
    let message = |kind: &str| {
        let condition = status.conditions.iter().find(|it| it.type_ == kind);
        condition.expect("a condition").message.clone()
    };
    [message("Ready"), message("BrokerConnected")]
}

#[tokio::test]
async fn what_a_secret_says_is_in_the_log_alone() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let url = vhost.amqp_url();
    let (_, address) = url.rsplit_once("@127.0.0.1:").expect("an address");
    let (port, _) = address.split_once('/').expect("a vhost");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("an address").port().to_string();
    let secrets: Api<Secret> = Api::namespaced(testbed.client().await, namespace.name());
    // Unknown, refused (nobody listens at the discard port), silent, and a broker that knows no such user.
    let tenants = [
        ("unknown", "odd-host.invalid", "5672"),
        ("refused", "127.0.0.1", "9"),
        ("silent", "127.0.0.1", &silent),
        ("stranger", "127.0.0.1", port),
    ];
    let operator = Operator::start(testbed, &namespace, &vhost, &["--ui"]).await;
    for (name, host, port) in tenants {
        let data = json!({"host": host, "port": port, "username": "odd-user", "password": "odd-word", "vhost": "odd-vhost"});
        let secret = json!({"metadata": {"name": format!("of-{name}")}, "stringData": data});
        let secret = serde_json::from_value(secret).expect("a Secret");
        let created = secrets.create(&PostParams::default(), &secret).await;
        created.expect("the Secret is accepted");
        let connection = json!({"secretRef": {"name": format!("of-{name}")}});
        let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 1, "connection": connection});
        buckets.create(name, spec).await;
    }
    let mut messages = Vec::new();
    for (name, ..) in tenants {
        let [ready, connected] = missed(&buckets, name).await;
        assert_eq!(ready, connected);
        assert!(ready.contains(&format!("Secret of-{name}")), "{ready}");
        messages.push(ready.replace(&format!("of-{name}"), ""));
        event(testbed, &namespace, name, "BrokerUnavailable").await;
    }
    assert!(
        messages[0] == messages[1] && messages[1] == messages[2],
        "no port can be looked for: {messages:#?}"
    );
    assert!(
        messages[3].contains("user name or password"),
        "{messages:#?}"
    );

    let mut told = Vec::new();
    for (name, ..) in tenants {
        let bucket = buckets.get(name).await.expect("the resource");
        told.push(serde_json::to_string(&bucket).expect("text"));
    }
    let events: Api<Event> = Api::namespaced(testbed.client().await, namespace.name());
    let events = events.list(&ListParams::default()).await.expect("events");
    told.push(serde_json::to_string(&events.items).expect("text"));
    let metrics = operator.http("/metrics").await.expect("metrics");
    let series = format!(
        "tokenbucket_broker_connected{{broker=\"{}/of-silent\"}} 0",
        namespace.name()
    );
    assert!(metrics.contains(&series), "{metrics}");
    told.push(metrics);
    told.push(operator.http("/").await.expect("the page"));
    for text in told {
        for word in ["odd-", "127.0.0.1", "os error", "ACCESS_REFUSED"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }
    let logs = operator.logs();
    for word in ["odd-host.invalid", "odd-user", "odd-vhost"] {
        assert!(logs.contains(word), "{word}: {logs}");
    }
    assert!(!logs.contains("odd-word"), "{logs}");
}
