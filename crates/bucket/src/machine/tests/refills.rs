//! From a request to its acknowledgement, and what comes in between.

use super::*;
use crate::request::Rejection;

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
    assert_eq!(script.told_of(), (2, "BrokerBlocked"));
    let job = inspection(script.one(Event::Blocked(false)));
    assert_eq!(script.told_of(), (1, "Ready"));
    let batch = taking(script.one(queues(job, 0, Some(25))));
    script.send(taken(batch, held(ledger(), 0)));
    script.send(done(batch));
    assert_eq!(script.told_of(), (2, "Ready"));
}

#[test]
fn what_was_told_before_an_alarm_is_told_again_after_it() {
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(60))));
    script.send(taken(batch, absent()));
    script.second += 1;
    let batch = taking(script.one(Event::Tick));
    script.send(taken(batch, absent()));
    assert_eq!(script.told_of(), (1, "LedgerHeld"));
    for end in [
        Event::Blocked(false),
        Event::Lost(Some(failure(Class::ConnectionLost))),
    ] {
        script.send(Event::Blocked(true));
        assert_eq!(script.told_of(), (1, "BrokerBlocked"));
        script.send(end);
        assert_eq!(script.told_of(), (1, "LedgerHeld"));
    }
}

#[test]
fn a_refill_queue_that_is_refused_over_an_alarm_tells_of_it_no_longer_than_the_alarm_does() {
    let (mut script, consumer) = Script::ready(bucket());
    script.send(Event::Blocked(true));
    script.send(Event::ConsumerEnded {
        consumer,
        failure: Some(failure(Class::Blocked)),
    });
    assert_eq!(script.told_of(), (1, "BrokerBlocked"));
    script.send(Event::Blocked(false));
    assert_eq!(script.told_of(), (1, "Ready"));
}

