//! Which bucket, or which refill queue, makes the broker end the connection over an error of its own. The broker does not say.
//! So those for which something was under way are suspects: on the next connection one is tried after the other, and with the
//! one that is tried when it happens again nothing is done for a while. The others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use super::entry::Stage;
use super::event::Now;
use super::failure::{Class, Failure};
use super::outcome::Phase;
use crate::{BucketId, backoff};

/// How long nothing is done with one that was found: it doubles from the first to the last one.
const FIRST_REST: Duration = Duration::from_secs(30);
const LAST_REST: Duration = Duration::from_secs(600);
/// Refill queues that are suspects are opened one after the other, with such a pause.
const PAUSE: Duration = Duration::from_secs(1);

/// What something at the broker was under way for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspect {
    /// A bucket, by its name.
    Bucket(Arc<str>),
    /// A refill queue.
    Queue(Arc<str>),
}

/// Suspects of a broker. They outlive connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspects {
    /// To be tried, one after the other.
    untried: BTreeSet<Suspect>,
    tried: Option<Suspect>,
    found: BTreeMap<Suspect, Found>,
    /// What has failed with the connection, before its loss was told.
    failed: BTreeSet<Suspect>,
}

#[derive(Clone, Debug)]
struct Found {
    times: u32,
    until: Duration,
    failure: Failure,
}

/// What may be done with one at present.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Anything.
    Go,
    /// Another one is tried.
    Wait,
    /// Nothing until then.
    Rest(Duration, Failure),
}

impl Suspects {
    /// Something failed for it because the connection ended.
    pub(super) fn failed(&mut self, suspect: Suspect) {
        self.failed.insert(suspect);
    }

    /// The connection is gone while something was under way for these.
    fn lost(&mut self, under_way: BTreeSet<Suspect>, failure: Option<&Failure>, now: Now) {
        let tried = self.tried.take();
        let failed = std::mem::take(&mut self.failed);
        let crash = failure.filter(|failure| failure.class == Class::Crash);
        let Some(failure) = crash else {
            self.untried.extend(tried);
            return;
        };
        let all: BTreeSet<_> = under_way.into_iter().chain(failed).collect();
        let only = (all.len() == 1).then(|| all.first().cloned()).flatten();
        // A refill queue that is opened again.
        let again = || {
            let is_known = |it: &&Suspect| self.untried.contains(it) || self.found.contains_key(it);
            let mut known = all.iter().filter(is_known);
            known.next().cloned().filter(|_| known.next().is_none())
        };
        let Some(culprit) = tried.or(only).or_else(again) else {
            self.untried.extend(all);
            return;
        };
        self.untried.remove(&culprit);
        let times = self.found.get(&culprit).map_or(0, |found| found.times);
        let found = Found {
            times: times + 1,
            until: now.monotonic + backoff(FIRST_REST, times, LAST_REST),
            failure: failure.clone(),
        };
        self.found.insert(culprit, found);
    }

    /// Asks before something is begun for it.
    pub(super) fn may(&mut self, suspect: &Suspect, now: Now) -> Verdict {
        let found = self.found.get(suspect);
        if let Some(found) = found.filter(|found| found.until > now.monotonic) {
            return Verdict::Rest(found.until, found.failure.clone());
        }
        if found.is_none() && !self.untried.contains(suspect) {
            return Verdict::Go;
        }
        match &self.tried {
            Some(tried) if tried != suspect => Verdict::Wait,
            _ => {
                self.tried = Some(suspect.clone());
                Verdict::Go
            }
        }
    }

    /// It was tried, and the connection lives.
    pub(super) fn is_clear(&mut self, suspect: &Suspect) {
        self.tried.take_if(|tried| tried == suspect);
        self.untried.remove(suspect);
        self.found.remove(suspect);
    }

    fn is_empty(&self) -> bool {
        self.untried.is_empty() && self.found.is_empty()
    }
}

impl Machine {
    /// The connection is gone: what was under way may be the reason.
    pub(super) fn suspect(&mut self, failure: Option<&Failure>, now: Now) {
        let buckets = self.buckets.values().filter(|entry| {
            entry.batch.is_some()
                || matches!(entry.stage, Stage::Inspecting(job) if self.inspections.is_begun(job))
                || (entry.is_ready() && self.counter.is_counting())
        });
        let buckets = buckets.map(|entry| entry.bucket.name.clone());
        let all = buckets.chain(self.removals.under_way());
        let under_way: BTreeSet<_> = all.map(Suspect::Bucket).collect();
        let queues = self.queues.by_name.values();
        let queues = queues.filter(|queue| queue.is_opening());
        let queues = queues.map(|queue| Suspect::Queue(queue.name.clone()));
        let all = under_way.into_iter().chain(queues).collect();
        self.suspects.lost(all, failure, now);
    }

