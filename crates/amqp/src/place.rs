//! Where queues are. A queue of one name is the same queue for all who are at one place, whatever name they reached it by.

use endpoint::Endpoint;

/// A virtual host of a broker, as far as it is known which broker that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// None: nobody has been connected yet.
    broker: Option<Identity>,
    vhost: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Identity {
    Cluster(Box<str>),
    Address(Box<str>, u16),
}

impl Place {
    /// Before anybody was connected: a name says nothing of the broker behind it.
    #[must_use]
    pub fn unknown(endpoint: &Endpoint) -> Self {
        Self {
            broker: None,
            vhost: endpoint.vhost().into(),
        }
    }

    /// Given what the broker says to be the name of its cluster, as all of its nodes do. One that tells none is known by its
    /// address.
    #[must_use]
    pub fn of(endpoint: &Endpoint, cluster: Option<&str>) -> Self {
        let broker = match cluster {
            Some(cluster) => Identity::Cluster(cluster.into()),
            None => Identity::Address(endpoint.host().into(), endpoint.port()),
        };
        Self {
            broker: Some(broker),
            ..Self::unknown(endpoint)
        }
    }

    /// Whether somebody was connected.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.broker.is_some()
    }

    /// Whether both are one place, for all that is known.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        let known = self.broker.as_ref().zip(other.broker.as_ref());
        self.vhost == other.vhost && known.is_none_or(|(one, another)| one == another)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_one_place_by_whatever_name() {
        let endpoint = |uri| Endpoint::parse(uri).unwrap();
        let (one, another) = (endpoint("amqp://a/v"), endpoint("amqp://b/v"));
        let cluster = Place::of(&one, Some("rabbit@x"));
        assert!(cluster.may_be(&Place::of(&another, Some("rabbit@x"))));
        assert!(!cluster.may_be(&Place::of(&one, Some("rabbit@y"))));
        assert!(!cluster.may_be(&Place::of(&endpoint("amqp://a/w"), Some("rabbit@x"))));
        assert!(cluster.may_be(&Place::unknown(&another)));
        assert!(!cluster.may_be(&Place::unknown(&endpoint("amqp://a/w"))));
        let untold = Place::of(&one, None);
        assert!(untold.may_be(&Place::of(&endpoint("amqp://u:p@a/v"), None)));
        assert!(!untold.may_be(&Place::of(&another, None)));
    }
}
