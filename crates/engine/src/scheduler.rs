//! The scheduler: at its due time, a bucket's refill request goes into its refill queue, confirmed by the broker. It
//! remembers nothing that it could not lose; after a restart it starts from the ledgers.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::agenda::{Agenda, LeftOut, Request};
use super::board::Board;
use super::clock::{Clock, LONGEST_SLEEP};
use super::permit::{Moment, Permit};
use amqp::{BrokerError, RequestPublisher};
use bucket::{Bucket, BucketId, Origin, RefillRequest};

/// Where requests go, and what becomes of each.
pub(super) trait Publish {
    fn publish(
        &self,
        requests: &[(String, RefillRequest)],
    ) -> impl Future<Output = Vec<Result<(), BrokerError>>> + Send;
}

impl Publish for RequestPublisher {
    async fn publish(&self, requests: &[(String, RefillRequest)]) -> Vec<Result<(), BrokerError>> {
        RequestPublisher::publish(self, requests).await
    }
}

/// A handle of the scheduler's task.
#[derive(Clone, Debug)]
pub(super) struct Scheduler {
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Enter {
        bucket: Arc<Bucket>,
        since: DateTime<Utc>,
        reference: DateTime<Utc>,
    },
    Leave(BucketId, Option<oneshot::Sender<()>>),
}

impl Scheduler {
    /// A handle, and the task that publishes until the connection is lost or all handles are gone.
    pub(super) fn new(
        publisher: impl Publish,
        permit: Permit,
        board: Arc<Board>,
        clock: Clock,
    ) -> (Self, impl Future<Output = BrokerError>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let scheduling = run(publisher, permit, board, clock, receiver);
        (Self { commands }, scheduling)
    }

    /// Schedules a bucket from its ledger on: `reference` is the newest tick that needs no request any more.
    pub(super) fn enter(
        &self,
        bucket: Arc<Bucket>,
        since: DateTime<Utc>,
        reference: DateTime<Utc>,
    ) {
        let _ = self.commands.send(Command::Enter {
            bucket,
            since,
            reference,
        });
    }

    /// Stops scheduling a bucket, soon.
    pub(super) fn leave(&self, id: BucketId) {
        let _ = self.commands.send(Command::Leave(id, None));
    }

    /// Stops scheduling a bucket; afterwards no request of it is on its way to the broker.
    pub(super) async fn left(&self, id: BucketId) {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Leave(id, Some(done)));
        let _ = wait.await;
    }
}

async fn run(
    publisher: impl Publish,
    mut permit: Permit,
    board: Arc<Board>,
    mut clock: Clock,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> BrokerError {
    let mut agenda = Agenda::default();
    // Overdue requests since something was published last.
    let mut requests = Vec::new();
    loop {
        let permitted = permit.allows(Moment::now());
        let sleep = match agenda.next().filter(|_| permitted) {
            Some(at) => (at - clock.now())
                .to_std()
                .unwrap_or_default()
                .min(LONGEST_SLEEP),
            None => LONGEST_SLEEP,
        };
        let mut batch = Vec::new();
        tokio::select! {
            // Many buckets come at once at a start: their overdue requests go out together.
            received = commands.recv_many(&mut batch, 1000) => if received == 0 {
                return BrokerError::ConnectionLost { reason: "the engine ends".into() };
            },
            () = tokio::time::sleep(sleep) => {}
            () = permit.renewed(), if !permitted => {}
        }
        let permitted = permit.allows(Moment::now());
        // Without a permit the clock is not looked at: what passes then passes while nobody can refill.
        let now = if permitted {
            // First, as the buckets were until now: ticks that are due already are not missed for an edit.
            let (now, awake) = clock.look();
            requests.extend(agenda.take_due(now, awake));
            now
        } else {
            clock.now()
        };
        for command in batch {
            match command {
                Command::Enter {
                    bucket,
                    since,
                    reference,
                } => {
                    let id = bucket.id.clone();
                    requests.extend(agenda.enter(bucket, since, reference, now));
                    board.update(&id, |state| state.next_refill = agenda.next_of(&id));
                }
                Command::Leave(id, done) => {
                    agenda.leave(&id);
                    requests.retain(|request: &Request| request.bucket.id != id);
                    // Between two publications nothing is under way.
                    done.map(|done| done.send(()));
                }
            }
        }
        if !permitted {
            continue;
        }
        for LeftOut {
            bucket,
            reference,
            ticks,
        } in agenda.take_left_out()
        {
            board.leave_out(&bucket, reference, ticks);
        }
        let requests = std::mem::take(&mut requests);
        let publishing = publish(&publisher, &board, &mut agenda, requests, now);
        if let Err(lost) = clock.watch_during(publishing).await {
            return lost;
        }
    }
}

/// Publishes what is due at `now`. What the broker does not accept is due again in a while.
async fn publish(
    publisher: &impl Publish,
    board: &Board,
    agenda: &mut Agenda,
    requests: Vec<Request>,
    now: DateTime<Utc>,
) -> Result<(), BrokerError> {
    if requests.is_empty() {
        return Ok(());
    }
    let messages: Vec<_> = requests
        .iter()
        .map(|Request { bucket, due }| {
            let origin = Origin::Schedule {
                uid: bucket.uid.to_string(),
                since: due.since,
                tick: due.tick,
                ticks: due.ticks,
            };
            (
                bucket.refill_queue.clone(),
                RefillRequest {
                    bucket: bucket.name.to_string(),
                    origin,
                },
            )
        })
        .collect();
    let answers = publisher.publish(&messages).await;
    let mut refusals = Vec::new();
    for (Request { bucket, due }, answer) in requests.iter().zip(answers) {
        match answer {
            Ok(()) => {
                debug!(bucket = %bucket.id, tick = %due.tick, ticks = due.ticks, "refill requested")
            }
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) => {
                agenda.put_back(&bucket.id, due.since, now);
                refusals.push(error);
            }
        }
        board.update(&bucket.id, |state| {
            state.next_refill = agenda.next_of(&bucket.id)
        });
    }
    if let Some(error) = refusals.first() {
        let requests = refusals.len();
        warn!(requests, %error, "refill requests not accepted by the broker; they are tried again");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