#[test]
fn an_edit_is_not_in_force_when_a_bucket_is_filled_up_by_a_batch_from_before_it() {
    let owing = Ledger {
        owed: 20_000,
        ..ledger()
    };
    let big = Bucket {
        maximum: 30_000,
        ..bucket()
    };
    let (mut script, _, job) = Script::connected(big.clone(), None);
    let batch = taking(script.one(queues(job, 0, Some(30_000))));
    script.send(taken(batch, held(owing.clone(), 0)));
    let batch = taking(script.one(done(batch)));
    assert_eq!(script.told_of(), (1, "Filling"));
    let rest = Ledger { owed: 10, ..owing };
    script.send(taken(batch, held(rest, 19_990)));
    let edited = Bucket { amount: 11, ..big };
    script.send(apply(edited, 2, None));
    inspection(script.one(done(batch)));
    assert_eq!(script.told_of(), (1, "Ready"));
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
    script.send(request(consumer, tick(15)));
    script.send(Event::Drained {
        consumer,
        empty: true,
    });
    let batch = taking(script.one(queues(job, 0, Some(25))));
    let wanted = transaction(script.one(taken(batch, held(ledger(), 0))));
    assert_eq!(wanted.ledgers[0].1.tick, Some(at(15)));
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
fn requests_of_others_do_not_wait_for_a_queue_that_is_not_consumed_any_more() {
    let (mut script, consumer) = Script::ready(bucket());
    let other = Bucket {
        id: BucketId::new("shop", "other"),
        name: "other".into(),
        refill_queue: "elsewhere".into(),
        ..bucket()
    };
    let effect = script.one(apply(other, 1, None));
    let Effect::Consume {
        consumer: elsewhere,
        ..
    } = effect
    else {
        panic!("{effect:?}")
    };
    let effect = script.one(Event::Consuming(elsewhere));
    script.not_new(effect);
    // Through the queue of another bucket.
    let foreign = |number: u64| Origin::Foreign {
        id: Some(number.to_string()),
    };
    let batch = taking(script.one(request(elsewhere, foreign(1))));
    script.send(taken(batch, held(ledger(), 0)));
    let effect = script.one(done(batch));
    assert!(matches!(effect, Effect::Settle { .. }), "{effect:?}");
    script.send(Event::ConsumerEnded {
        consumer: elsewhere,
        failure: None,
    });
    taking(script.one(request(consumer, foreign(2))));
}

#[test]
fn the_failure_of_one_bucket_is_not_that_of_those_beside_it() {
    let (mut script, consumer) = Script::ready(bucket());
    let other = Bucket {
        id: BucketId::new("shop", "other"),
        name: "other".into(),
        ..bucket()
    };
    let effect = script.one(apply(other, 1, None));
    let job = script.not_new(effect);
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
fn a_queue_with_more_than_a_handful_of_foreign_tasks_is_let_go_of_until_it_is_empty() {
    let (mut script, consumer) = Script::ready(bucket());
    let foreign = |tag: u64| Delivered {
        tag,
        request: Err(Rejection::OtherTask("their.task".into())),
        window: Window::default(),
    };
    let deliveries = (1..=30).map(foreign).collect();
    let effects = script.send(Event::Delivered {
        consumer,
        deliveries,
    });
    let settled = effects.iter().find_map(|effect| match effect {
        Effect::Settle { moves, .. } => Some(moves.len()),
        _ => None,
    });
    assert_eq!(settled, Some(10), "{effects:?}");
    // What comes until it is released is not touched either.
    let deliveries = vec![foreign(31)];
    let more = Event::Delivered {
        consumer,
        deliveries,
    };
    assert_eq!(script.send(more), []);
    let delete = false;
    assert_eq!(
        script.one(Event::Settled(consumer)),
        Effect::Release { consumer, delete }
    );
    script.send(Event::ConsumerEnded {
        consumer,
        failure: None,
    });
    assert_eq!(script.told_of().1, "ForeignTasks");
    script.second += 15;
    let effects = script.send(Event::Tick);
    let again = effects.iter().find_map(|effect| match effect {
        Effect::Consume {
            consumer, if_empty, ..
        } => Some((*consumer, *if_empty)),
        _ => None,
    });
    let Some((next, true)) = again else {
        panic!("{effects:?}")
    };
    script.send(Event::ConsumerEnded {
        consumer: next,
        failure: Some(Failure {
            reason: "QueueNotEmpty",
            message: String::new(),
            class: Class::Person,
        }),
    });
    assert_eq!(script.told_of().1, "ForeignTasks");
}

/// A request whose eta and expiry are so many seconds ahead.
fn postponed(tag: u64, consumer: ConsumerId, eta: i64, expires: Option<i64>) -> Event {
    let request = RefillRequest {
        bucket: "api".into(),
        origin: Origin::Foreign {
            id: Some(tag.to_string()),
        },
    };
    let window = Window {
        not_before: Some(at(eta)),
        expires: expires.map(at),
    };
    Event::Delivered {
        consumer,
        deliveries: vec![Delivered {
            tag,
            request: Ok(request),
            window,
        }],
    }
}

#[test]
fn a_request_waits_for_its_eta_and_is_dropped_when_it_has_expired_by_then() {
    let once = Bucket {
        suspend: true,
        ..bucket()
    };
    let (mut script, consumer) = Script::ready(once);
    assert_eq!(script.send(postponed(1, consumer, 20, None)), []);
    assert_eq!(script.send(postponed(2, consumer, 20, Some(15))), []);
    script.second = 19;
    assert_eq!(script.send(Event::Tick), []);
    script.second = 20;
    let effects = script.send(Event::Tick);
    let takes = |effect: &Effect| matches!(effect, Effect::Take { .. });
    assert!(effects.iter().any(takes), "{effects:?}");
    let settle = Effect::Settle {
        consumer,
        acks: vec![2],
        moves: Vec::new(),
    };
    assert!(effects.contains(&settle), "{effects:?}");
    let expired = |outcome: &Outcome| {
        matches!(
            outcome,
            Outcome::Dropped {
                reason: "Expired",
                ..
            }
        )
    };
    assert!(script.told.iter().any(expired));
}

#[test]
fn a_request_with_an_eta_far_away_goes_to_the_end_of_its_queue_before_the_broker_takes_it_back() {
    let once = Bucket {
        suspend: true,
        ..bucket()
    };
    let (mut script, consumer) = Script::ready(once);
    assert_eq!(script.send(postponed(1, consumer, 100_000, None)), []);
    script.second += 300;
    let effects = script.send(Event::Tick);
    let moved = effects.iter().find_map(|effect| match effect {
        Effect::Settle { moves, .. } => Some(moves.clone()),
        _ => None,
    });
    let moved = moved.unwrap_or_else(|| panic!("{effects:?}"));
    assert_eq!((moved.len(), moved[0].tag), (1, 1));
    assert_eq!(*moved[0].to, *bucket().refill_queue);
    assert_eq!(moved[0].reason, None);
}
