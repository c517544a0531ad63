//! The life of an engine: it connects, runs a session, and connects again. The machine lives through all of that.

use std::sync::Arc;
use std::time::Duration;

use amqp::{Broker, BrokerError, Endpoint, LEAST_CHANNELS, Place};
use bucket::machine::{Event, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::desired::Desired;
use crate::options::Options;
use crate::session::Session;
use crate::shell::Shell;

/// A connection that lasted this long was a good one: the next try after it comes soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

pub(crate) async fn run(
    endpoint: Endpoint,
    options: Options,
    outcomes: mpsc::UnboundedSender<Outcome>,
    desired: Arc<Desired>,
    located: watch::Sender<Place>,
    stop: CancellationToken,
) {
    let _closing = desired.close_on_drop();
    let mut shell = Shell::new(&endpoint, &options, outcomes);
    let mut backoff = Backoff::default();
    let mut channels = usize::MAX;
    loop {
        let connecting = Broker::connect_with(&endpoint, &options.connection_name, channels);
        // Who limits them may have raised the limit by the time when the connection ends.
        channels = usize::MAX;
        let Some(connected) = offline(connecting, &mut shell, &desired, &stop).await else {
            return;
        };
        let error = match connected {
            Ok(broker) => {
                let since = Instant::now();
                greet(&endpoint, &broker);
                located.send_replace(Place::of(&endpoint, broker.cluster()));
                let session = Session::new(broker, options.refill_queue_type);
                let end = session.run(&mut shell, &desired, &stop).await;
                let was_good = since.elapsed() > GOOD_CONNECTION;
                if was_good {
                    backoff = Backoff::default();
                }
                match end {
                    None => return,
                    // It is replaced before anybody needs to know. One that a server uses up at once is not.
                    Some(BrokerError::WornOut) if was_good => {
                        info!(broker = %endpoint, "the connection is used up: there is a new one");
                        shell.handle(Event::Lost(None));
                        continue;
                    }
                    Some(BrokerError::ChannelLimit { most, message }) if most >= LEAST_CHANNELS => {
                        info!(broker = %endpoint, message, "the operator goes on with fewer channels");
                        channels = most;
                        shell.handle(Event::Lost(None));
                        continue;
                    }
                    Some(error) => error,
                }
            }
            Err(error) => error,
        };
        let delay = backoff.next();
        warn!(broker = %endpoint, %error, retry_in = ?delay, "not connected to the broker");
        shell.handle(Event::Lost(Some(error.failure())));
        let wait = tokio::time::sleep(delay);
        if offline(wait, &mut shell, &desired, &stop).await.is_none() {
            return;
        }
    }
}

fn greet(endpoint: &Endpoint, broker: &Broker) {
    match broker.version() {
        Some(version) => info!(broker = %endpoint, %version, "connected to the broker"),
        None => info!(broker = %endpoint, "connected to a broker that tells no version"),
    }
}

/// Waits for `until` and takes up changes meanwhile as far as that needs no broker. None when the engine is to stop.
async fn offline<T>(
    until: impl Future<Output = T>,
    shell: &mut Shell,
    desired: &Desired,
    stop: &CancellationToken,
) -> Option<T> {
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            output = &mut until => return Some(output),
            change = desired.next() => {
                let event = shell.event(change);
                shell.handle(event);
            }
        }
    }
}
