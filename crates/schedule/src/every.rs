//! The duration of `@every`, written as Go writes durations.

use thiserror::Error;

/// What is wrong with the duration of `@every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Not the form of a duration.
    #[error("is no duration; write numbers with the units h, m and s, such as 90s or 1h30m")]
    Shape,
    /// A number without a unit.
    #[error("has a number without a unit; write h, m or s behind it, such as 90s or 1h30m")]
    Unit,
    /// Below one second.
    #[error("is shorter than one second; write at least 1s")]
    TooShort,
    /// Not a multiple of one second.
    #[error("is not a whole number of seconds; ticks are whole seconds apart")]
    Fraction,
    /// More than Go's durations can hold.
    #[error("is too long; the longest is 2562047h (292 years)")]
    TooLong,
}

/// Nanoseconds.
const SECOND: u128 = 1_000_000_000;
const UNITS: [(&str, u128); 6] = [
    ("h", 3600 * SECOND),
    ("ms", SECOND / 1000),
    ("m", 60 * SECOND),
    ("us", SECOND / 1_000_000),
    ("ns", 1),
    ("s", SECOND),
];
/// Digits behind the point that can matter: the nineteenth is less than a nanosecond for every unit.
const DECIMALS: usize = 18;

/// Seconds, at least 1.
pub(super) fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(DurationError::Shape);
    }
    let mut nanoseconds = 0_u128;
    while !rest.is_empty() {
        let (whole, behind) = digits(rest);
        let (decimals, behind) = behind.strip_prefix('.').map_or(("", behind), digits);
        if whole.is_empty() && decimals.is_empty() {
            return Err(DurationError::Shape);
        }
        let unit = UNITS.iter().find(|(name, _)| behind.starts_with(name));
        let (name, unit) = unit.ok_or(DurationError::Unit)?;
        rest = &behind[name.len()..];

        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| DurationError::TooLong)?
        };
        let decimals = &decimals[..decimals.len().min(DECIMALS)];
        let scale = 10_u128.pow(decimals.len() as u32);
        let decimals: u128 = decimals.parse().unwrap_or_default();
        nanoseconds += u128::from(whole) * unit + decimals * unit / scale;
        if nanoseconds > i64::MAX as u128 {
            return Err(DurationError::TooLong);
        }
    }
    match (nanoseconds / SECOND, nanoseconds % SECOND) {
        (0, _) => Err(DurationError::TooShort),
        (seconds, 0) => i64::try_from(seconds).map_err(|_| DurationError::TooLong),
        _ => Err(DurationError::Fraction),
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, seconds) in [
            ("1s", 1),
            ("90s", 90),
            ("1h30m", 5400),
            ("1h30m10s", 5410),
            ("1.5h", 5400),
            (".5m", 30),
            ("1.m", 60),
            ("+2m", 120),
            ("1000ms", 1),
            ("500ms1500000us", 2),
            ("1000000000ns", 1),
            ("1.0000000000000000000000000001s", 1),
            ("2562047h", 9_223_369_200),
        ] {
            assert_eq!(parse_duration(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        for (text, error) in [
            ("", DurationError::Shape),
            ("-1h", DurationError::Shape),
            ("+", DurationError::Shape),
            ("h", DurationError::Shape),
            (".s", DurationError::Shape),
            ("1h ", DurationError::Shape),
            ("1h 30m", DurationError::Shape),
            ("90", DurationError::Unit),
            ("0", DurationError::Unit),
            ("1d", DurationError::Unit),
            ("1H", DurationError::Unit),
            ("0s", DurationError::TooShort),
            ("999ms", DurationError::TooShort),
            ("1500ms", DurationError::Fraction),
            ("0.1h0.5s", DurationError::Fraction),
            ("2562048h", DurationError::TooLong),
            ("99999999999999999999999999999999s", DurationError::TooLong),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }
}
