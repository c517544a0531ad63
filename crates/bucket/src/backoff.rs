//! How long to wait before the next try.

use std::time::Duration;

/// A pause after so many failures in a row, the first one being 0: it doubles from `first` up to `longest`. Jitter is the
/// caller's, as it is chance.
#[must_use]
pub fn backoff(first: Duration, failures: u32, longest: Duration) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    first
        .checked_mul(factor)
        .map_or(longest, |pause| pause.min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(15));
        let pause = |failures| backoff(first, failures, longest);
        assert_eq!(pause(0), first);
        assert_eq!(pause(3), first * 8);
        for failures in [8, 31, 32, 1_000] {
            assert_eq!(pause(failures), longest);
        }
    }
}
