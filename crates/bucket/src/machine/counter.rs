//! When tokens are counted: at an interval, and soon after something was committed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Machine;
use super::effect::Effect;
use super::event::Now;
use super::failure::{Class, Failure};
use super::outcome::Observed;
use crate::BucketId;

/// Commits come many a second: their buckets are counted together, when there has been none for so long …
const SOON: Duration = Duration::from_millis(200);
/// … or after so long. Counts in the middle of a tick of many buckets would take the broker's time from its refills.
const AT_LAST: Duration = Duration::from_secs(5);

/// Which counts are wanted.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    interval: Duration,
    sweep_at: Duration,
    soon: BTreeSet<BucketId>,
    soon_since: Duration,
    soon_at: Duration,
    /// The count that is under way.
    counting: Option<Count>,
}

/// A count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    /// All buckets, at the interval.
    Sweep,
    /// Some, soon after something was committed.
    Soon,
}

/// What to count.
#[derive(Debug, PartialEq)]
pub(super) enum Wanted {
    All,
    These(BTreeSet<BucketId>),
}

impl Counter {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            sweep_at: Duration::ZERO,
            soon: BTreeSet::new(),
            soon_since: Duration::ZERO,
            soon_at: Duration::ZERO,
            counting: None,
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.interval);
    }

    pub(super) fn is_counting(&self) -> bool {
        self.counting.is_some()
    }

    /// A bucket is counted soon, apart from the interval.
    pub(super) fn soon(&mut self, id: BucketId, now: Now) {
        if self.soon.is_empty() {
            self.soon_since = now.monotonic;
        }
        self.soon_at = (now.monotonic + SOON).min(self.soon_since + AT_LAST);
        self.soon.insert(id);
    }

    /// What to count now, one count after the other.
    pub(super) fn next(&mut self, now: Now) -> Option<Wanted> {
        if self.wakeup()? > now.monotonic {
            return None;
        }
        let soon = std::mem::take(&mut self.soon);
        let (count, wanted) = if self.sweep_at <= now.monotonic {
            self.sweep_at = now.monotonic + self.interval;
            (Count::Sweep, Wanted::All)
        } else {
            (Count::Soon, Wanted::These(soon))
        };
        self.counting = Some(count);
        Some(wanted)
    }

    /// A count has ended. Answers whether it was a sweep.
    pub(super) fn counted(&mut self) -> bool {
        self.counting.take() == Some(Count::Sweep)
    }

    pub(super) fn wakeup(&self) -> Option<Duration> {
        let soon = (!self.soon.is_empty()).then_some(self.soon_at);
        let next = soon.into_iter().chain([self.sweep_at]).min();
        next.filter(|_| self.counting.is_none())
    }
}

impl Machine {
    pub(super) fn count(&mut self, wanted: &Wanted) {
        let wanted_one = |id| match wanted {
            Wanted::All => true,
            Wanted::These(ids) => ids.contains(id),
        };
        let entries = self.buckets.iter();
        let counted = entries.filter(|(id, entry)| entry.is_ready() && wanted_one(*id));
        let buckets: Vec<_> = counted
            .map(|(id, entry)| (id.clone(), entry.bucket.name.clone()))
            .collect();
        if buckets.is_empty() {
            self.counter.counted();
        } else {
            self.effects.push(Effect::Count { buckets });
        }
    }

    pub(super) fn counted(
        &mut self,
        counts: Vec<(BucketId, Result<Option<u64>, Failure>)>,
        now: Now,
    ) {
        let swept = self.counter.counted();
        for (id, count) in counts {
            let Some(entry) = self.buckets.get_mut(&id).filter(|entry| entry.is_ready()) else {
                continue;
            };
            let maximum = entry.bucket.maximum;
            match count {
                // Somebody has put more into it than it may hold, or declared its queue anew with another limit.
                Ok(Some(tokens)) if tokens > maximum && swept => self.inspect(&id),
                Ok(Some(tokens)) => {
                    entry.fell |= entry.state.observed.is_some_and(|it| tokens < it.tokens);
                    let at = now.utc;
                    self.update(&id, |state| state.observe(Observed { tokens, at }));
                }
                Ok(None) => self.inspect(&id),
                // That says what it is, and when it is over.
                Err(Failure {
                    class: Class::InUse | Class::Transient | Class::Unavailable | Class::Person,
                    ..
                }) if swept => self.inspect(&id),
                Err(Failure {
                    class: Class::ConnectionLost | Class::Crash,
                    ..
                }) => self.failed_with_connection(&id),
                Err(_) => {}
            }
        }
        if swept {
            self.inspect_fallen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::at;

    #[test]
    fn commits_in_a_row_are_counted_together_but_not_for_ever_later() {
        let now = |millis| Now {
            utc: at(0),
            monotonic: Duration::from_millis(millis),
        };
        let id = |name| BucketId::new("shop", name);
        let mut counter = Counter::new(Duration::from_secs(60));
        assert_eq!(counter.next(now(0)), Some(Wanted::All));
        counter.counted();
        counter.soon(id("a"), now(100));
        assert_eq!(counter.next(now(250)), None);
        counter.soon(id("b"), now(250));
        assert_eq!(counter.wakeup(), Some(Duration::from_millis(450)));
        let both = [id("a"), id("b")].into();
        assert_eq!(counter.next(now(450)), Some(Wanted::These(both)));
        counter.counted();
        for millis in (1_000..=6_000).step_by(100) {
            counter.soon(id("a"), now(millis));
        }
        assert_eq!(counter.wakeup(), Some(Duration::from_millis(6_000)));
    }
}
