//! A bucket that comes from another broker.

use super::*;
use crate::{Contents, Moved};

fn moved(tokens: u64, ledger: Option<Ledger>) -> Bucket {
    let ledger = ledger.map(Box::new);
    let contents = Contents { tokens, ledger };
    let id = "move-1".into();
    Bucket {
        initial_tokens: 20,
        moved: Some(Arc::new(Moved { id, contents })),
        ..bucket()
    }
}

fn before() -> Ledger {
    Ledger {
        tick: Some(at(0)),
        issued: 30,
        ..ledger()
    }
}

/// The first ledger that it writes where it has none, and what is done when that is there.
fn arrives(bucket: Bucket) -> (Script, Box<Ledger>, JobId) {
    let mut script = Script::new();
    script.send(apply(bucket, 1, None));
    let Effect::Consume { consumer, .. } = script.one(Event::Connected) else {
        panic!("not consumed")
    };
    let Effect::WriteLedger { job, ledger, .. } = script.one(Event::Consuming(consumer)) else {
        panic!("no ledger is written")
    };
    let written = Ok(true);
    let job = inspection(script.one(Event::LedgerWritten { job, written }));
    (script, ledger, job)
}

#[test]
fn its_ledger_goes_on_and_its_tokens_are_added_once() {
    let (mut script, first, job) = arrives(moved(7, Some(before())));
    assert_eq!((first.tick, first.owed, first.issued), (Some(at(0)), 0, 30));
    let lost = |outcome: &Outcome| matches!(outcome, Outcome::LedgerLost(_));
    assert!(!script.told.iter().any(lost), "{:?}", script.told);
    let batch = taking(script.one(queues(job, 0, Some(25))));
    let committed = transaction(script.one(taken(batch, held(*first, 0))));
    assert_eq!(committed.tokens, [("api".into(), 7)]);
    let (_, ledger) = &committed.ledgers[0];
    assert_eq!((ledger.owed, ledger.issued), (0, 30), "nothing was issued");
    script.send(done(batch));
    assert_eq!(script.state().phase, Phase::Ready);

    // Whatever is applied later.
    let again = Bucket {
        amount: 3,
        ..moved(7, Some(before()))
    };
    let job = inspection(script.one(apply(again, 2, None)));
    let batch = taking(script.one(queues(job, 7, Some(25))));
    let effect = script.one(taken(batch, held((**ledger).clone(), 7)));
    assert_eq!(transaction(effect).tokens, []);
}

#[test]
fn what_does_not_fit_any_more_is_left_out() {
    let (mut script, first, job) = arrives(moved(70, Some(before())));
    let batch = taking(script.one(queues(job, 0, Some(25))));
    let committed = transaction(script.one(taken(batch, held(*first, 0))));
    assert_eq!(committed.tokens, [("api".into(), 25)]);
    assert_eq!(committed.ledgers[0].1.owed, 0);
}

#[test]
fn of_one_that_left_nothing_behind_that_can_be_read_no_tick_of_the_past_is_made_up_for() {
    let (script, first, _) = arrives(moved(0, None));
    assert_eq!((first.tick, first.owed), (Some(at(script.second)), 0));
}
