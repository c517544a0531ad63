//! What metrics call brokers: `default`, or `namespace/name` of a Secret. What is in a Secret must not be in a metric. No
//! client required.

use std::collections::HashMap;

use amqp::Endpoint;

/// The names of the brokers that buckets are at.
#[derive(Debug, Default)]
pub(super) struct BrokerNames(HashMap<Endpoint, String>);

impl BrokerNames {
    /// A bucket is at `broker` from now on. Where it has just come from the series stay: they are of the same name.
    pub(super) fn expect(&mut self, broker: &Endpoint, name: impl FnOnce() -> String) {
        self.0.entry(broker.clone()).or_insert_with(name);
    }

    /// `broker` is called so now. Answers a name that no broker has any more.
    pub(super) fn set(&mut self, broker: &Endpoint, name: &str) -> Option<String> {
        let before = self.0.insert(broker.clone(), name.to_owned())?;
        self.unused(before)
    }

    /// Nobody is at `broker`. Answers a name that no broker has any more.
    pub(super) fn remove(&mut self, broker: &Endpoint) -> Option<String> {
        let before = self.0.remove(broker)?;
        self.unused(before)
    }

    /// The brokers that have the same name: while a Secret changes there are two.
    pub(super) fn called<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b Endpoint> {
        let named = self.0.iter().filter(move |(_, other)| *other == name);
        named.map(|(broker, _)| broker)
    }

    /// The name of a broker.
    pub(super) fn get(&self, broker: &Endpoint) -> Option<&str> {
        self.0.get(broker).map(String::as_str)
    }

    fn unused(&self, name: String) -> Option<String> {
        let is_used = self.called(&name).next().is_some();
        (!is_used).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_with_the_last_broker_that_has_it() {
        let broker = |host| Endpoint::from_parts(host, 1, "/", "u", "p", false);
        let mut names = BrokerNames::default();
        assert_eq!(names.set(&broker("a"), "shop/rabbit"), None);
        assert_eq!(names.set(&broker("b"), "shop/rabbit"), None);
        assert_eq!(names.remove(&broker("a")), None, "the Secret was changed");
        assert_eq!(names.get(&broker("b")), Some("shop/rabbit"));
        assert_eq!(
            names.set(&broker("b"), "default").as_deref(),
            Some("shop/rabbit")
        );
        assert_eq!(names.remove(&broker("b")).as_deref(), Some("default"));
        assert!(names.0.is_empty());
    }

    #[test]
    fn a_name_stays_while_its_buckets_are_on_their_way_to_another_broker() {
        let broker = |user| Endpoint::from_parts("h", 1, "/", user, "p", false);
        let mut names = BrokerNames::default();
        names.expect(&broker("old"), || "default".to_owned());
        names.expect(&broker("new"), || "default".to_owned());
        assert_eq!(names.remove(&broker("old")), None);
        assert_eq!(names.remove(&broker("new")).as_deref(), Some("default"));
    }
}
