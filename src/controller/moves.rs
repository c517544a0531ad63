//! The move of a bucket whose connection names another broker than before: what it had where it was is counted, taken away
//! there and brought along. It is put in force at the new broker after that. Client required, for events.
//!
//! Nothing is taken away before the new broker is known to be another one: a changed password, or another name of the same
//! broker, is no move. A broker that is gone holds up nobody for longer than [`LEAVE_WITHIN`]; what it holds is left behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{self, AbortHandle};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::cleanup::queues;
use super::context::Context;
use super::events::Notice;
use amqp::{Endpoint, Place};
use bucket::{BucketId, Contents, DeletionPolicy, Moved};
use engine::{Engine, Removal};

/// The broker that a bucket leaves has so long to answer.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);
/// Before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Where a bucket has its queues: its ledger there has named its resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Home {
    /// How it was reached.
    pub endpoint: Endpoint,
    /// Which broker that was.
    pub place: Place,
}

/// The buckets that move, and those that have.
#[derive(Debug, Default)]
pub(super) struct Moves(Mutex<HashMap<BucketId, Move>>);

#[derive(Debug)]
struct Move {
    uid: Arc<str>,
    to: Endpoint,
    stage: Stage,
    /// What it brings along from earlier moves.
    moved: Option<Arc<Moved>>,
}

#[derive(Debug)]
enum Stage {
    /// It is not known which broker the new one is.
    Locating(AbortHandle),
    /// What it had is taken away, by this task.
    Leaving(task::Id),
    /// It may be put in force.
    Arrived,
}

/// What is to be done about a bucket that shall be at a broker.
#[derive(Debug)]
pub(super) enum Plan {
    /// It may be put in force, with this.
    Arrived(Option<Arc<Moved>>),
    /// It is reconciled when it may.
    Moving,
    /// It has its queues elsewhere: that move has to begin.
    Begin(Arc<Home>),
}

impl Moves {
    /// A bucket shall be at `to`. It has its queues at `home`, if anywhere.
    pub(super) fn plan(
        &self,
        id: &BucketId,
        uid: &str,
        home: Option<Arc<Home>>,
        to: &Endpoint,
    ) -> Plan {
        let mut moves = self.lock();
        let before = moves.get_mut(id).filter(|it| *it.uid == *uid);
        let elsewhere = home.filter(|home| home.endpoint != *to);
        match (before, elsewhere) {
            (None, None) => Plan::Arrived(None),
            (None, Some(home)) => Plan::Begin(home),
            (Some(it), elsewhere) => match (&it.stage, elsewhere) {
                (Stage::Leaving(_), _) => Plan::Moving,
                (Stage::Locating(_), _) if it.to == *to => Plan::Moving,
                (Stage::Arrived, _) if it.to == *to => Plan::Arrived(it.moved.clone()),
                (_, Some(home)) => Plan::Begin(home),
                // It goes nowhere after all.
                (stage, None) => {
                    if let Stage::Locating(task) = stage {
                        task.abort();
                    }
                    it.stage = Stage::Arrived;
                    it.to = to.clone();
                    Plan::Arrived(it.moved.clone())
                }
            },
        }
    }

    /// The move from `home` to `to`, whose engine that is, begins.
    pub(super) fn begin(
        context: &Arc<Context>,
        removal: Removal,
        home: Arc<Home>,
        to: &Endpoint,
        engine: Engine,
    ) {
        let mut moves = context.moves.lock();
        let id = removal.id.clone();
        let before = moves.remove(&id).filter(|it| it.uid == removal.uid);
        let moved = before.as_ref().and_then(|it| it.moved.clone());
        if let Some(before) = before {
            match &before.stage {
                Stage::Locating(task) => task.abort(),
                Stage::Leaving(_) => {
                    moves.insert(id, before);
                    return;
                }
                Stage::Arrived => {}
            }
        }
        let (uid, to) = (removal.uid.clone(), to.clone());
        let moving = go(context.clone(), removal, home, engine, moved.clone());
        let stage = Stage::Locating(tokio::spawn(moving).abort_handle());
        moves.insert(
            id,
            Move {
                uid,
                to,
                stage,
                moved,
            },
        );
    }

