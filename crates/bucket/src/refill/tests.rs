//! Which requests are carried out, and what the ledger says afterwards.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fixture::{at, bucket, ledger};
use crate::{MissedRefills, Owner};

fn tick(second: i64) -> Cause {
    ticks(second - 60, second, 1)
}

fn ticks(since: i64, tick: i64, ticks: u64) -> Cause {
    Cause::Tick {
        uid: "uid-1".into(),
        span: TickSpan {
            since: at(since),
            tick: at(tick),
            ticks,
        },
    }
}

fn request(id: Option<&str>) -> Cause {
    Cause::Request {
        id: id.map(Into::into),
        refill_queue: "refill".into(),
    }
}

#[test]
fn a_tick_adds_the_amount_and_is_remembered() {
    let mut ledger = ledger();
    assert_eq!(accept(&tick(60), &bucket(), &mut ledger, 3, at(61)), Ok(10));
    assert_eq!(
        (ledger.tick, ledger.owed, ledger.issued),
        (Some(at(60)), 10, 10)
    );
    let refill = ledger.last_refill.unwrap();
    assert_eq!(
        (refill.scheduled_time, refill.completed_time, refill.added),
        (Some(at(60)), at(61), 10)
    );
}

#[test]
fn a_tick_is_added_once() {
    let mut ledger = ledger();
    accept(&tick(120), &bucket(), &mut ledger, 0, at(120)).unwrap();
    let after = ledger.clone();
    for second in [60, 120] {
        assert_eq!(
            accept(&tick(second), &bucket(), &mut ledger, 0, at(121)),
            Err(Refusal::Duplicate)
        );
    }
    assert_eq!(ledger, after);
}

#[test]
fn a_tick_that_lies_ahead_is_not_due() {
    let mut ledger = ledger();
    let forged = accept(&tick(2_000_000_000), &bucket(), &mut ledger, 0, at(60));
    assert_eq!(forged, Err(Refusal::NotDue));
    assert_eq!(ledger.tick, None);
    // A clock that is a little ahead.
    let early = accept(&tick(60), &bucket(), &mut ledger, 0, at(50));
    assert_eq!(early, Ok(10));
}

#[test]
fn numbers_at_their_limits_overflow_nothing() {
    let mut hostile = ledger();
    (hostile.owed, hostile.issued) = (u64::MAX, u64::MAX);
    hostile.since = DateTime::UNIX_EPOCH;
    let forged = ticks(-1_000_000_000, 60, 1 << 62);
    let added = accept(&forged, &bucket(), &mut hostile, u64::MAX, at(61));
    assert_eq!(added, Ok(0));
    assert!(hostile.issued <= i64::MAX as u64);
    let mut ledger = ledger();
    let added = accept(&forged, &bucket(), &mut ledger, 0, at(61));
    assert!(added.is_ok_and(|added| added <= bucket().maximum));
}

#[test]
fn a_refill_never_exceeds_the_maximum_and_counts_what_is_owed() {
    let mut ledger = ledger();
    ledger.owed = 4;
    assert_eq!(accept(&tick(60), &bucket(), &mut ledger, 15, at(60)), Ok(6));
    assert_eq!(
        accept(&tick(120), &bucket(), &mut ledger, 15, at(120)),
        Ok(0)
    );
    assert_eq!(
        ledger.tick,
        Some(at(120)),
        "a tick that finds the bucket full has run"
    );
}

#[test]
fn a_tick_of_an_earlier_resource_adds_nothing() {
    let mut ledger = ledger();
    let span = TickSpan {
        since: at(0),
        tick: at(60),
        ticks: 1,
    };
    let uid = "uid-0".into();
    let other = Cause::Tick { uid, span };
    assert_eq!(
        accept(&other, &bucket(), &mut ledger, 0, at(60)),
        Err(Refusal::OtherResource)
    );
}

#[test]
fn a_tick_past_its_starting_deadline_adds_nothing() {
    let bucket = Bucket {
        starting_deadline: Some(Duration::from_secs(30)),
        ..bucket()
    };
    let mut ledger = ledger();
    assert_eq!(
        accept(&tick(60), &bucket, &mut ledger, 0, at(91)),
        Err(Refusal::TooLate)
    );
    assert_eq!(accept(&tick(60), &bucket, &mut ledger, 0, at(90)), Ok(10));
}

