use super::super::fixture::{at, broker, down, id, in_force, refused, shown, state};
use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

fn after(seconds: u64) -> Now {
    Now {
        utc: at(1000 + seconds.cast_signed()),
        monotonic: Duration::from_secs(seconds),
    }
}

/// A queue with one bucket whose first status, with 5 tokens, was written at second 0.
fn ready_queue() -> StatusQueue {
    let now = after(0);
    let mut queue = StatusQueue::new(INTERVAL);
    queue.reconciled(in_force(1), now);
    queue.connection(&broker(), Some(ConnectionState::Up), now);
    queue.state(&broker(), &id(), state(1, 5).into(), now);
    let job = queue.next(Priority::Urgent, now).unwrap();
    assert_eq!(
        shown(&job.status),
        "Ready=True Refilling BrokerConnected=True"
    );
    queue.written(job, now);
    assert!(queue.next(Priority::Urgent, now).is_none());
    queue
}

#[test]
fn a_new_bucket_is_written_once_it_is_ready() {
    ready_queue();
}

#[test]
fn a_bucket_that_takes_long_is_told_to_be_in_the_making() {
    let mut queue = StatusQueue::new(INTERVAL);
    queue.reconciled(in_force(1), after(0));
    assert!(queue.next(Priority::Urgent, after(0)).is_none());
    queue.connection(&broker(), Some(ConnectionState::Up), after(3));
    let due = queue.next_due(Priority::Urgent).unwrap();
    assert_eq!(due, after(5).monotonic, "it counts from the beginning");
    let job = queue.next(Priority::Urgent, after(5)).unwrap();
    assert_eq!(
        shown(&job.status),
        "Reconciling=True Applying BrokerConnected=True"
    );
}

#[test]
fn of_many_counts_the_newest_is_written_once_in_the_interval() {
    let mut queue = ready_queue();
    for tokens in 6..9 {
        queue.state(&broker(), &id(), state(1, tokens).into(), after(tokens));
    }
    assert!(queue.next(Priority::Routine, after(9)).is_none());
    let job = queue.next(Priority::Routine, after(10)).unwrap();
    assert_eq!(job.status.available_tokens, Some(8));
    queue.written(job, after(10));
    assert_eq!(queue.next_due(Priority::Routine), None);
}

#[test]
fn what_happens_while_a_status_is_written_is_written_next() {
    let mut queue = ready_queue();
    queue.connection(&broker(), Some(down()), after(1));
    let job = queue.next(Priority::Urgent, after(1)).unwrap();
    queue.connection(&broker(), Some(ConnectionState::Up), after(1));
    assert!(
        queue.next(Priority::Urgent, after(1)).is_none(),
        "one write at a time"
    );
    queue.written(job, after(2));
    let job = queue.next(Priority::Urgent, after(2)).unwrap();
    assert_eq!(
        shown(&job.status),
        "Ready=True Refilling BrokerConnected=True"
    );
}

#[test]
fn a_failed_write_is_repeated_later_with_the_newest_status() {
    let mut queue = ready_queue();
    queue.reconciled(refused(2, "InvalidSchedule"), after(1));
    let job = queue.next(Priority::Urgent, after(1)).unwrap();
    queue.failed(&job, 1.0, after(1));
    queue.reconciled(refused(3, "InvalidTimeZone"), after(1));
    assert!(queue.next(Priority::Urgent, after(1)).is_none());
    let job = queue.next(Priority::Urgent, after(2)).unwrap();
    assert_eq!(
        shown(&job.status),
        "Stalled=True InvalidTimeZone BrokerConnected=Unknown"
    );
    queue.failed(&job, 1.0, after(2));
    assert_eq!(
        queue.next_due(Priority::Urgent),
        Some(after(4).monotonic),
        "the pause doubles"
    );
}

#[test]
fn a_restart_over_an_unchanged_bucket_writes_nothing() {
    let mut before = StatusQueue::new(INTERVAL);
    before.reconciled(in_force(1), after(0));
    before.connection(&broker(), Some(ConnectionState::Up), after(0));
    before.state(&broker(), &id(), state(1, 5).into(), after(0));
    let published = before.next(Priority::Urgent, after(0)).unwrap().status;

    let mut queue = StatusQueue::new(INTERVAL);
    queue.reconciled(
        ReconcileResult {
            published: Some(Box::new(published)),
            ..in_force(1)
        },
        after(100),
    );
    queue.connection(&broker(), Some(ConnectionState::Up), after(101));
    queue.state(&broker(), &id(), state(1, 5).into(), after(102));
    assert_eq!(
        (
            queue.next_due(Priority::Urgent),
            queue.next_due(Priority::Routine)
        ),
        (None, None)
    );
}

#[test]
fn a_bucket_that_is_gone_is_not_written() {
    let mut queue = ready_queue();
    queue.state(&broker(), &id(), state(1, 6).into(), after(1));
    queue.forget(&id());
    assert!(queue.next(Priority::Routine, after(99)).is_none());
    assert_eq!(
        queue.state(&broker(), &id(), state(1, 7).into(), after(99)),
        None
    );
}

#[test]
fn a_resource_that_took_the_name_of_another_starts_anew() {
    let mut queue = ready_queue();
    queue.reconciled(
        ReconcileResult {
            uid: "u2".into(),
            ..refused(1, "InvalidSchedule")
        },
        after(1),
    );
    let job = queue.next(Priority::Urgent, after(1)).unwrap();
    assert_eq!((&*job.uid, job.status.available_tokens), ("u2", None));
}

#[test]
fn another_broker_does_not_speak_for_the_bucket() {
    let mut queue = ready_queue();
    let other = Endpoint::parse("amqp://other").unwrap();
    assert_eq!(
        queue.state(&other, &id(), state(1, 9).into(), after(1)),
        None
    );
    queue.connection(&other, Some(down()), after(1));
    assert_eq!(queue.next_due(Priority::Urgent), None);
}