    /// The resource is being deleted: whether its bucket has gone where it was to be. None: it is leaving at the moment, and is
    /// reconciled when it has. What has not begun will not.
    pub(super) fn stop(&self, id: &BucketId) -> Option<bool> {
        let mut moves = self.lock();
        match moves.get(id).map(|it| &it.stage) {
            Some(Stage::Leaving(_)) => None,
            Some(Stage::Arrived) => Some(true),
            Some(Stage::Locating(task)) => {
                task.abort();
                moves.remove(id);
                Some(false)
            }
            None => Some(false),
        }
    }

    /// Nobody wants to know any more.
    pub(super) fn forget(&self, id: &BucketId) {
        if let Some(Move {
            stage: Stage::Locating(task),
            ..
        }) = self.lock().remove(id)
        {
            task.abort();
        }
    }

    /// The task that calls this has come so far. False: nobody waits for it any more.
    fn reach(&self, id: &BucketId, stage: Stage, moved: Option<Moved>) -> bool {
        let mut moves = self.lock();
        let is_this = |entry: &&mut Move| match &entry.stage {
            Stage::Locating(task) => task.id() == task::id(),
            Stage::Leaving(task) => *task == task::id(),
            Stage::Arrived => false,
        };
        let Some(entry) = moves.get_mut(id).filter(is_this) else {
            return false;
        };
        entry.stage = stage;
        if let Some(moved) = moved {
            entry.moved = Some(Arc::new(moved));
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BucketId, Move>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves one bucket, as soon as it is known where the new broker is.
async fn go(
    context: Arc<Context>,
    removal: Removal,
    home: Arc<Home>,
    engine: Engine,
    before: Option<Arc<Moved>>,
) {
    let id = removal.id.clone();
    let Some(place) = engine.located().await else {
        return;
    };
    let mut moved = None;
    if !place.may_be(&home.place) {
        if !context.moves.reach(&id, Stage::Leaving(task::id()), None) {
            return;
        }
        let deadline = Instant::now() + LEAVE_WITHIN;
        let left = leave(&context, &removal, &home, deadline).await;
        tell(&context, &removal, left.as_ref().ok());
        let contents = left.unwrap_or_default();
        moved = Some(Moved {
            id: format!("move-{:032x}", rand::random::<u128>()).into(),
            contents: match before {
                Some(before) => contents.and(&before),
                None => contents,
            },
        });
    }
    context.moves.reach(&id, Stage::Arrived, moved);
    context.triggers.send(&[id]);
}

/// Takes away what the bucket has at `home`.
///
/// # Errors
/// Until the deadline that could not be done.
async fn leave(
    context: &Context,
    removal: &Removal,
    home: &Home,
    deadline: Instant,
) -> Result<Contents, Elapsed> {
    let leaving = async {
        let visit = loop {
            match context.engines.visit(&removal.id, &home.endpoint) {
                Some(visit) => break visit,
                None => sleep(PAUSE).await,
            }
        };
        loop {
            visit.engine.located().await;
            match visit.engine.remove(removal.clone()).await {
                Ok(contents) => return contents.unwrap_or_default(),
                Err(error) => debug!(bucket = %removal.id, %error, "it cannot leave yet"),
            }
            sleep(PAUSE).await;
        }
    };
    timeout_at(deadline, leaving).await
}

fn tell(context: &Context, removal: &Removal, left: Option<&Contents>) {
    let Removal {
        id,
        uid,
        name,
        policy,
        ..
    } = removal;
    let queue = bucket::queue_name(name);
    let notice = match left {
        Some(Contents { tokens, .. }) => {
            let stays = match policy {
                DeletionPolicy::Delete => "its queues there are deleted",
                DeletionPolicy::Retain => "its queues there stay, empty (deletionPolicy)",
            };
            info!(bucket = %id, queue, tokens, "moves to another broker");
            let note =
                format!("{tokens} tokens of queue {queue} move to the other broker; {stays}");
            Notice::normal("BucketMoved", &note)
        }
        None => {
            warn!(bucket = %id, queue, "moves to another broker, and leaves its queues behind");
            let broker = "the broker where the bucket was, with their tokens";
            Notice::left_behind(&queues(name), broker, "It does not answer")
        }
    };
    context.events.publish(id, uid, notice);
}
