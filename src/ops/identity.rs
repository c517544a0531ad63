//! Who this process is, towards people, the lease and the broker.

use rand::RngExt;

pub(crate) use bucket::PROGRAM;

/// The name of this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the pod, else of the host.
    pub host: String,
    /// Holder of the lease.
    pub holder: String,
}

impl Identity {
    /// Of this process: `POD_NAME`, else the name of the host.
    #[must_use]
    pub fn of_this_process() -> Self {
        match std::env::var("POD_NAME") {
            Ok(pod) if !pod.is_empty() => Self::of_pod(pod),
            _ => Self::of_host(host_name()),
        }
    }

    /// A pod's name belongs to one process at a time: a container that comes back after a crash holds its lease still.
    fn of_pod(pod: String) -> Self {
        Self {
            holder: pod.clone(),
            host: pod,
        }
    }

    /// A host can run several replicas, so each of them holds the lease under a name of its own.
    fn of_host(host: String) -> Self {
        let suffix: u32 = rand::rng().random();
        Self {
            holder: format!("{host}_{suffix:08x}"),
            host,
        }
    }

    /// Name of connections to the broker.
    #[must_use]
    pub fn connection_name(&self) -> String {
        format!("{PROGRAM}/{}", self.host)
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_pod_is_the_holder_that_it_was() {
        assert_eq!(
            Identity::of_pod("operator-0".into()),
            Identity::of_pod("operator-0".into())
        );
    }

    #[test]
    fn two_replicas_on_one_host_are_two_holders() {
        let (one, other) = (
            Identity::of_host("pc".into()),
            Identity::of_host("pc".into()),
        );
        assert_ne!(one.holder, other.holder);
        assert_eq!(one.connection_name(), "token-bucket-operator/pc");
    }
}
