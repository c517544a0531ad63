use super::*;
use crate::fixture::{at, bucket, ledger, owner};

fn other() -> Owner {
    Owner {
        uid: "uid-0".into(),
        ..owner()
    }
}

fn edited(ledger: Ledger, expression: &str, second: i64) -> Ledger {
    let mut bucket = bucket();
    let zone = schedule::parse_zone("Etc/UTC").unwrap();
    bucket.timetable = schedule::Timetable::new(expression.parse().unwrap(), zone, at(0));
    ledger.brought_up_to(&bucket, owner(), at(second))
}

#[test]
fn an_edit_of_the_schedule_begins_anew_and_mints_nothing() {
    let run = Ledger {
        tick: Some(at(60)),
        ..ledger()
    };
    let once = edited(run.clone(), "*/5 * * * *", 1_000);
    assert_eq!(once.reference(), at(1_000));
    assert_eq!((once.tick, once.issued), (run.tick, run.issued));
    // Only once: the next look finds the schedule that it knows.
    assert_eq!(edited(once.clone(), "*/5 * * * *", 2_000), once);
}

#[test]
fn an_edit_of_anything_else_keeps_what_was_missed() {
    assert_eq!(
        ledger().brought_up_to(&bucket(), owner(), at(1_000)),
        ledger()
    );
}

#[test]
fn after_a_clock_that_was_ahead_its_last_tick_is_still_the_last() {
    let ahead = Ledger {
        tick: Some(at(9_000)),
        ..ledger()
    };
    assert_eq!(edited(ahead, "*/5 * * * *", 100).reference(), at(9_000));
}

#[test]
fn a_resource_that_takes_a_bucket_over_says_from_whom() {
    let theirs = Ledger {
        owner: Some(Box::new(other())),
        tick: Some(at(60)),
        manual: Some("theirs".into()),
        ..ledger()
    };
    let ours = theirs.brought_up_to(&bucket(), owner(), at(100));
    assert!(ours.is_of(&bucket()));
    assert_eq!(ours.rival.as_deref(), Some(&other()));
    assert_eq!((ours.tick, ours.manual), (Some(at(60)), None));
}

#[test]
fn a_lost_ledger_carries_out_no_tick_again() {
    let known = |tick| Known {
        tick,
        issued: 7,
        ..Known::default()
    };
    let lost =
        |tick, missing| Ledger::after_loss(owner(), "", &known(tick), at(missing)).reference();
    assert_eq!(lost(Some(at(60)), 120), at(120));
    assert_eq!(lost(Some(at(180)), 120), at(180));
    assert_eq!(lost(None, 120), at(120));
}

#[test]
fn a_ledger_of_version_1_is_read() {
    let body = br#"{"version":1,"uid":"uid-1","since":"2026-01-01T00:00:00Z","schedule":"* * * * * Etc/UTC",
        "writer":{"operator":"ops","refillQueue":"q"},"tick":"2026-01-01T00:01:00Z","request":"42","owed":3,"issued":9,
        "lastRefill":{"completedTime":"2026-01-01T00:01:01Z","added":9,"trigger":"Schedule"}}"#;
    let ledger = Ledger::from_json(body).unwrap();
    assert!(ledger.is_of(&bucket()) && ledger.knows_request("42"));
    assert_eq!(
        (ledger.tick, ledger.owed, ledger.issued, ledger.since),
        (Some(at(60)), 3, 9, at(0))
    );
}

#[test]
fn what_is_written_is_read_and_what_is_newer_or_damaged_is_told() {
    let ledger = Ledger {
        rival: Some(Box::new(other())),
        requests: vec!["a".into()],
        ..ledger()
    };
    assert_eq!(Ledger::from_json(&ledger.to_json()), Ok(ledger));
    for (body, told) in [
        (&br#"{"version":3}"#[..], "format version 3"),
        (br#"{"version":2}"#, "damaged"),
        (br#"{"version":1}"#, "damaged"),
        (b"token", "not a ledger"),
    ] {
        let error = Ledger::from_json(body).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_ledger_knows_the_last_requests_of_each_refill_queue_and_forgets_the_oldest() {
    let mut ledger = ledger();
    let mut fill = |queue: &str| {
        for number in 0..=MOST_REQUEST_IDS {
            ledger.remember_request(&format!("{queue}-{number}"), queue);
        }
        ledger.clone()
    };
    let knows = |ledger: &Ledger, id: &str| ledger.knows_request(id);
    for queue in ["a", "b", "c", "d"] {
        fill(queue);
    }
    let full = fill("a");
    assert_eq!(full.requests.len(), MOST_QUEUES * MOST_REQUEST_IDS);
    for queue in ["a", "b", "c", "d"] {
        assert!(!knows(&full, &format!("{queue}-0")) && knows(&full, &format!("{queue}-1")));
    }
    let more = fill("e");
    assert_eq!(more.requests.len(), MOST_QUEUES * MOST_REQUEST_IDS);
    assert!(!knows(&more, "b-32") && knows(&more, "c-1") && knows(&more, "e-1"));
}

#[test]
fn numbers_and_dates_of_a_ledger_are_not_trusted() {
    let json = |change: fn(&mut Ledger)| {
        let mut ledger = ledger();
        change(&mut ledger);
        Ledger::from_json(&ledger.to_json())
    };
    let large = json(|ledger| {
        (ledger.owed, ledger.issued) = (u64::MAX, u64::MAX);
        ledger.requests = vec!["id".into(); 1_000];
    })
    .unwrap();
    let most = i64::MAX as u64;
    assert_eq!((large.owed, large.issued), (most, most));
    assert_eq!(large.requests.len(), MOST_QUEUES * MOST_REQUEST_IDS);
    let mut more = large;
    more.add(u64::MAX);
    more.carry(u64::MAX);
    assert_eq!((more.owed, more.issued), (most, most));
    for change in [
        (|ledger| ledger.since = DateTime::<Utc>::MAX_UTC) as fn(&mut Ledger),
        |ledger| ledger.tick = Some(DateTime::<Utc>::MIN_UTC),
        |ledger| {
            ledger.owner = Some(Box::new(Owner {
                created: DateTime::<Utc>::MAX_UTC,
                ..owner()
            }))
        },
    ] {
        let refused = json(change).unwrap_err();
        assert!(refused.contains("out of range"), "{refused}");
    }
    for text in ["a\nlevel=error".to_owned(), "x".repeat(2_000)] {
        let hostile = Ledger {
            owner: Some(Box::new(Owner {
                resource: text.into(),
                ..owner()
            })),
            ..ledger()
        };
        let refused = Ledger::from_json(&hostile.to_json()).unwrap_err();
        assert!(refused.contains("not printable"), "{refused}");
    }
}

#[test]
fn a_tick_far_in_the_future_is_told_from_a_clock_that_is_a_little_ahead() {
    let mut ledger = ledger();
    ledger.tick = Some(at(3_600));
    assert_eq!(ledger.tick_ahead(at(0)), None);
    ledger.tick = Some(at(2_000_000_000));
    assert_eq!(ledger.tick_ahead(at(0)), ledger.tick);
}
