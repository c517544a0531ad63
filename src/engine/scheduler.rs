//! The scheduler: at its due time, a bucket's refill request goes into its refill queue, confirmed by the broker. It
//! remembers nothing that it could not lose; after a restart it starts from the ledgers.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::agenda::{Agenda, Request};
use super::board::Board;
use super::permit::{Moment, Permit};
use crate::broker::{BrokerError, Origin, RefillRequest, RequestPublisher};
use crate::bucket::{Bucket, BucketId};

/// Longest sleep: how soon a changed wall clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The wall clock may run ahead of the monotonic one by this much before the ticks between count as missed.
const MOST_DRIFT: TimeDelta = TimeDelta::seconds(2);

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
        publisher: RequestPublisher,
        permit: Permit,
        board: Arc<Board>,
    ) -> (Self, impl Future<Output = BrokerError>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        (Self { commands }, run(publisher, permit, board, receiver))
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
    publisher: RequestPublisher,
    mut permit: Permit,
    board: Arc<Board>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> BrokerError {
    let mut agenda = Agenda::default();
    let mut clock = Clock::start();
    // Overdue requests, and whether the clock was watched, since something was published last.
    let mut requests = Vec::new();
    let mut awake = true;
    loop {
        let permitted = permit.allows(Moment::now());
        let sleep = match agenda.next().filter(|_| permitted) {
            Some(at) => (at - Utc::now())
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
        let (now, watched) = clock.look();
        awake &= watched;
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
        if !permit.allows(Moment::now()) {
            continue;
        }
        requests.extend(agenda.take_due(now, awake));
        awake = true;
        let requests = std::mem::take(&mut requests);
        if let Err(lost) = publish(&publisher, &board, &agenda, requests).await {
            return lost;
        }
    }
}

/// Publishes what is due. A request that could not be published is not repeated here: its ledger brings it back when
/// the refill queue is there again.
async fn publish(
    publisher: &RequestPublisher,
    board: &Board,
    agenda: &Agenda,
    requests: Vec<Request>,
) -> Result<(), BrokerError> {
    if requests.is_empty() {
        return Ok(());
    }
    let messages: Vec<_> = requests
        .iter()
        .map(|Request { bucket, due }| {
            let origin = Origin::Schedule {
                uid: bucket.uid.clone(),
                since: due.since,
                tick: due.tick,
                ticks: due.ticks,
            };
            (
                bucket.refill_queue.clone(),
                RefillRequest {
                    bucket: bucket.name.clone(),
                    origin,
                },
            )
        })
        .collect();
    let answers = publisher.publish(&messages).await;
    for (Request { bucket, due }, answer) in requests.iter().zip(answers) {
        match answer {
            Ok(()) => {
                debug!(bucket = %bucket.id, tick = %due.tick, ticks = due.ticks, "refill requested")
            }
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) => {
                warn!(bucket = %bucket.id, tick = %due.tick, %error, "refill request not accepted by the broker")
            }
        }
        board.update(&bucket.id, |state| {
            state.next_refill = agenda.next_of(&bucket.id)
        });
    }
    Ok(())
}

/// Tells whether the wall clock went on as the monotonic one did.
struct Clock {
    wall: DateTime<Utc>,
    monotonic: Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            wall: Utc::now(),
            monotonic: Instant::now(),
        }
    }

    /// The time, and whether the scheduler has been awake since the last look.
    fn look(&mut self) -> (DateTime<Utc>, bool) {
        let before = std::mem::replace(self, Self::start());
        let elapsed =
            TimeDelta::from_std(self.monotonic - before.monotonic).unwrap_or(TimeDelta::MAX);
        (self.wall, self.wall - before.wall <= elapsed + MOST_DRIFT)
    }
}
