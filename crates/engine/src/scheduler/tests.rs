use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, advance, sleep, sleep_until};

use super::*;
use bucket::MissedRefills::{self, All, Latest, Skip};
use bucket::fixture::{at, bucket};
use schedule::{Timetable, parse_zone};

#[derive(Clone, Default)]
struct Broker {
    /// Second of the tick and number of ticks, of each request that was accepted.
    accepted: Arc<Mutex<Vec<(i64, u64)>>>,
    refuses: Arc<AtomicBool>,
    /// How long the next publication takes.
    delay: Arc<Mutex<Duration>>,
}

impl Publish for Broker {
    async fn publish(&self, requests: &[(String, RefillRequest)]) -> Vec<Result<(), BrokerError>> {
        if self.refuses.load(Ordering::SeqCst) {
            return vec![Err(BrokerError::Blocked); requests.len()];
        }
        let delay = std::mem::take(&mut *self.delay.lock().unwrap());
        sleep(delay).await;
        let accepted = requests.iter().map(|(_, request)| match request.origin {
            Origin::Schedule { tick, ticks, .. } => ((tick - at(0)).num_seconds(), ticks),
            Origin::Foreign { .. } => panic!("{request:?}"),
        });
        self.accepted.lock().unwrap().extend(accepted);
        vec![Ok(()); requests.len()]
    }
}

/// A scheduler in paused time that began at second 0 of both clocks.
struct Running {
    scheduler: Scheduler,
    broker: Broker,
    start: Instant,
    /// How far the wall clock is ahead of the monotonic one.
    ahead: Arc<Mutex<TimeDelta>>,
    _task: JoinHandle<BrokerError>,
}

impl Running {
    fn start() -> Self {
        Self::start_with(Permit::unlimited())
    }

    fn start_with(permit: Permit) -> Self {
        let (start, broker) = (Instant::now(), Broker::default());
        let ahead = Arc::new(Mutex::new(TimeDelta::zero()));
        let offset = ahead.clone();
        let clock = Clock::new(move || at(0) + start.elapsed() + *offset.lock().unwrap());
        let board = Arc::new(Board::new(mpsc::unbounded_channel().0));
        let (scheduler, scheduling) = Scheduler::new(broker.clone(), permit, board, clock);
        Self {
            scheduler,
            broker,
            start,
            ahead,
            _task: tokio::spawn(scheduling),
        }
    }

    /// A bucket that is due every ten seconds, and has a ledger from second 0.
    fn enter(&self, change: impl FnOnce(&mut Bucket)) {
        let zone = parse_zone("Etc/UTC").unwrap();
        let mut bucket = Bucket {
            timetable: Timetable::new("*/10 * * * * *".parse().unwrap(), zone, at(0)),
            maximum: 10_000,
            ..bucket()
        };
        change(&mut bucket);
        self.scheduler.enter(Arc::new(bucket), at(0), at(0));
    }

    /// Watches until a moment after this second of the monotonic clock; what has been requested since the last call.
    async fn until(&self, second: u64) -> Vec<(i64, u64)> {
        sleep_until(self.start + Duration::from_millis(second * 1_000 + 500)).await;
        std::mem::take(&mut *self.broker.accepted.lock().unwrap())
    }

    fn set_clock(&self, forward: i64) {
        *self.ahead.lock().unwrap() += TimeDelta::seconds(forward);
    }

    fn refuse(&self, refuses: bool) {
        self.broker.refuses.store(refuses, Ordering::SeqCst);
    }
}

/// What each policy makes of the ticks 20 to 60, all missed, with 70 still to come.
const MISSED: [(MissedRefills, &[(i64, u64)]); 3] =
    [(Latest, &[(60, 1)]), (Skip, &[]), (All, &[(60, 5)])];

