//! Resources, statuses, events and deletion, as people at kubectl see them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{Operator, RARELY, SOON, condition, event, eventually, reason, stage};

/// `Ready Reconciling Stalled BrokerConnected`.
fn conditions(status: &TokenBucketStatus) -> [&str; 4] {
    ["Ready", "Reconciling", "Stalled", "BrokerConnected"].map(|kind| condition(status, kind))
}

#[tokio::test]
async fn a_status_comes_also_without_a_broker() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    // Nobody listens at the discard port.
    let nobody = Some("amqp://user:s3cret@127.0.0.1:9/");
    let operator = Operator::start_at(testbed, &namespace, nobody, &[]).await;
    buckets
        .create("x", json!({"schedule": RARELY, "amount": 1, "maximum": 1}))
        .await;
    let away = |status: &TokenBucketStatus| condition(status, "BrokerConnected") == "False";
    let status = buckets
        .until("x", "a status that says what is wrong", away)
        .await;
    assert_eq!(conditions(&status), ["False", "True", "False", "False"]);
    assert!(!operator.logs().contains("s3cret") && !format!("{status:?}").contains("s3cret"));

    // Without any broker it is for a person to act.
    drop(operator);
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    let stalled = |status: &TokenBucketStatus| condition(status, "Stalled") == "True";
    let status = buckets.until("x", "the lack of a broker", stalled).await;
    assert_eq!(conditions(&status)[..3], ["False", "False", "True"]);
    drop(_operator);

    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    assert_eq!(
        conditions(&buckets.ready("x").await),
        ["True", "False", "False", "True"]
    );
}

#[tokio::test]
async fn a_bad_resource_stalls_and_harms_no_other() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec =
        |zone: &str| json!({"schedule": RARELY, "amount": 1, "maximum": 1, "timeZone": zone});
    buckets.create("bad", spec("Europe/Atlantis")).await;
    buckets.create("good", spec("Europe/Berlin")).await;
    buckets.ready("good").await;
    let stalled = |status: &TokenBucketStatus| condition(status, "Stalled") == "True";
    let status = buckets.until("bad", "the verdict", stalled).await;
    assert_eq!(
        (conditions(&status)[0], reason(&status, "Stalled")),
        ("False", "InvalidTimeZone")
    );
    let event = event(testbed, &namespace, "bad", "InvalidTimeZone").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(
        event
            .note
            .is_some_and(|note| note.contains("Europe/Atlantis"))
    );

    // Mended, it is as good as any other; broken again, its tokens stay.
    buckets.edit("bad", json!({"timeZone": "Etc/UTC"})).await;
    buckets.ready("bad").await;
    buckets.request_refill("bad", "one").await;
    vhost.depth_becomes("token_bucket_bad", 1).await;
    buckets.edit("bad", json!({"schedule": "0 0 30 2 *"})).await;
    let status = buckets.until("bad", "the second verdict", stalled).await;
    assert_eq!(reason(&status, "Stalled"), "InvalidSchedule");
    assert_eq!(status.next_refill_time, None);
    assert_eq!(vhost.depth("token_bucket_bad").await, Some(1));
    buckets.delete("bad").await;
    assert_eq!(vhost.depth("token_bucket_bad").await, None);
}

#[tokio::test]
async fn the_older_of_two_resources_owns_the_queue() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec =
        |amount: u64| json!({"name": "same", "schedule": RARELY, "amount": amount, "maximum": 50});
    buckets.create("older", spec(3)).await;
    buckets.ready("older").await;
    // Creation times have whole seconds; beyond that the uid decides, which nobody can foresee.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    buckets.create("younger", spec(5)).await;
    let stalled = |status: &TokenBucketStatus| condition(status, "Stalled") == "True";
    let status = buckets.until("younger", "the conflict", stalled).await;
    assert_eq!(reason(&status, "Stalled"), "NameConflict");
    let message = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Stalled")
        .map(|c| c.message.clone());
    assert!(
        message
            .as_ref()
            .is_some_and(|message| message.contains("older")),
        "{message:?}"
    );

    // The loser takes nothing with it when it goes.
    buckets.request_refill("older", "one").await;
    vhost.depth_becomes("token_bucket_same", 3).await;
    buckets.delete("younger").await;
    assert_eq!(vhost.depth("token_bucket_same").await, Some(3));

    buckets.create("younger", spec(5)).await;
    buckets
        .until("younger", "the conflict again", stalled)
        .await;
    buckets.delete("older").await;
    buckets.ready("younger").await;
    buckets.request_refill("younger", "mine").await;
    vhost.depth_becomes("token_bucket_same", 5).await;
}