#[test]
fn of_a_request_for_many_ticks_those_past_their_starting_deadline_add_nothing() {
    let bucket = Bucket {
        starting_deadline: Some(Duration::from_secs(120)),
        amount: 1,
        ..bucket()
    };
    let added = |now| accept(&ticks(0, 300, 5), &bucket, &mut ledger(), 0, at(now));
    // That of 180 is exactly as old as the deadline, and then a second older.
    assert_eq!((added(300), added(301), added(420)), (Ok(3), Ok(2), Ok(1)));
    assert_eq!(added(421), Err(Refusal::TooLate));
}

#[test]
fn a_suspended_bucket_takes_requests_but_no_ticks() {
    let bucket = Bucket {
        suspend: true,
        ..bucket()
    };
    let mut ledger = ledger();
    assert_eq!(
        accept(&tick(60), &bucket, &mut ledger, 0, at(60)),
        Err(Refusal::Suspended)
    );
    assert_eq!(
        accept(&request(None), &bucket, &mut ledger, 0, at(60)),
        Ok(10)
    );
    assert_eq!(
        accept(
            &Cause::Annotation("now".into()),
            &bucket,
            &mut ledger,
            10,
            at(60)
        ),
        Ok(5)
    );
}

#[test]
fn an_annotation_value_is_one_refill() {
    let mut ledger = ledger();
    let mut ask = |value: &str| {
        accept(
            &Cause::Annotation(value.into()),
            &bucket(),
            &mut ledger,
            0,
            at(1),
        )
    };
    assert_eq!(ask("a"), Ok(10));
    assert_eq!(ask("a"), Err(Refusal::Duplicate));
    assert_eq!(ask("b"), Ok(10));
}

#[test]
fn a_request_with_an_id_is_one_refill_even_when_it_comes_back() {
    let mut ledger = ledger();
    let mut ask = |id: Option<&str>| accept(&request(id), &bucket(), &mut ledger, 0, at(1));
    assert_eq!(ask(Some("x")), Ok(10));
    assert_eq!(ask(Some("x")), Err(Refusal::Duplicate));
    assert_eq!(ask(None), Ok(10));
    assert_eq!(ask(None), Ok(5));
}

#[test]
fn a_request_for_many_ticks_leaves_out_those_that_ran_meanwhile() {
    // The policy may have been edited since it was made.
    for missed_refills in [MissedRefills::All, MissedRefills::Latest] {
        let bucket = Bucket {
            missed_refills,
            amount: 1,
            ..bucket()
        };
        let mut ledger = ledger();
        assert_eq!(accept(&tick(60), &bucket, &mut ledger, 0, at(300)), Ok(1));
        assert_eq!(
            accept(&ticks(0, 300, 5), &bucket, &mut ledger, 0, at(300)),
            Ok(4)
        );
        assert_eq!(
            accept(&ticks(0, 300, 5), &bucket, &mut ledger, 0, at(300)),
            Err(Refusal::Duplicate)
        );
    }
}

#[test]
fn another_resource_takes_over_the_ledger_from_its_creation_on() {
    let mut ledger = ledger();
    let annotation = Cause::Annotation("a".into());
    accept(&annotation, &bucket(), &mut ledger, 0, at(1)).unwrap();
    let bucket = Bucket {
        uid: "uid-2".into(),
        created: at(900),
        ..bucket()
    };
    let taken = ledger.brought_up_to(&bucket, Owner::of(&bucket, "ops"), at(950));
    assert!(taken.is_of(&bucket));
    assert_eq!((taken.reference(), taken.manual), (at(900), None));
    assert_eq!(taken.issued, 10);
}

proptest! {
    /// I1 for any numbers, and nothing is owed beyond what was added.
    #[test]
    fn no_refill_exceeds_the_maximum(
        amount in 1..=10_000_000u64, maximum in 1..=10_000_000u64, tokens in 0..=20_000_000u64,
        owed in 0..=10_000_000u64, count in 0..=u64::MAX,
    ) {
        let bucket = Bucket { amount, maximum, ..bucket() };
        let mut ledger = Ledger { owed, ..ledger() };
        let added = accept(&ticks(0, 60, count), &bucket, &mut ledger, tokens, at(60)).unwrap();
        prop_assert_eq!(ledger.owed, owed + added);
        prop_assert!(added == 0 || tokens + ledger.owed <= maximum);
    }
}
