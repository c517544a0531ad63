//! Single decisions, step by step. The simulation has the many.

use super::*;
use crate::fixture::{at, bucket, ledger, owner};
use crate::request::{Origin, RefillRequest};
use crate::{Ledger, Owner};

const CONSUMER_TAG: u64 = 7;
const BATON: u64 = 9;

/// A machine and its clock.
struct Script {
    machine: Machine,
    second: i64,
    /// What was told, the newest last.
    told: Vec<Outcome>,
}

impl Script {
    fn new() -> Self {
        let settings = Settings {
            operator: "ops".into(),
            status_interval: Duration::from_secs(3600),
            channels: 1,
            hold_limit: Duration::from_secs(35),
        };
        Self {
            machine: Machine::new(settings),
            second: 10,
            told: Vec::new(),
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
                Effect::Count { .. } => drop(self.send(Event::Counted(Vec::new()))),
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

    /// Up to the inspection of the bucket.
    fn connected(bucket: Bucket, known: Option<Known>) -> (Self, ConsumerId, JobId) {
        let mut script = Self::new();
        script.send(apply(bucket, 1, known));
        let Effect::Consume { consumer, .. } = script.one(Event::Connected) else {
            panic!("not consumed")
        };
        let job = inspection(script.one(Event::Consuming(consumer)));
        (script, consumer, job)
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

#[test]
fn a_new_bucket_gets_a_ledger_that_owes_its_initial_tokens() {
    let new = Bucket {
        initial_tokens: 5,
        ..bucket()
    };
    let (mut script, _, job) = Script::connected(new, None);
    let found = Ok(Inspection::NoLedger {
        bucket_exists: false,
    });
    let Effect::WriteLedger {
        job, ledger: first, ..
    } = script.one(Event::Inspected { job, found })
    else {
        panic!("no ledger is written")
    };
    assert_eq!(first.owed, 5);
    let written = Ok(true);
    let job = inspection(script.one(Event::LedgerWritten { job, written }));
    let batch = taking(script.one(queues(job, 0, Some(25))));
    let wanted = transaction(script.one(taken(batch, held(*first, 0))));
    assert_eq!(wanted.tokens, [("api".into(), 5)]);
    assert_eq!((wanted.ledgers[0].1.owed, wanted.acks), (0, vec![BATON]));
    script.send(done(batch));
    assert_eq!(script.state().phase, Phase::Ready);
    assert_eq!(script.state().observed.unwrap().tokens, 5);
}

#[test]
fn a_queue_that_was_there_before_is_adopted_with_its_tokens() {
    let new = Bucket {
        initial_tokens: 5,
        ..bucket()
    };
    let (mut script, _, job) = Script::connected(new, None);
    let found = Ok(Inspection::NoLedger {
        bucket_exists: true,
    });
    let effect = script.one(Event::Inspected { job, found });
    assert!(matches!(effect, Effect::WriteLedger { ledger, .. } if ledger.owed == 0));
}

#[test]
fn a_tick_is_asked_for_carried_out_and_acknowledged() {
    let (mut script, consumer) = Script::ready(bucket());
    script.second = 60;
    let Effect::Publish { requests } = script.one(Event::Tick) else {
        panic!("nothing is asked for")
    };
    assert_eq!(requests[0].1.origin, tick(60).since(10));
    assert_eq!(script.send(Event::Published(vec![Ok(())])), []);
    let batch = taking(script.one(request(consumer, tick(60))));
    let wanted = transaction(script.one(taken(batch, held(ledger(), 20))));
    assert_eq!(wanted.tokens, [("api".into(), 5)]);
    assert_eq!(wanted.ledgers[0].1.tick, Some(at(60)));
    let settle = Effect::Settle {
        consumer,
        acks: vec![CONSUMER_TAG],
        moves: Vec::new(),
    };
    assert_eq!(script.one(done(batch)), settle);
    script.send(Event::Settled(consumer));
    // It comes again, and takes no turn.
    assert_eq!(script.one(request(consumer, tick(60))), settle);
}

impl Origin {
    fn since(self, second: i64) -> Self {
        match self {
            Self::Schedule {
                uid, tick, ticks, ..
            } => Self::Schedule {
                uid,
                since: at(second),
                tick,
                ticks,
            },
            foreign @ Self::Foreign { .. } => foreign,
        }
    }
}

#[test]
fn a_tick_that_another_operator_has_carried_out_adds_nothing() {
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(60))));
    let theirs = Ledger {
        tick: Some(at(60)),
        ..ledger()
    };
    let wanted = transaction(script.one(taken(batch, held(theirs, 10))));
    let gives_back = Transaction {
        nacks: vec![BATON],
        ..Transaction::default()
    };
    assert_eq!(wanted, gives_back);
}

#[test]
fn a_ledger_that_is_held_elsewhere_is_waited_for_and_a_lost_one_is_written_anew() {
    let (mut script, consumer) = Script::ready(bucket());
    script.second = 61;
    let batch = taking(script.send(request(consumer, tick(60))).remove(0));
    assert_eq!(script.send(taken(batch, absent())), []);
    assert_eq!(script.state().phase, Phase::Ready);
    script.second = 63;
    let batch = taking(script.one(Event::Tick));
    let Effect::WriteLedger {
        job, ledger, wait, ..
    } = script.one(taken(batch, absent()))
    else {
        panic!("no ledger is written")
    };
    assert_eq!(wait, Some(Duration::from_secs(35)));
    assert_eq!(ledger.reference(), at(63));
    assert!(matches!(
        script.state().phase,
        Phase::Progressing {
            reason: "LedgerHeld",
            ..
        }
    ));
    let written = Ok(true);
    inspection(script.one(Event::LedgerWritten { job, written }));
    let lost = Outcome::LedgerLost(bucket().id);
    assert!(script.told.contains(&lost));
}

#[test]
fn a_ledger_queue_that_vanishes_under_its_holder_gets_the_ledger_again_at_once() {
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(60))));
    let wanted = transaction(script.one(taken(batch, held(ledger(), 20))));
    let returned = Ok(vec!["api".into()]);
    let effects = script.send(Event::Committed { batch, returned });
    let written = effects.into_iter().find_map(|effect| match effect {
        Effect::WriteLedger { ledger, .. } => Some(ledger),
        _ => None,
    });
    assert_eq!(written.as_ref(), Some(&wanted.ledgers[0].1));
}

