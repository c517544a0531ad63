use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use token_bucket_operator::amqp::{Broker, BrokerError, Endpoint, Version};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::machine::Transaction;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::link::Link;
use super::{BUCKET, LEDGER, REFILL, bucket, connect, consume, request, send, tokens, want};
use crate::support::{Vhost, eventually, testbed};

/// Calls the management API with all rights.
async fn manage(method: Method, path: &str, body: Option<Value>) -> Option<Value> {
    let testbed = testbed().await;
    let url = format!("{}/api/{path}", testbed.setting("RABBITMQ_MANAGEMENT_URL"));
    let password = Some(testbed.setting("RABBITMQ_PASSWORD"));
    let request = Client::new()
        .request(method, url)
        .basic_auth(testbed.setting("RABBITMQ_USER"), password);
    let answer = request
        .json(&body)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    answer.json().await.ok()
}

/// User, password, address and vhost of a URI; the vhost escaped.
fn parts(uri: &str) -> [&str; 4] {
    let (credentials, rest) = uri
        .strip_prefix("amqp://")
        .unwrap()
        .split_once('@')
        .unwrap();
    let ((user, password), (address, vhost)) = (
        credentials.split_once(':').unwrap(),
        rest.split_once('/').unwrap(),
    );
    [user, password, address, vhost]
}

async fn connect_to(uri: &str) -> Result<Broker, BrokerError> {
    Broker::connect(&Endpoint::parse(uri).unwrap(), "test").await
}

#[tokio::test]
async fn a_connection_that_is_refused_says_what_to_do_and_no_password() {
    let vhost = testbed().await.vhost().await;
    let url = vhost.amqp_url();
    let [user, password, address, name] = parts(&url);
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let secret = "s3cret";
    for (uri, kind, person) in [
        (
            format!("amqp://{user}:{secret}@{address}/{name}"),
            "AuthenticationRefused",
            true,
        ),
        (
            format!("amqp://nobody:{secret}@{address}/{name}"),
            "AuthenticationRefused",
            true,
        ),
        (
            format!("amqp://{user}:{password}@{address}/nowhere"),
            "VhostRefused",
            true,
        ),
        (
            format!("amqp://{user}:{password}@{address}/"),
            "VhostRefused",
            true,
        ),
        (
            format!("amqp://{user}:{password}@{address}/{}", "v".repeat(256)),
            "VhostRefused",
            true,
        ),
        (
            format!("amqp://u:{secret}@{closed}/"),
            "BrokerUnreachable",
            false,
        ),
        (
            format!("amqp://u:{secret}@no-such-host.invalid/"),
            "BrokerUnreachable",
            false,
        ),
        (
            format!("amqps://u:{secret}@{address}/"),
            "BrokerUnreachable",
            false,
        ),
    ] {
        let error = connect_to(&uri).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.needs_person()),
            (kind, person),
            "{uri}: {error}"
        );
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("amqp://{}/", listener.local_addr().unwrap());
    let peer = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        // Nothing of the attempt remains: its socket is closed.
        let mut received = Vec::new();
        let _ = socket.read_to_end(&mut received).await;
        received
    };
    let (error, received) = tokio::join!(connect_to(&uri), peer);
    assert_eq!(error.unwrap_err().kind(), "BrokerUnreachable");
    assert!(received.is_empty() || received == b"AMQP\x00\x00\x09\x01");
}

#[tokio::test]
async fn the_broker_shows_who_is_connected() {
    let vhost = testbed().await.vhost().await;
    let broker = Broker::connect(&Endpoint::parse(&vhost.amqp_url()).unwrap(), "who it is")
        .await
        .unwrap();
    let connection = the_connection(&vhost).await;
    assert_eq!(
        connection["client_properties"]["connection_name"],
        json!("who it is")
    );
    assert_eq!(
        connection["client_properties"]["product"],
        json!("token-bucket-operator")
    );
    assert_eq!(connection["timeout"], json!(10));
    let overview = manage(Method::GET, "overview", None).await.unwrap();
    let version = overview["rabbitmq_version"].as_str().unwrap();
    assert_eq!(
        broker.version(),
        Some(&Version::new("RabbitMQ", version)),
        "{overview}"
    );
    broker.close().await;
    assert!(broker.lost().await.is_connection_lost());
}

