//! The fixture keeps its promises: what the other tests rely on.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use lapin::{BasicProperties, types::FieldTable};
use serde_json::json;

use crate::support::testbed;

#[tokio::test]
async fn a_vhost_counts_exactly_and_is_alone() {
    let testbed = testbed().await;
    let (vhost, other) = (testbed.vhost().await, testbed.vhost().await);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), 5.into());
    vhost.declare("tokens", arguments).await;
    for _ in 0..7 {
        vhost
            .publish("tokens", b"t", BasicProperties::default())
            .await;
    }

    assert_eq!(vhost.depth("tokens").await, Some(5));
    assert_eq!(vhost.take("tokens", 2).await, 2);
    assert_eq!(vhost.depth("tokens").await, Some(3));
    assert_eq!(vhost.take("tokens", 10).await, 3);
    assert_eq!(vhost.queues().await, ["tokens"]);
    let queue = vhost.queue("tokens").await.expect("it was declared");
    assert_eq!(queue["arguments"], json!({"x-max-length": 5}));
    assert_eq!(queue["durable"], json!(true));

    assert_eq!(other.depth("tokens").await, None);
    assert!(other.queue("tokens").await.is_none());
    assert!(other.queues().await.is_empty());
}

#[tokio::test]
async fn a_vhost_survives_the_loss_of_all_its_connections() {
    let vhost = testbed().await.vhost().await;
    vhost.declare("tokens", FieldTable::default()).await;
    let channel = vhost.channel().await;
    vhost
        .publish("tokens", b"t", BasicProperties::default())
        .await;

    vhost.close_all_connections().await;

    assert!(!channel.status().connected());
    assert_eq!(vhost.depth("tokens").await, Some(1));
}

#[tokio::test]
async fn namespaces_are_apart() {
    let testbed = testbed().await;
    let client = testbed.client().await;
    let (one, two) = (testbed.namespace().await, testbed.namespace().await);
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "x"}, "data": {"k": "v"}})).unwrap();
    Api::namespaced(client.clone(), one.name())
        .create(&PostParams::default(), &map)
        .await
        .unwrap();

    let elsewhere: Api<ConfigMap> = Api::namespaced(client, two.name());
    assert!(elsewhere.get_opt("x").await.unwrap().is_none());
    let seen = testbed.kubectl(&[
        "get",
        "configmap",
        "x",
        "--namespace",
        one.name(),
        "-o",
        "jsonpath={.data.k}",
    ]);
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "v");
}