/// One bucket for each policy, which something keeps from being watched between seconds 12 and 62.
async fn by_policy(absence: impl AsyncFn(&Running)) {
    for (policy, requested) in MISSED {
        let running = Running::start();
        running.enter(|bucket| bucket.missed_refills = policy);
        assert_eq!(running.until(12).await, [(10, 1)], "{policy:?}");
        absence(&running).await;
        sleep(Duration::from_secs(3)).await;
        let found = std::mem::take(&mut *running.broker.accepted.lock().unwrap());
        assert_eq!(found, requested, "{policy:?}");
        sleep(Duration::from_secs(10)).await;
        assert_eq!(
            *running.broker.accepted.lock().unwrap(),
            [(70, 1)],
            "{policy:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_tick_is_requested_when_it_is_due() {
    let running = Running::start();
    running.enter(|_| {});
    assert_eq!(running.until(9).await, []);
    assert_eq!(running.until(10).await, [(10, 1)]);
    assert_eq!(running.until(39).await, [(20, 1), (30, 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_ticks_of_a_stopped_process_go_by_the_policy() {
    by_policy(async |_| advance(Duration::from_secs(50)).await).await;
}

#[tokio::test(start_paused = true)]
async fn the_ticks_of_a_machine_that_slept_go_by_the_policy() {
    // The monotonic clock stands still meanwhile.
    by_policy(async |running| running.set_clock(50)).await;
}

#[tokio::test(start_paused = true)]
async fn the_ticks_of_a_time_without_permit_go_by_the_policy() {
    for (policy, requested) in MISSED {
        let (granter, permit) = Permit::granted(Moment::now(), Duration::from_secs(15));
        let running = Running::start_with(permit);
        running.enter(|bucket| bucket.missed_refills = policy);
        assert_eq!(running.until(62).await, [(10, 1)], "{policy:?}");
        granter.renew(Moment::now(), Duration::from_secs(60));
        assert_eq!(running.until(65).await, requested, "{policy:?}");
        assert_eq!(running.until(75).await, [(70, 1)], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_ticks_of_a_time_when_the_broker_accepted_nothing_go_by_the_policy() {
    // The newest is late by no more than lag.
    for (policy, requested) in [(Latest, [(60, 1)]), (Skip, [(60, 1)]), (All, [(60, 5)])] {
        let running = Running::start();
        running.enter(|bucket| bucket.missed_refills = policy);
        assert_eq!(running.until(12).await, [(10, 1)], "{policy:?}");
        running.refuse(true);
        assert_eq!(running.until(62).await, [], "{policy:?}");
        running.refuse(false);
        assert_eq!(running.until(65).await, requested, "{policy:?}");
        assert_eq!(running.until(75).await, [(70, 1)], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_soon_ends_costs_no_tick() {
    for policy in [Latest, Skip, All] {
        let running = Running::start();
        running.enter(|bucket| bucket.missed_refills = policy);
        running.refuse(true);
        assert_eq!(running.until(15).await, [], "{policy:?}");
        running.refuse(false);
        assert_eq!(running.until(19).await, [(10, 1)], "{policy:?}");
        assert_eq!(running.until(25).await, [(20, 1)], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_broker_and_a_short_absence_cost_no_tick() {
    for policy in [Latest, Skip, All] {
        let running = Running::start();
        running.enter(|bucket| bucket.missed_refills = policy);
        *running.broker.delay.lock().unwrap() = Duration::from_secs(25);
        let each = [(10, 1), (20, 1), (30, 1)];
        assert_eq!(running.until(39).await, each, "{policy:?}");
        advance(Duration::from_secs(5)).await;
        assert_eq!(running.until(49).await, [(40, 1)], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_costs_no_tick_that_is_due_already() {
    for policy in [Latest, Skip, All] {
        let running = Running::start();
        running.enter(|bucket| bucket.missed_refills = policy);
        *running.broker.delay.lock().unwrap() = Duration::from_secs(25);
        assert_eq!(running.until(22).await, [], "{policy:?}");
        running.enter(|bucket| {
            bucket.missed_refills = policy;
            bucket.amount += 1;
        });
        // The last may come twice, which the ledger knows.
        let mut ticks: Vec<_> = running.until(39).await;
        ticks.dedup_by_key(|(tick, _)| *tick);
        assert_eq!(ticks, [(10, 1), (20, 1), (30, 1)], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_fires_no_tick_again_and_none_before_its_time() {
    for policy in [Latest, Skip, All] {
        let running = Running::start();
        running.enter(|bucket| bucket.missed_refills = policy);
        assert_eq!(running.until(32).await, [(10, 1), (20, 1), (30, 1)]);
        running.set_clock(-25);
        // The wall clock is at 35 in the end.
        assert_eq!(running.until(60).await, [], "{policy:?}");
        assert_eq!(running.until(66).await, [(40, 1)], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ticks_older_than_the_starting_deadline_are_left_out() {
    for (deadline, requested) in [(25, vec![(60, 3)]), (5, vec![(60, 1)]), (1, vec![])] {
        let running = Running::start();
        running.enter(|bucket| {
            bucket.missed_refills = All;
            bucket.starting_deadline = Some(Duration::from_secs(deadline));
        });
        running.until(12).await;
        advance(Duration::from_secs(50)).await;
        assert_eq!(running.until(65).await, requested, "{deadline}");
    }
}

#[tokio::test(start_paused = true)]
async fn ticks_of_a_suspension_count_as_missed() {
    for (policy, requested) in [
        (Latest, vec![(60, 1)]),
        (Skip, vec![]),
        (All, vec![(60, 6)]),
    ] {
        let running = Running::start();
        running.enter(|bucket| {
            bucket.missed_refills = policy;
            bucket.suspend = true;
        });
        assert_eq!(running.until(62).await, [], "{policy:?}");
        running.enter(|bucket| bucket.missed_refills = policy);
        assert_eq!(running.until(65).await, requested, "{policy:?}");
        assert_eq!(running.until(75).await, [(70, 1)], "{policy:?}");
    }
}