#[test]
fn of_two_resources_that_write_a_ledger_the_younger_yields() {
    let other = |created| Owner {
        uid: "uid-2".into(),
        created: at(created),
        resource: "shop/other".into(),
        ..owner()
    };
    let written_by = |owner: Owner| Ledger {
        owner: Some(Box::new(owner)),
        ..ledger()
    };
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(60))));
    let taken_back = transaction(script.one(taken(batch, held(written_by(other(5)), 0))));
    assert!(taken_back.ledgers[0].1.is_of(&bucket()));
    script.send(done(batch));
    let contested = |outcome: &Outcome| matches!(outcome, Outcome::Contested { .. });
    assert!(script.told.iter().any(contested));

    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(60))));
    let left = transaction(script.one(taken(batch, held(written_by(other(-5)), 0))));
    assert_eq!((left.nacks, left.ledgers.len()), (vec![BATON], 0));
    script.send(done(batch));
    match &script.state().phase {
        Phase::Stalled { reason, message } => {
            assert_eq!(*reason, "NameConflict");
            assert!(message.contains("shop/other"), "{message}");
        }
        phase => panic!("{phase:?}"),
    }
}

#[test]
fn a_raised_maximum_carries_the_tokens_by_their_count() {
    let (mut script, _) = Script::ready(bucket());
    let raised = Bucket {
        maximum: 100,
        ..bucket()
    };
    let job = inspection(script.one(apply(raised, 2, None)));
    let Effect::Take { batch, wanted } = script.one(queues(job, 3, Some(25))) else {
        panic!("nothing is taken")
    };
    assert!(wanted[0].tokens >= 3);
    let mut out = held(ledger(), 0);
    out.tokens_out = vec![1, 2, 3];
    let carried = transaction(script.one(taken(batch, out)));
    let carrying = carried.ledgers[0].1.clone();
    assert_eq!((carrying.owed, carried.acks), (3, vec![1, 2, 3, BATON]));
    let batch = taking(script.one(done(batch)));
    let replaces = script.one(taken(batch, held(*carrying.clone(), 0)));
    assert!(matches!(replaces, Effect::Replace { .. }));
    let tokens = Ok(0);
    script.one(Event::Replaced { batch, tokens });
    let batch = taking(script.one(done(batch)));
    let refills = transaction(script.one(taken(batch, held(*carrying, 0))));
    assert_eq!(refills.tokens, [("api".into(), 3)]);
    script.send(done(batch));
    assert_eq!(script.state().phase, Phase::Ready);
    assert_eq!(
        (script.state().revision, script.state().limit),
        (2, Some(100))
    );
}

