//! The label by which whoever manages a Secret allows its use. RBAC knows names, not labels.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A label that a Secret has to have: `KEY`, with any value, or `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretLabel {
    key: String,
    value: Option<String>,
}

/// The text is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a label, KEY or KEY=VALUE, for example tokenbucket.dev/broker=allowed")]
pub struct NoLabel;

impl SecretLabel {
    /// Whether it is one of these.
    pub(super) fn is_among(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }

    /// What `kubectl label` is told.
    pub(super) fn assignment(&self) -> String {
        format!("{}={}", self.key, self.value.as_deref().unwrap_or("true"))
    }
}

impl FromStr for SecretLabel {
    type Err = NoLabel;

    fn from_str(text: &str) -> Result<Self, NoLabel> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text, None),
        };
        // As far as a slip can be told; the API server has the whole rule.
        let label = |text: &str| {
            let allowed =
                |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
            text.chars().all(allowed)
        };
        if key.is_empty() || !label(key) || !value.is_none_or(label) {
            return Err(NoLabel);
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.map(str::to_owned),
        })
    }
}

impl fmt::Display for SecretLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_label_is_found_by_its_key_and_by_its_value_if_it_has_one() {
        let any: SecretLabel = "x/broker".parse().unwrap();
        let one: SecretLabel = "x/broker=yes".parse().unwrap();
        assert!(any.is_among(&labels("x/broker", "yes")));
        assert!(any.is_among(&labels("x/broker", "")));
        assert!(one.is_among(&labels("x/broker", "yes")));
        assert!(!one.is_among(&labels("x/broker", "no")));
        assert!(!any.is_among(&labels("broker", "yes")));
        assert!(!any.is_among(&BTreeMap::new()));
    }

    #[test]
    fn what_is_to_be_added_can_be_pasted() {
        let assignment = |text: &str| text.parse::<SecretLabel>().unwrap().assignment();
        assert_eq!(assignment("x/broker"), "x/broker=true");
        assert_eq!(assignment("x/broker=yes"), "x/broker=yes");
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for text in ["", "=yes", "a b", "a=b=c", "a,b", "a in (b)", "!a"] {
            assert_eq!(text.parse::<SecretLabel>(), Err(NoLabel), "{text:?}");
        }
    }
}
