//! Somebody else has changed the queues of a bucket at the broker.

use super::*;

const RIVALS_LIMIT: u64 = 5;

fn rival() -> Owner {
    Owner {
        uid: "uid-2".into(),
        created: at(1),
        ..owner()
    }
}

fn suspended() -> Bucket {
    Bucket {
        suspend: true,
        ..bucket()
    }
}

#[test]
fn a_queue_that_another_had_is_inspected_before_tokens_are_put_into_it() {
    let of_rival = Ledger {
        owner: Some(rival().into()),
        ..ledger()
    };
    let handed_back = Ledger {
        rival: Some(rival().into()),
        ..ledger()
    };
    for found in [of_rival, handed_back] {
        let (mut script, consumer) = Script::ready(bucket());
        let batch = taking(script.one(request(consumer, tick(15))));
        let claimed = transaction(script.one(taken(batch, held(found, 0))));
        assert_eq!(
            (claimed.tokens, claimed.acks.len() + claimed.nacks.len()),
            (vec![], 1)
        );
        let ours = Ledger {
            rival: Some(rival().into()),
            ..ledger()
        };
        let job = inspection(script.one(done(batch)));
        let batch = taking(script.one(queues(job, 0, Some(RIVALS_LIMIT))));
        let Effect::Replace { batch, .. } = script.one(taken(batch, held(ours.clone(), 0))) else {
            panic!("the queue keeps its limit")
        };
        let tokens = Ok(0);
        transaction(script.one(Event::Replaced { batch, tokens }));
        // The request has waited.
        let batch = taking(script.one(done(batch)));
        let refilled = transaction(script.one(taken(batch, held(ours.clone(), 0))));
        assert_eq!(refilled.tokens, [("api".into(), 10)]);
        script.send(done(batch));
        // What is known is no news any more.
        let batch = taking(script.one(request(consumer, tick(18))));
        let refilled = transaction(script.one(taken(batch, held(ours, 0))));
        assert_eq!(refilled.tokens, [("api".into(), 10)]);
    }
}

#[test]
fn a_bucket_with_more_than_its_maximum_is_inspected_with_the_next_count_and_trimmed() {
    let (mut script, _) = Script::ready(suspended());
    script.tokens = Some(25);
    script.second += 3600;
    assert_eq!(script.send(Event::Tick), []);
    script.tokens = Some(27);
    script.second += 3600;
    let job = inspection(script.one(Event::Tick));
    let Effect::Take { wanted, .. } = script.one(queues(job, 27, Some(99))) else {
        panic!("nothing is taken out")
    };
    assert_eq!(wanted[0].tokens, 2);
}

#[test]
fn a_bucket_that_has_been_ready_for_long_is_inspected_and_nothing_is_told_of_it() {
    let (mut script, _) = Script::ready(suspended());
    script.second += 3600;
    assert_eq!(script.send(Event::Tick), []);
    script.second += 10_000;
    let told = script.told.len();
    let job = inspection(script.one(Event::Tick));
    let batch = taking(script.one(queues(job, 0, Some(25))));
    transaction(script.one(taken(batch, held(ledger(), 0))));
    assert_eq!(script.send(done(batch)), []);
    let states: Vec<_> = script.told[told..].iter().collect();
    assert_eq!(states.len(), 1, "the count of another minute: {states:?}");
    assert_eq!(script.state().phase, Phase::Ready);
}

#[test]
fn a_bucket_that_leaves_while_its_ledger_is_got_takes_nothing_from_another() {
    let of_rival = Ledger {
        owner: Some(rival().into()),
        ..ledger()
    };
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(15))));
    script.send(Event::Leave(bucket().id));
    let effects = script.send(taken(batch, held(of_rival, 0)));
    let left = effects.into_iter().find_map(|effect| match effect {
        Effect::Commit { transaction, .. } => Some(transaction),
        _ => None,
    });
    let as_it_was = Transaction {
        nacks: vec![BATON],
        ..Transaction::default()
    };
    assert_eq!(left, Some(as_it_was));
}

