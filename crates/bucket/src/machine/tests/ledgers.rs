//! Where a ledger comes from, and what is done when it is gone.

use super::*;

#[test]
fn a_new_bucket_gets_a_ledger_that_owes_its_initial_tokens() {
    let new = Bucket {
        initial_tokens: 5,
        ..bucket()
    };
    let mut script = Script::new();
    script.send(apply(new, 1, None));
    let Effect::Consume { consumer, .. } = script.one(Event::Connected) else {
        panic!("not consumed")
    };
    // Without asking before: there is nothing, and that would be an error at the broker.
    let Effect::WriteLedger {
        job,
        ledger: first,
        absence: Absence::NoQueues,
        ..
    } = script.one(Event::Consuming(consumer))
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
    let (ledger, absence) = script.finds_no_ledger(job);
    let soon = Absence::Unseen(Duration::from_secs(1));
    assert_eq!((ledger.owed, absence), (0, soon));
}

#[test]
fn a_bucket_that_was_seen_with_a_ledger_is_not_adopted_when_that_is_gone() {
    let (mut script, _, job) = Script::connected(bucket(), None);
    let batch = taking(script.one(queues(job, 0, Some(25))));
    // Somebody holds the ledger, and comes with it even when its queue is deleted and declared anew.
    let taken = Err(failure(Class::NoQueue));
    let job = inspection(script.one(Event::Taken { batch, taken }));
    let (_, absence) = script.finds_no_ledger(job);
    assert_eq!(absence, Absence::Unseen(Duration::from_secs(35)));
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
        job,
        ledger,
        absence,
        ..
    } = script.one(taken(batch, absent()))
    else {
        panic!("no ledger is written")
    };
    assert_eq!(absence, Absence::Unseen(Duration::from_secs(35)));
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
fn an_edit_waits_with_a_lost_ledger_and_is_told_of_its_loss() {
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(15))));
    script.send(taken(batch, absent()));
    script.second += 1;
    let batch = taking(script.one(Event::Tick));
    let Effect::WriteLedger { job, .. } = script.one(taken(batch, absent())) else {
        panic!("no ledger is written")
    };
    let edited = Bucket {
        amount: 11,
        ..bucket()
    };
    assert_eq!(script.send(apply(edited, 2, None)), []);
    assert_eq!(script.told_of(), (2, "LedgerHeld"));
    let written = Ok(true);
    let Effect::Inspect {
        bucket: inspected, ..
    } = script.one(Event::LedgerWritten { job, written })
    else {
        panic!("not inspected")
    };
    assert_eq!(inspected.amount, 11);
    assert!(script.told.contains(&Outcome::LedgerLost(bucket().id)));
}

#[test]
fn a_ledger_queue_that_vanishes_under_its_holder_gets_the_ledger_again_at_once() {
    let (mut script, consumer) = Script::ready(bucket());
    let batch = taking(script.one(request(consumer, tick(15))));
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
fn a_resource_that_is_made_anew_does_not_yield_to_the_one_before_it() {
    let (mut script, _) = Script::ready(bucket());
    script.send(Event::Leave(bucket().id));
    let anew = Bucket {
        uid: "uid-2".into(),
        created: at(5),
        ..bucket()
    };
    let effect = script.one(apply(anew.clone(), 1, None));
    let job = script.not_new(effect);
    let batch = taking(script.one(queues(job, 0, Some(25))));
    // Somebody who does not know of it has written the ledger since.
    let stale = Ledger {
        rival: Some(Box::new(Owner::of(&anew, "ops"))),
        ..ledger()
    };
    let wanted = transaction(script.one(taken(batch, held(stale, 0))));
    assert!(wanted.ledgers[0].1.is_of(&anew));
}

#[test]
fn a_resource_that_has_yielded_does_not_forget_which_ticks_it_has_carried_out() {
    let (mut script, consumer) = Script::ready(bucket());
    // Asked for by an operator whose clock is ahead.
    let batch = taking(script.one(request(consumer, tick(18))));
    script.send(taken(batch, held(ledger(), 0)));
    script.send(done(batch));
    script.send(Event::Settled(consumer));
    let batch = taking(script.one(request(consumer, tick(19))));
    let first = Owner {
        uid: "uid-2".into(),
        created: at(-5),
        ..owner()
    };
    let theirs = Ledger {
        owner: Some(Box::new(first)),
        ..ledger()
    };
    script.send(taken(batch, held(theirs, 0)));
    script.send(done(batch));
    assert_eq!(script.told_of(), (1, "NameConflict"));
    let edited = Bucket {
        amount: 11,
        ..bucket()
    };
    let job = inspection(script.one(apply(edited, 2, None)));
    let (ledger, _) = script.finds_no_ledger(job);
    assert_eq!(ledger.tick, Some(at(18)));
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

#[test]
fn a_removal_is_answered_although_its_refill_queue_is_wanted_again() {
    let (mut script, _) = Script::ready(bucket());
    let removal = Removal {
        id: bucket().id,
        uid: bucket().uid,
        name: bucket().name,
        refill_queue: bucket().refill_queue.as_str().into(),
        policy: crate::DeletionPolicy::Delete,
        moves: false,
        established: false,
    };
    let effects = script.send(Event::Remove { removal, ticket: 3 });
    let job = effects.into_iter().find_map(|effect| match effect {
        Effect::Remove { job, .. } => Some(job),
        _ => None,
    });
    let job = job.expect("its queues are removed");
    // Its refill queue goes first, unless somebody comes who uses it.
    let result = Ok(None);
    assert_eq!(script.send(Event::Removed { job, result }), []);
    let other = Bucket {
        id: BucketId::new("shop", "other"),
        uid: "uid-2".into(),
        name: "other".into(),
        ..bucket()
    };
    let effects = script.send(Event::Apply {
        bucket: Arc::new(other),
        revision: 1,
        known: None,
    });
    let result = Ok(None);
    assert!(effects.contains(&Effect::Answer { ticket: 3, result }));
}
