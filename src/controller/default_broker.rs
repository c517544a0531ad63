//! Who may use the operator's own broker, and which refill queues there, as an administrator says. The account at that broker
//! is the operator's, and a refill queue is taken over whoever fills it. No client required.

use std::fmt;
use std::str::FromStr;

use engine::Phase;

/// What holds for buckets that name no Secret.
#[derive(Clone, Debug)]
pub struct DefaultBrokerRules {
    /// A virtual host that they name is one of these; none: they may name none.
    pub vhosts: Vec<Pattern>,
    /// Their refill queue is one of these.
    pub refill_queues: Vec<Pattern>,
    /// Their namespace is one of these; none: any.
    pub namespaces: Vec<Pattern>,
}

/// Names: `*` stands for any characters, also none, and everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

/// A text that is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a name, with * for any characters in it if need be, for example token_buckets.*")]
pub struct PatternError;

/// Why a bucket may not be at the operator's own broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAllowed {
    /// Its namespace may not.
    #[error(
        "buckets of namespace {namespace} may not be at the operator's own broker, whose --default-broker-namespaces are \
         {allowed}: name a Secret in spec.connection.secretRef, or have the namespace allowed"
    )]
    Namespace {
        /// As it is called.
        namespace: String,
        /// Those that may.
        allowed: String,
    },
    /// They may not be in that virtual host.
    #[error(
        "spec.connection.vhost: {vhost} is none of the virtual hosts at the operator's own broker that its \
         --default-broker-vhosts allows ({allowed}): leave it out for that of its --amqp-url, have yours allowed, or name a Secret \
         in spec.connection.secretRef"
    )]
    Vhost {
        /// As specified.
        vhost: String,
        /// Those that they may be in.
        allowed: String,
    },
    /// The refill queue is not one for buckets.
    #[error(
        "spec.refillQueue: {queue} is none of the refill queues at the operator's own broker, which its --refill-queues \
         allows ({allowed}): choose such a name, have yours allowed, or name a Secret in spec.connection.secretRef"
    )]
    RefillQueue {
        /// As specified.
        queue: String,
        /// Those that are.
        allowed: String,
    },
}

impl DefaultBrokerRules {
    /// Holds a bucket that names no Secret against the rules.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(super) fn check(
        &self,
        namespace: &str,
        vhost: Option<&str>,
        refill_queue: &str,
    ) -> Result<(), NotAllowed> {
        if !self.namespaces.is_empty() && !any(&self.namespaces, namespace) {
            return Err(NotAllowed::Namespace {
                namespace: namespace.to_owned(),
                allowed: listed(&self.namespaces),
            });
        }
        if let Some(vhost) = vhost.filter(|vhost| !any(&self.vhosts, vhost)) {
            return Err(NotAllowed::Vhost {
                vhost: vhost.to_owned(),
                allowed: listed(&self.vhosts),
            });
        }
        if !any(&self.refill_queues, refill_queue) {
            return Err(NotAllowed::RefillQueue {
                queue: refill_queue.to_owned(),
                allowed: listed(&self.refill_queues),
            });
        }
        Ok(())
    }
}

fn any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

fn listed(patterns: &[Pattern]) -> String {
    if patterns.is_empty() {
        return "none".to_owned();
    }
    let patterns: Vec<_> = patterns.iter().map(|it| &*it.0).collect();
    patterns.join(", ")
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else {
            return *self.0 == *name;
        };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(name) = name
            .strip_prefix(first)
            .and_then(|name| name.strip_suffix(last))
        else {
            return false;
        };
        // Each part where it comes first leaves most for those behind it.
        let mut parts = middle.split('*');
        let find = |name, part| str::split_once(name, part).map(|(_, behind)| behind);
        parts
            .try_fold(name, |name, part| match part {
                "" => Some(name),
                part => find(name, part),
            })
            .is_some()
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_name.then(|| Self(text.into())).ok_or(PatternError)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NotAllowed {
    /// The reason of the condition, the event and the metric.
    #[must_use]
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Namespace { .. } => "DefaultBrokerNotAllowed",
            Self::Vhost { .. } => "VhostNotAllowed",
            Self::RefillQueue { .. } => "RefillQueueNotAllowed",
        }
    }

    /// What it means for the bucket.
    #[must_use]
    pub(super) fn phase(&self) -> Phase {
        Phase::stalled(self.reason(), self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(name)
    }

    #[test]
    fn a_pattern_is_the_whole_name_with_stars_for_anything() {
        for (pattern, name) in [
            ("token_buckets.*", "token_buckets.refill"),
            ("token_buckets.*", "token_buckets."),
            ("*", "anything"),
            ("*.refill", "shop.refill"),
            ("a*b*c", "abc"),
            ("a*b*c", "axxbxxbc"),
            ("a**c", "abc"),
            ("exact", "exact"),
            ("*b*", "abc"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("token_buckets.*", "token_buckets"),
            ("token_buckets.*", "token_bucketsXrefill"),
            ("token_buckets.*", "my.token_buckets.refill"),
            ("exact", "exactly"),
            ("exact", "Exact"),
            ("ab*ba", "aba"),
            ("a*b*c", "acb"),
            ("a*b*b", "ab"),
            ("[a-z]", "a"),
            ("?", "a"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        for text in ["", " ", "a b", "grün"] {
            assert_eq!(text.parse::<Pattern>(), Err(PatternError), "{text}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        let patterns = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect();
        let rules = DefaultBrokerRules {
            vhosts: Vec::new(),
            refill_queues: patterns(&["token_buckets.*", "shop.refill"]),
            namespaces: patterns(&["team-*"]),
        };
        assert_eq!(rules.check("team-a", None, "shop.refill"), Ok(()));
        let said = rules.check("team-a", None, "orders").unwrap_err();
        assert_eq!(said.reason(), "RefillQueueNotAllowed");
        assert!(said.to_string().contains("token_buckets.*, shop.refill"));
        let said = rules.check("other", None, "shop.refill").unwrap_err();
        assert_eq!(said.reason(), "DefaultBrokerNotAllowed");
        assert!(said.to_string().contains("team-*"));
        let vhost =
            |rules: &DefaultBrokerRules, name| rules.check("team-a", Some(name), "shop.refill");
        let said = vhost(&rules, "shop").unwrap_err();
        assert_eq!(said.reason(), "VhostNotAllowed");
        assert!(
            said.to_string()
                .contains("--default-broker-vhosts allows (none)")
        );
        let vhosts = patterns(&["shop", "team-*"]);
        let rules = DefaultBrokerRules { vhosts, ..rules };
        assert_eq!(vhost(&rules, "team-b"), Ok(()));
        assert!(vhost(&rules, "/").is_err());
    }
}
