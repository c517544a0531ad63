use super::super::fixture::{at, broker, down, id, in_force, refused, shown, state};
use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

struct Clock(Instant);

impl Clock {
    fn after(&self, seconds: u64) -> Moment {
        Moment {
            utc: at(1000 + seconds.cast_signed()),
            instant: self.0 + Duration::from_secs(seconds),
        }
    }
}

fn clock() -> Clock {
    Clock(Instant::now())
}

/// A book with one bucket whose first status, with 5 tokens, was written at second 0.
fn ready_book(clock: &Clock) -> Book {
    let now = clock.after(0);
    let mut book = Book::new(INTERVAL);
    book.pass(in_force(1), now);
    book.connection(&broker(), Some(Connection::Up), now);
    book.state(&broker(), &id(), state(1, 5).into(), now);
    let job = book.next(Class::Urgent, now).unwrap();
    assert_eq!(
        shown(&job.status),
        "Ready=True Refilling BrokerConnected=True"
    );
    book.written(job, now);
    assert!(book.next(Class::Urgent, now).is_none());
    book
}

#[test]
fn a_new_bucket_is_written_once_it_is_ready() {
    ready_book(&clock());
}

#[test]
fn a_bucket_that_takes_long_is_told_to_be_in_the_making() {
    let clock = clock();
    let mut book = Book::new(INTERVAL);
    book.pass(in_force(1), clock.after(0));
    assert!(book.next(Class::Urgent, clock.after(0)).is_none());
    book.connection(&broker(), Some(Connection::Up), clock.after(3));
    let due = book.next_due(Class::Urgent).unwrap();
    assert_eq!(due, clock.after(5).instant, "it counts from the beginning");
    let job = book.next(Class::Urgent, clock.after(5)).unwrap();
    assert_eq!(
        shown(&job.status),
        "Reconciling=True Applying BrokerConnected=True"
    );
}

#[test]
fn of_many_counts_the_newest_is_written_once_in_the_interval() {
    let clock = clock();
    let mut book = ready_book(&clock);
    for tokens in 6..9 {
        book.state(
            &broker(),
            &id(),
            state(1, tokens).into(),
            clock.after(tokens),
        );
    }
    assert!(book.next(Class::Routine, clock.after(9)).is_none());
    let job = book.next(Class::Routine, clock.after(10)).unwrap();
    assert_eq!(job.status.available_tokens, Some(8));
    book.written(job, clock.after(10));
    assert_eq!(book.next_due(Class::Routine), None);
}

#[test]
fn what_happens_while_a_status_is_written_is_written_next() {
    let clock = clock();
    let mut book = ready_book(&clock);
    book.connection(&broker(), Some(down()), clock.after(1));
    let job = book.next(Class::Urgent, clock.after(1)).unwrap();
    book.connection(&broker(), Some(Connection::Up), clock.after(1));
    assert!(
        book.next(Class::Urgent, clock.after(1)).is_none(),
        "one write at a time"
    );
    book.written(job, clock.after(2));
    let job = book.next(Class::Urgent, clock.after(2)).unwrap();
    assert_eq!(
        shown(&job.status),
        "Ready=True Refilling BrokerConnected=True"
    );
}

#[test]
fn a_failed_write_is_repeated_later_with_the_newest_status() {
    let clock = clock();
    let mut book = ready_book(&clock);
    book.pass(refused(2, "InvalidSchedule"), clock.after(1));
    let job = book.next(Class::Urgent, clock.after(1)).unwrap();
    book.failed(&job, 1.0, clock.after(1));
    book.pass(refused(3, "InvalidTimeZone"), clock.after(1));
    assert!(book.next(Class::Urgent, clock.after(1)).is_none());
    let job = book.next(Class::Urgent, clock.after(2)).unwrap();
    assert_eq!(
        shown(&job.status),
        "Stalled=True InvalidTimeZone BrokerConnected=Unknown"
    );
    book.failed(&job, 1.0, clock.after(2));
    assert_eq!(
        book.next_due(Class::Urgent),
        Some(clock.after(4).instant),
        "the pause doubles"
    );
}

#[test]
fn a_restart_over_an_unchanged_bucket_writes_nothing() {
    let clock = clock();
    let mut before = Book::new(INTERVAL);
    before.pass(in_force(1), clock.after(0));
    before.connection(&broker(), Some(Connection::Up), clock.after(0));
    before.state(&broker(), &id(), state(1, 5).into(), clock.after(0));
    let published = before.next(Class::Urgent, clock.after(0)).unwrap().status;

    let mut book = Book::new(INTERVAL);
    book.pass(
        Pass {
            published: Some(Box::new(published)),
            ..in_force(1)
        },
        clock.after(100),
    );
    book.connection(&broker(), Some(Connection::Up), clock.after(101));
    book.state(&broker(), &id(), state(1, 5).into(), clock.after(102));
    assert_eq!(
        (book.next_due(Class::Urgent), book.next_due(Class::Routine)),
        (None, None)
    );
}

#[test]
fn a_bucket_that_is_gone_is_not_written() {
    let clock = clock();
    let mut book = ready_book(&clock);
    book.state(&broker(), &id(), state(1, 6).into(), clock.after(1));
    book.forget(&id());
    assert!(book.next(Class::Routine, clock.after(99)).is_none());
    assert!(!book.state(&broker(), &id(), state(1, 7).into(), clock.after(99)));
}

#[test]
fn a_resource_that_took_the_name_of_another_starts_anew() {
    let clock = clock();
    let mut book = ready_book(&clock);
    book.pass(
        Pass {
            uid: "u2".into(),
            ..refused(1, "InvalidSchedule")
        },
        clock.after(1),
    );
    let job = book.next(Class::Urgent, clock.after(1)).unwrap();
    assert_eq!((&*job.uid, job.status.available_tokens), ("u2", None));
}

#[test]
fn another_broker_does_not_speak_for_the_bucket() {
    let clock = clock();
    let mut book = ready_book(&clock);
    let other = Endpoint::parse("amqp://other").unwrap();
    assert!(!book.state(&other, &id(), state(1, 9).into(), clock.after(1)));
    book.connection(&other, Some(down()), clock.after(1));
    assert_eq!(book.next_due(Class::Urgent), None);
}
