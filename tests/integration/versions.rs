//! What the operator does not do on a broker that is too old for it. On the installed broker only: RabbitMQ 3.10.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::engine::{Outcome, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{RARELY, Running, Vhost, asked, bucket, testbed};

fn quorum(name: &str) -> Bucket {
    Bucket {
        queue_type: QueueType::Quorum,
        ..bucket(name, RARELY, 5, 100)
    }
}

/// Waits until the bucket is refused, and answers the message.
async fn refused(running: &mut Running, name: &str) -> String {
    let outcome = running
        .until(|outcome| {
            matches!(outcome, Outcome::Bucket(id, state)
                if id.name() == name && matches!(state.phase, Phase::Stalled { .. }))
        })
        .await;
    match outcome {
        Outcome::Bucket(_, state) => match &state.phase {
            Phase::Stalled {
                reason: "UnsupportedBrokerVersion",
                message,
            } => message.clone(),
            phase => panic!("{phase:?}"),
        },
        outcome => panic!("{outcome:?}"),
    }
}

/// Passes connections on to the broker. Those that are made after the "upgrade" hear of a newer version.
struct Upgrade {
    amqp_url: String,
    done: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Upgrade {
    async fn of(vhost: &Vhost<'_>) -> Self {
        let url = vhost.amqp_url();
        let (credentials, rest) = url.rsplit_once('@').expect("a user");
        let (broker, vhost) = rest.split_once('/').expect("a vhost");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address");
        let done = Arc::new(AtomicBool::new(false));
        let mut task = JoinSet::new();
        task.spawn(pass(listener, broker.to_owned(), done.clone()));
        Self {
            amqp_url: format!("{credentials}@{own}/{vhost}"),
            done,
            _task: task,
        }
    }
}

async fn pass(listener: TcpListener, broker: String, upgraded: Arc<AtomicBool>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let mut broker = TcpStream::connect(&broker).await.expect("the broker");
        let upgraded = upgraded.load(Ordering::SeqCst);
        connections.spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let mut start = [0; 8];
            from_client.read_exact(&mut start).await?;
            broker.write_all(&start).await?;
            let mut greeting = vec![0; 4096];
            let length = broker.read(&mut greeting).await?;
            let version = greeting.windows(5).position(|text| text == b"3.10.");
            if let (true, Some(at)) = (upgraded, version) {
                greeting[at..at + 5].copy_from_slice(b"3.13.");
            }
            to_client.write_all(&greeting[..length]).await?;
            let (mut from_broker, mut to_broker) = broker.into_split();
            tokio::select! {
                end = copy(&mut from_client, &mut to_broker) => end,
                end = copy(&mut from_broker, &mut to_client) => end,
            }
        });
    }
}

#[tokio::test]
async fn a_quorum_bucket_waits_for_a_newer_broker_and_touches_nothing() {
    let vhost = testbed().await.vhost().await;
    let upgrade = Upgrade::of(&vhost).await;
    let mut running = Running::of_type(&upgrade.amqp_url, QueueType::Classic);
    running.engine.apply(asked(&quorum("x"), "now"), 1);
    let message = refused(&mut running, "x").await;
    for part in ["RabbitMQ 3.10.", "RabbitMQ 3.13", "queueType: classic"] {
        assert!(message.contains(part), "{message}");
    }
    // It harms no other bucket.
    running.engine.apply(bucket("classic", RARELY, 5, 100), 1);
    running.ready(1, 1).await;
    let queues = vhost.queues().await;
    assert!(
        !queues
            .iter()
            .any(|queue| queue.starts_with("token_bucket_x")),
        "{queues:?}"
    );

    upgrade.done.store(true, Ordering::SeqCst);
    vhost.close_all_connections().await;
    running.ready(2, 1).await;
    vhost.depth_becomes("token_bucket_x", 5).await;
    running.stop().await;
}

#[tokio::test]
async fn quorum_refill_queues_wait_for_a_newer_broker_and_nothing_is_declared() {
    let vhost = testbed().await.vhost().await;
    let upgrade = Upgrade::of(&vhost).await;
    let mut running = Running::of_type(&upgrade.amqp_url, QueueType::Quorum);
    running.engine.apply(bucket("x", RARELY, 5, 100), 1);
    let message = refused(&mut running, "x").await;
    assert!(message.contains("--refill-queue-type classic"), "{message}");
    running.engine.apply(bucket("later", RARELY, 5, 100), 1);
    refused(&mut running, "later").await;
    assert_eq!(vhost.queues().await, Vec::<String>::new());

    upgrade.done.store(true, Ordering::SeqCst);
    vhost.close_all_connections().await;
    running.ready(2, 1).await;
    running.stop().await;
}