/// The only connection of the vhost, once the management API knows it.
async fn the_connection(vhost: &Vhost<'_>) -> Value {
    let url = vhost.amqp_url();
    let path = format!("vhosts/{}/connections", parts(&url)[3]);
    eventually(
        "the connection to be listed",
        Duration::from_secs(20),
        async || {
            let Some(Value::Array(mut connections)) = manage(Method::GET, &path, None).await else {
                return Err("no answer".into());
            };
            match (connections.pop(), connections.len()) {
                (Some(connection), 0) if connection["channels"].is_u64() => Ok(connection),
                _ => Err(format!("{} connections more", connections.len())),
            }
        },
    )
    .await
}

#[tokio::test]
async fn hundreds_of_missing_queues_leave_the_connection_as_it_was() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    broker
        .declare_bucket("b", QueueType::Classic, 1)
        .await
        .unwrap();
    for _ in 0..3 {
        let counts = join_all((0..200).map(|n| {
            let broker = Arc::clone(&broker);
            async move {
                let queue = if n % 2 == 0 { "b" } else { "nowhere" };
                (n, broker.count(queue).await)
            }
        }));
        for (n, count) in counts.await {
            assert_eq!(count, Ok((n % 2 == 0).then_some(0)), "{n}");
        }
    }
    let limited = join_all((0..100).map(|_| broker.declare_bucket("b", QueueType::Classic, 2)));
    assert!(limited.await.iter().all(Result::is_ok));
    assert!(broker.lost().now_or_never().is_none());
    // Statistics lag; a leak would not go away.
    eventually(
        "the channels to be closed",
        Duration::from_secs(20),
        async || match the_connection(&vhost).await["channels"].as_u64() {
            Some(0..=16) => Ok(()),
            channels => Err(format!("{channels:?} channels")),
        },
    )
    .await;
}

#[tokio::test]
async fn verbs_that_are_given_up_leak_no_channel() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    broker
        .declare_bucket("b", QueueType::Classic, 1)
        .await
        .unwrap();
    for n in 0..500 {
        let _ = tokio::time::timeout(Duration::from_micros(n), broker.count("b")).await;
    }
    assert_eq!(broker.count("b").await, Ok(Some(0)));
    eventually(
        "the channels to be closed",
        Duration::from_secs(20),
        async || match the_connection(&vhost).await["channels"].as_u64() {
            Some(0..=16) => Ok(()),
            channels => Err(format!("{channels:?} channels")),
        },
    )
    .await;
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let vhost = testbed().await.vhost().await;
    let url = vhost.amqp_url();
    let [user, _, _, name] = parts(&url);
    let permit = async |configure: &str, write: &str, read: &str| {
        let body = json!({"configure": configure, "write": write, "read": read});
        manage(
            Method::PUT,
            &format!("permissions/{name}/{user}"),
            Some(body),
        )
        .await;
        // The broker remembers permissions for the life of a channel.
        connect(&vhost).await
    };
    let broker = permit(".*", ".*", ".*").await;
    bucket(&broker, QueueType::Classic, 9).await;
    consume(&broker).await.release().await;
    send(&broker, "b").await;

    let refused = |error: BrokerError, permission: &str, object: &str| {
        let text = error.to_string();
        assert_eq!(error.kind(), "AccessRefused", "{text}");
        assert!(
            text.contains(permission) && text.contains(object) && error.needs_person(),
            "{text}"
        );
    };
    let broker = permit("^$", ".*", ".*").await;
    refused(
        broker
            .declare_bucket("new", QueueType::Classic, 9)
            .await
            .unwrap_err(),
        "configure",
        "'new'",
    );
    let broker = permit(".*", ".*", "^$").await;
    let mut channel = broker.transactions().await.unwrap();
    let wanted = [want("b", QueueType::Classic, 0)];
    refused(channel.take(&wanted).await.unwrap_err(), "read", LEDGER);
    let written = super::write(&broker, "b", QueueType::Classic, 1).await;
    refused(written.unwrap_err(), "read", LEDGER);
    assert_eq!(vhost.depth(&format!("{LEDGER}.lock")).await, None);
    refused(
        broker
            .consume(REFILL, QueueType::Classic, 1)
            .await
            .unwrap_err(),
        "read",
        REFILL,
    );
    let broker = permit(".*", "^$", ".*").await;
    let publisher = broker.publisher().await.unwrap();
    let requests = [(REFILL.to_owned(), request("b"))];
    refused(
        publisher.publish(&requests).await.remove(0).unwrap_err(),
        "write",
        "exchange",
    );
    let mut channel = broker.transactions().await.unwrap();
    // The broker refuses the first of them while the last are still on their way.
    refused(
        channel.commit(tokens(100_000)).await.unwrap_err(),
        "write",
        "exchange",
    );
    let mut consumer = consume(&broker).await;
    let delivery = consumer.next(1).await.unwrap().remove(0);
    let acks = vec![delivery.tag];
    let forwards = vec![delivery.forward("elsewhere", None)];
    refused(
        consumer.settle(acks, forwards).await.unwrap_err(),
        "write",
        "exchange",
    );
    // Nothing of that has harmed the connection, nor the publisher once it may.
    assert_eq!(broker.count(BUCKET).await, Ok(Some(0)));
    drop(permit(".*", ".*", ".*").await);
    assert_eq!(publisher.publish(&requests).await, [Ok(())]);
}