#[test]
fn an_edit_during_an_alarm_is_not_ready_before_it_is_in_force() {
    let (mut script, _) = Script::ready(bucket());
    script.send(Event::Blocked(true));
    let edited = Bucket {
        amount: 11,
        ..bucket()
    };
    assert_eq!(script.send(apply(edited, 2, None)), []);
    let blocked = |state: &BucketState| {
        matches!(
            state.phase,
            Phase::Progressing {
                reason: "BrokerBlocked",
                ..
            }
        )
    };
    assert!(blocked(script.state()) && script.state().revision == 2);
    let job = inspection(script.one(Event::Blocked(false)));
    assert!(blocked(script.state()));
    let batch = taking(script.one(queues(job, 0, Some(25))));
    script.send(taken(batch, held(ledger(), 0)));
    script.send(done(batch));
    assert_eq!(
        (&script.state().phase, script.state().revision),
        (&Phase::Ready, 2)
    );
}

#[test]
fn a_request_is_carried_out_whichever_refill_queue_it_comes_through() {
    let (mut script, consumer) = Script::ready(bucket());
    let moved = Bucket {
        refill_queue: "elsewhere".into(),
        ..bucket()
    };
    let effects = script.send(apply(moved, 2, None));
    let Some(Effect::Consume {
        consumer: other, ..
    }) = effects.first()
    else {
        panic!("{effects:?}")
    };
    // What waits in the old one is handed over before that is left.
    assert_eq!(effects[1..], [Effect::Drain { consumer }]);
    let job = inspection(script.one(Event::Consuming(*other)));
    script.send(request(consumer, tick(60)));
    script.send(Event::Drained {
        consumer,
        empty: true,
    });
    let batch = taking(script.one(queues(job, 0, Some(25))));
    let wanted = transaction(script.one(taken(batch, held(ledger(), 0))));
    assert_eq!(wanted.ledgers[0].1.tick, Some(at(60)));
    let effects = script.send(done(batch));
    assert!(
        matches!(effects[..], [Effect::Settle { .. }]),
        "{effects:?}"
    );
    let delete = true;
    assert_eq!(
        script.one(Event::Settled(consumer)),
        Effect::Release { consumer, delete }
    );
}

#[test]
fn the_failure_of_one_bucket_is_not_that_of_those_beside_it() {
    let (mut script, consumer) = Script::ready(bucket());
    let other = Bucket {
        id: BucketId::new("shop", "other"),
        name: "other".into(),
        ..bucket()
    };
    let job = inspection(script.one(apply(other, 1, None)));
    let first = taking(script.one(request(consumer, tick(60))));
    // Lined up together behind the first.
    script.send(queues(job, 0, Some(25)));
    script.send(request(consumer, tick(120)));
    script.send(taken(first, held(ledger(), 0)));
    let effects = script.send(done(first));
    let together = effects.into_iter().find_map(|effect| match effect {
        Effect::Take { batch, wanted } => Some((batch, wanted.len())),
        _ => None,
    });
    let (batch, 2) = together.unwrap() else {
        panic!("{together:?}")
    };
    let taken = Err(failure(Class::Person));
    let effects = script.send(Event::Taken { batch, taken });
    let inspected = |effect: &&Effect| matches!(effect, Effect::Inspect { .. });
    assert_eq!(effects.iter().filter(inspected).count(), 2);
    for effect in effects {
        let Effect::Inspect { job, .. } = effect else {
            continue;
        };
        let effects = script.send(queues(job, 0, Some(25)));
        for effect in effects {
            let Effect::Take { batch, wanted } = effect else {
                continue;
            };
            assert_eq!(wanted.len(), 1);
            let taken = Err(failure(Class::Person));
            script.send(Event::Taken { batch, taken });
        }
    }
    assert!(matches!(
        script.state().phase,
        Phase::Stalled { reason: "Told", .. }
    ));
}

#[test]
fn a_connection_that_is_lost_leaves_nothing_behind_but_what_is_known() {
    let (mut script, consumer) = Script::ready(bucket());
    script.one(request(consumer, tick(60)));
    script.send(Event::Lost(Some(failure(Class::ConnectionLost))));
    let Effect::Consume { consumer: next, .. } = script.one(Event::Connected) else {
        panic!("not consumed")
    };
    assert_ne!(next, consumer);
    let job = inspection(script.one(Event::Consuming(next)));
    // A queue for the ledger was there before: it is not a new bucket.
    let found = Ok(Inspection::NoLedger {
        bucket_exists: true,
    });
    assert_eq!(script.send(Event::Inspected { job, found }), []);
}
