//! Limits that an administrator sets at the broker.

use token_bucket_operator::bucket::machine::Phase;
use token_bucket_operator::engine::{ConnectionState, Outcome};

use crate::support::{RARELY, Running, bucket, testbed};

/// The message of a limit that is reached, wherever it is told.
fn limit(outcome: &Outcome) -> Option<String> {
    let (reason, message) = match outcome {
        Outcome::Connection(ConnectionState::Down { reason, message }) => (reason, message),
        Outcome::Bucket(_, state) => match &state.phase {
            Phase::Stalled { reason, message } | Phase::Progressing { reason, message } => {
                (reason, message)
            }
            Phase::Ready => return None,
        },
        _ => return None,
    };
    (*reason == "BrokerLimit").then(|| message.to_string())
}

#[tokio::test]
async fn a_limit_of_the_broker_is_told_and_work_goes_on_when_it_is_raised() {
    for (what, most) in [
        ("vhost-limits", "max-queues"),
        ("vhost-limits", "max-connections"),
        ("user-limits", "max-connections"),
        ("user-limits", "max-channels"),
    ] {
        let vhost = testbed().await.vhost().await;
        vhost.set_limit(what, most, Some(1)).await;
        if most == "max-connections" {
            vhost.channel().await;
        }
        let mut running = Running::start(&vhost);
        running.engine.apply(bucket("x", RARELY, 1, 9), 1);
        let told = running.until(|outcome| limit(outcome).is_some()).await;
        let told = limit(&told).unwrap_or_default();
        assert!(told.contains("limit"), "{told}");
        vhost.set_limit(what, most, None).await;
        running.ready(1, 1).await;
        running.stop().await;
    }
}