#[test]
fn a_ledger_that_does_not_say_so_any_more_makes_no_tick_come_again() {
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(15))));
    let refilled = transaction(script.one(taken(batch, held(ledger(), 0))));
    assert_eq!(refilled.tokens, [("api".into(), 10)]);
    script.send(done(batch));
    script.send(Event::Lost(None));
    let Effect::Consume { consumer, .. } = script.one(Event::Connected) else {
        panic!("not consumed")
    };
    let job = inspection(script.one(Event::Consuming(consumer)));
    let batch = taking(script.one(queues(job, 0, Some(25))));
    let told = transaction(script.one(taken(batch, held(ledger(), 0))));
    assert_eq!(told.ledgers[0].1.tick, Some(at(15)));
}

fn other_arguments(job: JobId, tokens: Option<u64>) -> Event {
    let found = Ok(Inspection::OtherArguments {
        queue: "token_bucket_api".into(),
        message: "x-message-ttl".into(),
        tokens,
    });
    Event::Inspected { job, found }
}

fn replaced(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::QueueReplaced { .. })
}

#[test]
fn a_bucket_with_fewer_tokens_than_before_is_inspected_with_the_next_count_and_no_sooner() {
    let (mut script, _) = Script::ready(suspended());
    for (tokens, inspected) in [(20, false), (19, true), (19, false), (21, false)] {
        script.tokens = Some(tokens);
        script.second += 3600;
        let effects = script.send(Event::Tick);
        assert_eq!(!effects.is_empty(), inspected, "{tokens}: {effects:?}");
        for effect in effects {
            let batch = taking(script.one(queues(inspection(effect), tokens, Some(25))));
            script.one(taken(batch, held(ledger(), tokens)));
            script.send(done(batch));
        }
    }
}

#[test]
fn a_queue_that_is_gone_is_told_of() {
    let (mut script, _) = Script::ready(suspended());
    script.second += 10_000;
    let job = inspection(script.one(Event::Tick));
    let (tokens, limit) = (0, Some(25));
    let found = Ok(Inspection::Restored(QueueState { tokens, limit }));
    taking(script.one(Event::Inspected { job, found }));
    let missing = Outcome::QueueMissing(bucket().id);
    assert_eq!(script.told.iter().filter(|it| **it == missing).count(), 1);
}

#[test]
fn an_empty_queue_with_other_arguments_is_declared_anew_and_looked_at_once_more() {
    for (left, told) in [(0, 1), (1, 0)] {
        let (mut script, _) = Script::ready(suspended());
        script.second += 10_000;
        let job = inspection(script.one(Event::Tick));
        let batch = taking(script.one(other_arguments(job, Some(0))));
        let mut next = script.one(taken(batch, held(ledger(), left)));
        if let Effect::Replace { batch, .. } = next {
            let tokens = Ok(0);
            next = script.one(Event::Replaced { batch, tokens });
        }
        transaction(next);
        inspection(script.one(done(batch)));
        let replaced = script.told.iter().filter(|it| replaced(it));
        assert_eq!(replaced.count(), told, "{left} tokens came meanwhile");
    }
}

#[test]
fn one_with_tokens_or_of_another_type_waits_for_a_person_and_nobody_is_told_to_delete_it() {
    for tokens in [Some(3), None] {
        let (mut script, _) = Script::ready(suspended());
        script.second += 10_000;
        let job = inspection(script.one(Event::Tick));
        assert_eq!(script.send(other_arguments(job, tokens)), []);
        let Phase::Stalled { reason, message } = &script.state().phase else {
            panic!("{:?}", script.state())
        };
        assert_eq!(*reason, "QueueArgumentsDiffer");
        assert!(!message.contains("elete"), "{message}");
        assert_eq!(message.contains("declared anew"), tokens.is_some());
    }
}
