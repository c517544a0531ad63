//! First ledgers, when somebody else comes in between.

use std::sync::Arc;

use bucket::machine::{Absence, Effect, Event, JobId};
use bucket::{Bucket, BucketId, Ledger, Owner};

use super::{Body, Progress, Shell, Work};
use crate::broker::{Arguments, Broker};
use crate::fixture;

fn bucket() -> Arc<Bucket> {
    let id = BucketId::new("shop", "red");
    let bucket = fixture::bucket(&"uid".into(), &id, 0, 0, fixture::spec(), "refill");
    Arc::new(bucket)
}

fn ledger() -> Box<Ledger> {
    Box::new(Ledger::new(Owner::of(&bucket(), "ops"), "*", 0))
}

fn writing(absence: Absence) -> Work {
    let effect = Effect::WriteLedger {
        job: JobId(1),
        bucket: bucket(),
        ledger: ledger(),
        absence,
    };
    Work::of(effect).expect("it is done at the broker")
}

fn end(mut work: Work, shell: &mut Shell, broker: &mut Broker<Body>) -> bool {
    loop {
        match work.step(shell, broker).expect("there is no alarm") {
            Progress::Done(Event::LedgerWritten { written, .. }) => return written == Ok(true),
            Progress::Done(other) => panic!("{other:?}"),
            _ => {}
        }
    }
}

#[test]
fn a_first_ledger_is_not_written_for_a_bucket_that_is_there_by_then() {
    let mut broker = Broker::new(None);
    let shells = [broker.connect(), broker.connect()];
    let [mut first, mut slow] = shells.map(|connection| Shell::new(connection, None, false));
    let late = writing(Absence::NoQueues);
    assert!(end(writing(Absence::NoQueues), &mut first, &mut broker));
    // It is refilled, and somebody deletes its ledger.
    let channel = broker.open(first.connection, false).expect("a channel");
    let (queue, ledger_queue) = (bucket().queue(), bucket().ledger_queue());
    let declared = broker.declare(channel, &queue, Arguments::default(), false);
    assert_eq!(declared, Ok(0));
    broker.remove(&ledger_queue);
    assert!(!end(late, &mut slow, &mut broker));
    assert_eq!(broker.arguments(&ledger_queue), None);
    assert_eq!(broker.ready(&queue), Some(0));
}

#[test]
fn a_ledger_that_comes_back_meanwhile_is_not_written_over() {
    let mut broker = Broker::new(None);
    let connection = broker.connect();
    let mut shell = Shell::new(connection, None, false);
    let mut work = writing(Absence::NoQueue);
    while broker.arguments(&bucket().ledger_queue()).is_none() {
        let reserving = work.step(&mut shell, &mut broker);
        assert!(matches!(reserving, Ok(Progress::More)));
    }
    broker.put(&bucket().ledger_queue(), Body::Ledger((*ledger()).into()));
    assert!(!end(work, &mut shell, &mut broker));
    assert_eq!(broker.ready(&bucket().ledger_queue()), Some(0));
}
