//! Single decisions, step by step. The simulation has the many.

mod changed_by_others;
mod ledgers;
mod moved;
mod refills;

use super::*;
use crate::fixture::{at, bucket, ledger, owner};
use crate::request::{Origin, RefillRequest, Window};
use crate::{Ledger, Owner};

const CONSUMER_TAG: u64 = 7;
const BATON: u64 = 9;

/// A machine and its clock.
struct Script {
    machine: Machine,
    second: i64,
    /// What was told, the newest last.
    told: Vec<Outcome>,
    /// What a count finds.
    tokens: Option<u64>,
}

impl Script {
    fn new() -> Self {
        let settings = Settings {
            operator: "ops".into(),
            status_interval: Duration::from_secs(3600),
            resync_interval: Duration::from_secs(10_000),
            channels: 1,
            most_tokens: MOST_TOKENS,
            hold_limit: Duration::from_secs(35),
        };
        Self {
            machine: Machine::new(settings),
            second: 10,
            told: Vec::new(),
            tokens: None,
        }
    }

    /// All effects but what is told and counted.
    fn send(&mut self, event: Event) -> Vec<Effect> {
        let now = Now {
            utc: at(self.second),
            monotonic: Duration::from_secs(self.second.try_into().unwrap()),
        };
        let effects = self.machine.handle(event, now);
        let mut rest = Vec::new();
        for effect in effects {
            match effect {
                Effect::Tell(outcome) => self.told.push(outcome),
                Effect::Count { buckets } => {
                    let ids = buckets.into_iter().map(|(id, _)| id);
                    let counts = ids.filter_map(|id| Some((id, Ok(Some(self.tokens?)))));
                    let counted = Event::Counted(counts.collect());
                    rest.extend(self.send(counted));
                }
                effect => rest.push(effect),
            }
        }
        rest
    }

    /// The one effect of an event.
    fn one(&mut self, event: Event) -> Effect {
        let mut effects = self.send(event);
        assert_eq!(effects.len(), 1, "{effects:?}");
        effects.remove(0)
    }

    fn state(&self) -> &BucketState {
        let state = |outcome: &Outcome| matches!(outcome, Outcome::Bucket(..));
        match self.told.iter().rfind(|outcome| state(outcome)) {
            Some(Outcome::Bucket(_, state)) => state,
            _ => panic!("nothing was told: {:?}", self.told),
        }
    }

    /// The revision that was told of last, and the reason of its phase.
    fn told_of(&self) -> (u64, &'static str) {
        let state = self.state();
        let reason = match &state.phase {
            Phase::Ready => "Ready",
            Phase::Progressing { reason, .. } | Phase::Stalled { reason, .. } => reason,
        };
        (state.revision, reason)
    }

    /// Up to the inspection of the bucket.
    fn connected(bucket: Bucket, known: Option<Known>) -> (Self, ConsumerId, JobId) {
        let mut script = Self::new();
        script.send(apply(bucket, 1, known));
        let Effect::Consume { consumer, .. } = script.one(Event::Connected) else {
            panic!("not consumed")
        };
        let effect = script.one(Event::Consuming(consumer));
        let job = script.not_new(effect);
        (script, consumer, job)
    }

    /// Whether a bucket is new is found out by trying, and it is not.
    fn not_new(&mut self, effect: Effect) -> JobId {
        match effect {
            Effect::WriteLedger { job, .. } => {
                let written = Ok(false);
                inspection(self.one(Event::LedgerWritten { job, written }))
            }
            effect => inspection(effect),
        }
    }

    /// There is the bucket's queue and none for its ledger. Another operator may be about to come with a ledger whose queue
    /// somebody has deleted, so that is looked for twice before one is written.
    fn finds_no_ledger(&mut self, job: JobId) -> (Box<Ledger>, Absence) {
        let found = |job| Event::Inspected {
            job,
            found: Ok(Inspection::NoLedger {
                bucket_exists: true,
            }),
        };
        assert_eq!(self.send(found(job)), []);
        self.second += 1;
        let job = inspection(self.one(Event::Tick));
        match self.one(found(job)) {
            Effect::WriteLedger {
                ledger, absence, ..
            } => (ledger, absence),
            effect => panic!("{effect:?}"),
        }
    }

    /// Up to the time when refills run.
    fn ready(bucket: Bucket) -> (Self, ConsumerId) {
        let (mut script, consumer, job) = Self::connected(bucket, None);
        let batch = taking(script.one(queues(job, 0, Some(25))));
        let committed = script.one(taken(batch, held(ledger(), 0)));
        assert!(matches!(committed, Effect::Commit { .. }));
        assert_eq!(script.send(done(batch)), []);
        assert_eq!(script.state().phase, Phase::Ready);
        (script, consumer)
    }
}

fn apply(bucket: Bucket, revision: u64, known: Option<Known>) -> Event {
    Event::Apply {
        bucket: Arc::new(bucket),
        revision,
        known,
    }
}

fn inspection(effect: Effect) -> JobId {
    match effect {
        Effect::Inspect { job, .. } => job,
        effect => panic!("{effect:?}"),
    }
}

fn taking(effect: Effect) -> BatchId {
    match effect {
        Effect::Take { batch, .. } => batch,
        effect => panic!("{effect:?}"),
    }
}

fn transaction(effect: Effect) -> Transaction {
    match effect {
        Effect::Commit { transaction, .. } => transaction,
        effect => panic!("{effect:?}"),
    }
}

fn queues(job: JobId, tokens: u64, limit: Option<u64>) -> Event {
    let found = Ok(Inspection::Queues(QueueState { tokens, limit }));
    Event::Inspected { job, found }
}

fn held(ledger: Ledger, tokens: u64) -> Taken {
    Taken {
        baton: Baton::Held {
            tag: BATON,
            ledger: Ok(Box::new(ledger)),
        },
        tokens_out: Vec::new(),
        tokens,
    }
}

fn absent() -> Taken {
    Taken {
        baton: Baton::Absent,
        tokens_out: Vec::new(),
        tokens: 0,
    }
}

fn taken(batch: BatchId, taken: Taken) -> Event {
    let taken = Ok(vec![taken]);
    Event::Taken { batch, taken }
}

fn done(batch: BatchId) -> Event {
    let returned = Ok(Vec::new());
    Event::Committed { batch, returned }
}

fn request(consumer: ConsumerId, origin: Origin) -> Event {
    let request = RefillRequest {
        bucket: "api".into(),
        origin,
    };
    let delivered = Delivered {
        tag: CONSUMER_TAG,
        request: Ok(request),
        window: Window::default(),
    };
    Event::Delivered {
        consumer,
        deliveries: vec![delivered],
    }
}

fn tick(second: i64) -> Origin {
    Origin::Schedule {
        uid: "uid-1".into(),
        since: at(second - 60),
        tick: at(second),
        ticks: 1,
    }
}

fn failure(class: Class) -> Failure {
    Failure {
        reason: "Told",
        message: "told".into(),
        class,
    }
}
