//! When tokens are counted: at an interval, and soon after something was committed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Machine;
use super::effect::Effect;
use super::event::Now;
use super::failure::Failure;
use super::outcome::{Observed, Outcome};
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
    /// A count is under way.
    counting: bool,
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
            counting: false,
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.interval);
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
        if self.counting || self.wakeup()? > now.monotonic {
            return None;
        }
        self.counting = true;
        if self.sweep_at <= now.monotonic {
            self.sweep_at = now.monotonic + self.interval;
            self.soon.clear();
            return Some(Wanted::All);
        }
        Some(Wanted::These(std::mem::take(&mut self.soon)))
    }

    pub(super) fn counted(&mut self) {
        self.counting = false;
    }

    pub(super) fn wakeup(&self) -> Option<Duration> {
        let soon = (!self.soon.is_empty()).then_some(self.soon_at);
        let next = soon.into_iter().chain([self.sweep_at]).min();
        next.filter(|_| !self.counting)
    }
}

/// Ten thousand buckets that nobody uses are no news every few seconds: a count that stays the same is told once in each
/// minute.
fn is_news(before: Observed, now: Observed) -> bool {
    let minute = |count: Observed| count.at.timestamp().div_euclid(60);
    before.tokens != now.tokens || minute(before) != minute(now)
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
        self.counter.counted();
        for (id, count) in counts {
            if !self.buckets.get(&id).is_some_and(|entry| entry.is_ready()) {
                continue;
            }
            match count {
                Ok(Some(tokens)) => {
                    let at = now.utc;
                    let observed = Observed { tokens, at };
                    self.update(&id, |state| {
                        let is_news = |before| is_news(before, observed);
                        if state.observed.is_none_or(is_news) {
                            state.observed = Some(observed);
                        }
                    });
                }
                Ok(None) => {
                    self.tell(Outcome::QueueMissing(id.clone()));
                    self.inspect(&id);
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::at;

    #[test]
    fn a_count_is_news_when_it_differs_or_is_the_first_of_a_minute() {
        let count = |tokens, second| Observed {
            tokens,
            at: at(second),
        };
        for (before, now, news) in [
            (count(5, 0), count(5, 10), false),
            (count(5, 0), count(6, 10), true),
            (count(5, 59), count(5, 60), true),
            // The clock was set back.
            (count(5, 3600), count(5, 10), true),
        ] {
            assert_eq!(is_news(before, now), news, "{before:?} {now:?}");
        }
    }

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