#[tokio::test]
async fn everybody_learns_that_the_broker_has_closed_the_connection() {
    let vhost = testbed().await.vhost().await;
    let broker = connect(&vhost).await;
    let mut consumer = consume(&broker).await;
    let mut channel = broker.transactions().await.unwrap();
    the_connection(&vhost).await;
    let (first, second, next, ()) = tokio::join!(
        broker.lost(),
        broker.lost(),
        consumer.next(1),
        vhost.close_all_connections()
    );
    assert!(first.is_connection_lost());
    assert_eq!(first, second);
    assert_eq!(broker.lost().await, first);
    assert!(next.unwrap_err().is_connection_lost());
    assert!(broker.count("b").await.unwrap_err().is_connection_lost());
    let acks = vec![1];
    let settled = consumer.settle(acks.clone(), vec![]).await;
    assert!(settled.unwrap_err().is_connection_lost());
    let transaction = Transaction {
        acks,
        ..Transaction::default()
    };
    let committed = channel.commit(transaction).await;
    assert!(committed.unwrap_err().is_connection_lost());
    let wanted = [want("b", QueueType::Classic, 0)];
    let taken = channel.take(&wanted).await;
    assert!(taken.unwrap_err().is_connection_lost());
}

#[tokio::test]
async fn a_broker_that_has_fallen_silent_is_noticed_by_its_heartbeats() {
    let vhost = testbed().await.vhost().await;
    let link = Link::to(&format!("{}?heartbeat=1", vhost.amqp_url())).await;
    let broker = connect_to(&link.uri).await.unwrap();
    broker
        .declare_bucket("b", QueueType::Classic, 1)
        .await
        .unwrap();
    link.silence();
    let (lost, count) = tokio::join!(broker.lost(), broker.count("b"));
    assert!(lost.is_connection_lost());
    assert!(count.unwrap_err().is_connection_lost());
}

#[tokio::test]
async fn a_resource_alarm_is_told_and_a_transaction_waits_for_its_end() {
    let vhost = testbed().await.vhost().await;
    let link = Link::to(&vhost.amqp_url()).await;
    let broker = Arc::new(connect_to(&link.uri).await.unwrap());
    bucket(&broker, QueueType::Classic, 9).await;
    let mut channel = broker.transactions().await.unwrap();
    link.block().await;
    eventually(
        "the alarm",
        Duration::from_secs(10),
        async || match broker.blocked() {
            true => Ok(()),
            false => Err("no alarm".into()),
        },
    )
    .await;
    assert_eq!(broker.count(BUCKET).await, Err(BrokerError::Blocked));
    let publisher = broker.publisher().await;
    assert!(matches!(publisher, Err(BrokerError::Blocked)));
    let commit = channel.commit(tokens(3));
    let mut commit = std::pin::pin!(commit);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut commit)
            .await
            .is_err()
    );
    link.unblock().await;
    assert_eq!(commit.await, Ok(vec![]));
    assert!(!broker.blocked());
    assert_eq!(broker.count(BUCKET).await, Ok(Some(3)));
}
