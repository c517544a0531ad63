//! What the API server said lately. No clock: the time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// A right that is taken away is gone after this.
const ALLOWED_FOR: Duration = Duration::from_secs(60);
/// A right that is given is there after this.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Verdicts that are kept. Whoever invents tokens gets no more memory than that.
const KEPT: usize = 256;

/// A token and a path. The token cannot be read out of it.
pub(super) type Key = [u8; 32];

pub(super) fn key(token: &str, path: &str) -> Key {
    let hash = Sha256::new().chain_update(path).chain_update([0]);
    hash.chain_update(token).finalize().into()
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The owner of the token may.
    Allowed,
    /// The token is nobody's.
    Unknown,
    /// Its owner, by name, may not.
    Forbidden(String),
}

/// Verdicts, until they are too old.
#[derive(Debug, Default)]
pub(super) struct Verdicts(HashMap<Key, (Instant, Verdict)>);

impl Verdicts {
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Verdict> {
        let (until, verdict) = self.0.get(key)?;
        (now < *until).then(|| verdict.clone())
    }

    pub(super) fn put(&mut self, key: Key, verdict: Verdict, now: Instant) {
        if self.0.len() >= KEPT {
            self.0.retain(|_, (until, _)| now < *until);
        }
        // Refusals are the first to go, and they are what a flood of tokens makes.
        let first = self.0.iter().min_by_key(|(_, (until, _))| *until);
        if let Some(first) = first.map(|(key, _)| *key)
            && self.0.len() >= KEPT
        {
            self.0.remove(&first);
        }
        let lasts = match verdict {
            Verdict::Allowed => ALLOWED_FOR,
            Verdict::Unknown | Verdict::Forbidden(_) => REFUSED_FOR,
        };
        self.0.insert(key, (now + lasts, verdict));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_lasts_a_minute_and_a_refusal_ten_seconds() {
        let (mut verdicts, now) = (Verdicts::default(), Instant::now());
        let [allowed, unknown] = ["a", "b"].map(|token| key(token, "/metrics"));
        verdicts.put(allowed, Verdict::Allowed, now);
        verdicts.put(unknown, Verdict::Unknown, now);
        let known = |key, seconds| verdicts.get(key, now + Duration::from_secs(seconds));
        assert_eq!(known(&allowed, 59), Some(Verdict::Allowed));
        assert_eq!(known(&allowed, 60), None);
        assert_eq!(known(&unknown, 9), Some(Verdict::Unknown));
        assert_eq!(known(&unknown, 10), None);
    }

    #[test]
    fn a_verdict_is_about_one_path() {
        assert_ne!(key("a", "/"), key("a", "/metrics"));
        assert_ne!(key("a", "/"), key("b", "/"));
    }

    #[test]
    fn invented_tokens_take_no_memory_and_no_permission_away() {
        let (mut verdicts, now) = (Verdicts::default(), Instant::now());
        let allowed = key("a", "/metrics");
        verdicts.put(allowed, Verdict::Allowed, now);
        for invented in 0..10 * KEPT {
            let key = key(&invented.to_string(), "/metrics");
            verdicts.put(key, Verdict::Unknown, now);
            assert_eq!(verdicts.get(&key, now), Some(Verdict::Unknown));
        }
        assert_eq!(verdicts.0.len(), KEPT);
        assert_eq!(verdicts.get(&allowed, now), Some(Verdict::Allowed));
    }
}
