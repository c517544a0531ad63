use super::*;
use crate::controller::index::fixture::claim;

fn at(host: &str) -> Endpoint {
    Endpoint::parse(&format!("amqp://{host}")).unwrap()
}

fn id(number: u32) -> BucketId {
    claim(number).id
}

/// Whether the older ones come first: of the claims here the one with the smaller number is the older one.
fn asked(conflict: &mut Conflict, number: u32) -> Verdict {
    conflict.ask(&claim(number), &at("a")).0
}

const HOLDS: Verdict = Verdict::Holds(None);

#[test]
fn until_the_ledger_is_known_the_oldest_resource_has_the_queue() {
    let mut conflict = Conflict::default();
    assert_eq!(asked(&mut conflict, 2), HOLDS);
    assert_eq!(asked(&mut conflict, 3), Verdict::Waits(id(2)));
    assert_eq!(asked(&mut conflict, 1), Verdict::Holds(Some(id(2))));
    assert_eq!(asked(&mut conflict, 2), Verdict::Waits(id(1)));
    assert_eq!(asked(&mut conflict, 1), HOLDS);
}

#[test]
fn whoever_the_ledger_names_has_it_before_older_ones() {
    let mut conflict = Conflict::default();
    assert_eq!(asked(&mut conflict, 1), HOLDS);
    assert_eq!(asked(&mut conflict, 2), Verdict::Waits(id(1)));
    assert_eq!(conflict.owned(&at("a"), &claim(2)), [id(2)]);
    assert_eq!(asked(&mut conflict, 2), Verdict::Holds(Some(id(1))));
    assert_eq!(asked(&mut conflict, 1), Verdict::Waits(id(2)));
    assert_eq!(conflict.owned(&at("a"), &claim(2)), []);
}

#[test]
fn when_the_holder_is_gone_the_next_one_is_asked_alone() {
    let mut conflict = Conflict::default();
    for number in 1..=4 {
        asked(&mut conflict, number);
    }
    assert_eq!(conflict.leave(&claim(1), true), [id(2)]);
    // It wants the queue no more: the turn goes on.
    assert_eq!(conflict.leave(&claim(2), false), [id(3)]);
    assert_eq!(asked(&mut conflict, 3), HOLDS);
    assert_eq!(conflict.ask(&claim(3), &at("a")), (HOLDS, vec![]));
    // Whoever waits goes without a word.
    assert_eq!(conflict.leave(&claim(4), true), []);
    assert_eq!(conflict.leave(&claim(3), true), []);
    assert_eq!(conflict.0.len(), 0);
}

#[test]
fn whoever_comes_before_the_one_whose_turn_it_is_does_not_strand_it() {
    let mut conflict = Conflict::default();
    for number in 1..=3 {
        asked(&mut conflict, number);
    }
    assert_eq!(conflict.leave(&claim(1), true), [id(2)]);
    assert_eq!(asked(&mut conflict, 3), HOLDS);
    assert_eq!(asked(&mut conflict, 2), Verdict::Holds(Some(id(3))));
}

#[test]
fn the_owner_keeps_the_queue_while_it_is_refused_for_another_reason() {
    let mut conflict = Conflict::default();
    for number in 1..=2 {
        asked(&mut conflict, number);
    }
    conflict.owned(&at("a"), &claim(1));
    assert_eq!(conflict.leave(&claim(1), false), []);
    assert_eq!(asked(&mut conflict, 2), Verdict::Waits(id(1)));
    assert_eq!(conflict.leave(&claim(1), true), [id(2)]);
}

#[test]
fn whoever_moves_makes_room_where_it_was_and_takes_nothing_where_it_comes_to() {
    let mut conflict = Conflict::default();
    for number in 1..=2 {
        asked(&mut conflict, number);
    }
    conflict.owned(&at("a"), &claim(1));
    let other = at("b");
    assert_eq!(conflict.ask(&claim(3), &other), (HOLDS, vec![]));
    conflict.owned(&other, &claim(3));
    let moved = conflict.ask(&claim(1), &other);
    // The one that it makes room for, and the one that may have found it in a ledger.
    assert_eq!(moved, (Verdict::Waits(id(3)), vec![id(2), id(3)]));
    assert_eq!(conflict.awaited_by(&claim(1)), Some(&claim(3)));
}

#[test]
fn some_of_those_that_wait_are_told_whom_they_wait_for() {
    let mut conflict = Conflict::default();
    (1..=30).for_each(|number| drop(asked(&mut conflict, number)));
    assert_eq!(conflict.leave(&claim(1), true), [id(2)]);
    let (verdict, told) = conflict.ask(&claim(2), &at("a"));
    assert_eq!((verdict, told.len()), (HOLDS, MOST_TOLD));
    assert_eq!(told[0], id(3));
}