#[tokio::test]
async fn deletion_removes_what_is_there_and_keeps_what_is_retained() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = |policy: &str| json!({"schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 4, "deletionPolicy": policy});
    buckets.create("kept", spec("Retain")).await;
    buckets.create("gone", spec("Delete")).await;
    buckets.ready("kept").await;
    buckets.ready("gone").await;
    vhost.depth_becomes("token_bucket_kept", 4).await;

    let channel = vhost.channel().await;
    for queue in ["token_bucket_gone", "token_bucket_gone.ledger"] {
        channel
            .queue_delete(queue.into(), Default::default())
            .await
            .expect("it can be deleted");
    }
    buckets.delete("gone").await;
    buckets.delete("kept").await;
    assert_eq!(vhost.depth("token_bucket_gone").await, None);
    assert_eq!(vhost.depth("token_bucket_kept").await, Some(4));

    // A resource that comes back finds its tokens; they are not initial ones again.
    buckets.create("kept", spec("Delete")).await;
    let found = |status: &TokenBucketStatus| status.available_tokens == Some(4);
    buckets.until("kept", "the tokens that stayed", found).await;
    buckets.delete("kept").await;
    assert_eq!(vhost.queues().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_secret_names_another_broker() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator = Operator::start_at(testbed, &namespace, None, &[]).await;
    let connection = json!({"secretRef": {"name": "rabbit"}});
    let spec = json!({"schedule": RARELY, "amount": 7, "maximum": 9, "connection": connection});
    buckets.create("x", spec).await;
    let waiting = |status: &TokenBucketStatus| condition(status, "Ready") == "False";
    buckets.until("x", "the lack of the Secret", waiting).await;

    let secrets: Api<Secret> = Api::namespaced(testbed.client().await, namespace.name());
    namespace.create_secret("rabbit", &vhost.amqp_url()).await;
    buckets.ready("x").await;
    buckets.request_refill("x", "one").await;
    vhost.depth_becomes("token_bucket_x", 7).await;

    // A namespace that goes takes the Secret first, as a rule.
    secrets
        .delete("rabbit", &Default::default())
        .await
        .expect("it is deleted");
    buckets.delete("x").await;
    assert_eq!(vhost.queues().await, Vec::<String>::new());
}

#[tokio::test]
async fn sigterm_drains_and_series_leave_with_their_bucket() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    buckets
        .create(
            "x",
            json!({"schedule": "* * * * * *", "amount": 1, "maximum": 9}),
        )
        .await;
    buckets.ready("x").await;
    for path in ["/livez", "/readyz"] {
        operator.http(path).await.expect("healthy and ready");
    }
    let has_series = async || {
        let metrics = operator.http("/metrics").await?;
        Ok::<_, String>(metrics.lines().any(|line| line.contains(r#"name="x""#)))
    };
    eventually("the bucket's series", SOON, async || {
        if has_series().await? {
            Ok(())
        } else {
            Err("not there".into())
        }
    })
    .await;
    buckets.delete("x").await;
    eventually("the series to go", SOON, async || {
        if has_series().await? {
            Err("still there".into())
        } else {
            Ok(())
        }
    })
    .await;
    assert!(operator.terminate().await.success(), "{}", operator.logs());
    assert!(operator.logs().contains("drained"), "{}", operator.logs());
}