    /// Something fails for a bucket because the connection has ended.
    pub(super) fn failed_with_connection(&mut self, id: &BucketId) {
        if let Some(entry) = self.buckets.get(id) {
            let name = entry.bucket.name.clone();
            self.suspects.failed(Suspect::Bucket(name));
        }
    }

    /// A bucket that is tried has come as far as it comes.
    pub(super) fn end_trial(&mut self) {
        let tried = self.suspects.tried.clone();
        let Some(Suspect::Bucket(name)) = &tried else {
            return;
        };
        let entry = self.names.get(name).and_then(|id| self.buckets.get(id));
        let goes_on = entry.is_some_and(|entry| {
            matches!(
                entry.stage,
                Stage::Unknown | Stage::Inspecting(_) | Stage::Opening(_)
            )
        });
        if !goes_on && !self.removals.is_under_way(name) {
            self.suspects.is_clear(&Suspect::Bucket(name.clone()));
        }
    }

    /// On a new connection, refill queues that are suspects are opened one after the other, and those that were found later.
    pub(super) fn pause_queues(&mut self, now: Now) {
        if self.suspects.is_empty() {
            return;
        }
        let mut at = now.monotonic;
        let mut told = Vec::new();
        for (name, queue) in &mut self.queues.by_name {
            let suspect = Suspect::Queue(name.clone());
            if let Some(found) = self.suspects.found.get(&suspect) {
                let _ = queue.closed(Some(found.until));
                let users = queue.users.iter().cloned();
                told.extend(users.map(|id| (id, Phase::of(&found.failure))));
            } else if self.suspects.untried.contains(&suspect) {
                let _ = queue.closed(Some(at));
                at += PAUSE;
            }
        }
        for (id, phase) in told {
            self.show(&id, phase);
        }
    }

    /// Nothing is done for a bucket until then.
    pub(super) fn rest(&mut self, id: &BucketId, until: Duration, failure: &Failure) {
        self.sleep(id, until);
        self.show(id, Phase::of(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::at;

    fn now(second: u64) -> Now {
        Now {
            utc: at(0),
            monotonic: Duration::from_secs(second),
        }
    }

    fn bucket(name: &str) -> Suspect {
        Suspect::Bucket(name.into())
    }

    fn failure(class: Class) -> Failure {
        Failure {
            reason: "Told",
            message: "told".into(),
            class,
        }
    }

    #[test]
    fn the_one_that_is_tried_when_it_happens_again_rests_ever_longer() {
        let mut suspects = Suspects::default();
        let crash = Some(&failure(Class::Crash));
        let all = ["a", "b", "c"].map(bucket);
        suspects.lost(all.clone().into(), crash, now(0));
        let [a, b, c] = &all;
        assert_eq!(suspects.may(&bucket("d"), now(1)), Verdict::Go);
        assert_eq!(suspects.may(a, now(1)), Verdict::Go);
        assert_eq!(suspects.may(b, now(1)), Verdict::Wait);
        suspects.is_clear(a);
        assert_eq!(suspects.may(b, now(1)), Verdict::Go);
        suspects.lost([b.clone(), bucket("d")].into(), crash, now(2));
        for (from, rest) in [(2, 30), (32, 60), (92, 120)] {
            let resting = suspects.may(b, now(from));
            assert!(
                matches!(resting, Verdict::Rest(until, _) if until == now(from + rest).monotonic)
            );
            assert_eq!(suspects.may(b, now(from + rest)), Verdict::Go);
            assert_eq!(suspects.may(c, now(from + rest)), Verdict::Wait);
            suspects.lost([b.clone()].into(), crash, now(from + rest));
        }
        // It was mended.
        assert_eq!(suspects.may(b, now(1_000)), Verdict::Go);
        suspects.is_clear(b);
        assert_eq!(suspects.may(c, now(1_000)), Verdict::Go);
        suspects.is_clear(c);
        assert!(suspects.is_empty());
    }

    #[test]
    fn another_end_of_a_connection_makes_no_suspect() {
        let mut suspects = Suspects::default();
        suspects.failed(bucket("a"));
        let lost = failure(Class::ConnectionLost);
        suspects.lost([bucket("b")].into(), Some(&lost), now(0));
        suspects.lost([bucket("b")].into(), None, now(0));
        assert!(suspects.is_empty());
    }
}
