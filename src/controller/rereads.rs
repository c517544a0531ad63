//! When each Secret that buckets name is looked at again: all of them once in an interval, evenly spread over it, so that the
//! API server feels no burst of a thousand requests. No client required, and the time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::secrets::SecretName;

/// What a look at a Secret shows of it, which is not what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is there, in this version.
    Version(String),
    /// It is not there.
    Missing,
    /// The operator may not read it.
    Forbidden,
}

/// The plan.
#[derive(Debug, Default)]
pub(super) struct Rereads {
    interval: Duration,
    due: BTreeSet<(Instant, SecretName)>,
    planned: HashMap<SecretName, Planned>,
}

#[derive(Debug)]
struct Planned {
    at: Instant,
    seen: Option<Seen>,
}

impl Rereads {
    /// Nothing is planned. Each Secret will be looked at once in the interval.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            ..Self::default()
        }
    }

    /// A Secret is named from now on. `phase`, from 0 to 1, is its place in the interval.
    pub(super) fn add(&mut self, secret: &SecretName, now: Instant, phase: f64) {
        let at = now + self.interval.mul_f64(phase);
        if let Some(before) = self
            .planned
            .insert(secret.clone(), Planned { at, seen: None })
        {
            self.due.remove(&(before.at, secret.clone()));
        }
        self.due.insert((at, secret.clone()));
    }

    /// Nobody names it any more.
    pub(super) fn remove(&mut self, secret: &SecretName) {
        if let Some(planned) = self.planned.remove(secret) {
            self.due.remove(&(planned.at, secret.clone()));
        }
    }

    /// The Secret whose turn it is; the next turn is an interval later.
    ///
    /// # Errors
    /// When the next one is, if there is any.
    pub(super) fn next(&mut self, now: Instant) -> Result<SecretName, Option<Instant>> {
        let first = self.due.first().map(|(at, _)| *at);
        if first.is_none_or(|at| at > now) {
            return Err(first);
        }
        let (at, secret) = self.due.pop_first().ok_or(None)?;
        // By the plan, so that its place stays; later when there are more of them than there is time for.
        let next = (at + self.interval).max(now);
        if let Some(planned) = self.planned.get_mut(&secret) {
            planned.at = next;
        }
        self.due.insert((next, secret.clone()));
        Ok(secret)
    }

    /// Takes note of a look. Answers whether the Secret has to be read: what is in it may be new. One that is missing may be on its
    /// way, by a tool that deletes it to create it anew: that counts from the second look on.
    pub(super) fn saw(&mut self, secret: &SecretName, seen: Seen) -> bool {
        let Some(planned) = self.planned.get_mut(secret) else {
            return false;
        };
        let is_same = planned.seen.as_ref() == Some(&seen);
        let has_to_be_read = match seen {
            Seen::Version(_) => !is_same,
            Seen::Missing => is_same,
            Seen::Forbidden => true,
        };
        planned.seen = Some(seen);
        has_to_be_read
    }

    /// It could not be read.
    pub(super) fn forget_seen(&mut self, secret: &SecretName) {
        if let Some(planned) = self.planned.get_mut(secret) {
            planned.seen = None;
        }
    }

    /// Whether nothing is planned.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.planned.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn secret(name: &str) -> SecretName {
        ("shop".to_owned(), name.to_owned())
    }

    #[test]
    fn each_secret_is_looked_at_once_in_the_interval_and_their_looks_are_spread_over_it() {
        let (mut rereads, start) = (Rereads::new(MINUTE), Instant::now());
        for number in 0..60 {
            let phase = f64::from(number) / 60.0;
            rereads.add(&secret(&format!("s{number}")), start, phase);
        }
        let mut looks: HashMap<SecretName, u32> = HashMap::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            let mut at_once = 0;
            while let Ok(secret) = rereads.next(now) {
                *looks.entry(secret).or_default() += 1;
                at_once += 1;
            }
            assert!(at_once <= 2, "{at_once} in second {second}");
        }
        let of = |number: i32| looks[&secret(&format!("s{number}"))];
        assert!((0..60).all(|number| (9..=10).contains(&of(number))));
    }

    #[test]
    fn where_there_is_not_enough_time_none_is_left_out() {
        let (mut rereads, start) = (Rereads::new(MINUTE), Instant::now());
        for name in ["a", "b", "c"] {
            rereads.add(&secret(name), start, 0.0);
        }
        // One look takes the whole minute.
        let turns = (1..=6).map(|minute| rereads.next(start + MINUTE * minute).unwrap().1);
        assert_eq!(turns.collect::<Vec<_>>(), ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn only_another_version_has_to_be_read() {
        let mut rereads = Rereads::new(MINUTE);
        let (a, now) = (secret("a"), Instant::now());
        rereads.add(&a, now, 0.5);
        let version = |version: &str| Seen::Version(version.to_owned());
        for (seen, has_to_be_read) in [
            (version("1"), true),
            (version("1"), false),
            (version("2"), true),
            (Seen::Missing, false),
            (version("3"), true),
            (version("3"), false),
            (Seen::Missing, false),
            (Seen::Missing, true),
            (Seen::Forbidden, true),
        ] {
            assert_eq!(rereads.saw(&a, seen.clone()), has_to_be_read, "{seen:?}");
        }
        rereads.saw(&a, version("4"));
        rereads.forget_seen(&a);
        assert!(rereads.saw(&a, version("4")));
        assert!(!rereads.saw(&secret("of nobody"), version("1")));
    }

    #[test]
    fn nothing_is_planned_for_a_secret_that_nobody_names() {
        let (mut rereads, now) = (Rereads::new(MINUTE), Instant::now());
        assert_eq!(rereads.next(now), Err(None));
        rereads.add(&secret("a"), now, 0.0);
        rereads.add(&secret("b"), now, 0.5);
        assert_eq!(rereads.next(now), Ok(secret("a")));
        assert_eq!(rereads.next(now), Err(Some(now + MINUTE / 2)));
        rereads.remove(&secret("a"));
        rereads.remove(&secret("b"));
        assert!(rereads.is_empty());
    }
}
