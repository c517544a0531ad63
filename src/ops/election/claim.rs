//! Who holds a lease, and for how long. Pure: the time is passed in.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use tokio::time::Instant;

/// The lease as last seen. Its age counts from when this replica saw it change, so the clocks of the replicas need
/// not agree.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    lease: Option<Lease>,
    changed: Instant,
}

impl Seen {
    pub(super) fn nothing(now: Instant) -> Self {
        Self {
            lease: None,
            changed: now,
        }
    }

    pub(super) fn update(&mut self, lease: Option<Lease>, now: Instant) {
        let spec = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.spec.clone());
        if spec(&self.lease) != spec(&lease) {
            self.changed = now;
        }
        self.lease = lease;
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    pub(super) fn holder(&self) -> Option<&str> {
        self.spec()?
            .holder_identity
            .as_deref()
            .filter(|holder| !holder.is_empty())
    }

    /// How long `candidate` has to wait from `now` until it may take the lease.
    pub(super) fn free_after(&self, candidate: &str, now: Instant) -> Duration {
        match self.holder() {
            None => Duration::ZERO,
            Some(holder) if holder == candidate => Duration::ZERO,
            Some(_) => {
                let seconds = self
                    .spec()
                    .and_then(|spec| spec.lease_duration_seconds)
                    .unwrap_or_default();
                let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
                (self.changed + duration).saturating_duration_since(now)
            }
        }
    }

    fn spec(&self) -> Option<&LeaseSpec> {
        self.lease.as_ref()?.spec.as_ref()
    }
}

/// The lease as `holder` writes it, to take or to renew it.
pub(super) fn claimed(
    current: Option<&Lease>,
    name: &str,
    holder: &str,
    duration: Duration,
) -> Lease {
    let now = MicroTime(Timestamp::now());
    let mut lease = current.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(holder) {
        spec.holder_identity = Some(holder.to_owned());
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(
            spec.lease_transitions
                .map_or(0, |transitions| transitions.saturating_add(1)),
        );
    }
    spec.renew_time = Some(now);
    spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
    lease
}

/// The lease as its holder leaves it: free at once.
pub(super) fn released(mut lease: Lease) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = None;
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    spec.lease_duration_seconds = Some(1);
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn held_by(holder: &str) -> Lease {
        claimed(None, "operator", holder, DURATION)
    }

    fn seen(lease: Lease, at: Instant) -> Seen {
        let mut seen = Seen::nothing(at);
        seen.update(Some(lease), at);
        seen
    }

    #[test]
    fn a_lease_that_is_absent_or_released_is_free() {
        let now = Instant::now();
        assert_eq!(Seen::nothing(now).free_after("b", now), Duration::ZERO);
        assert_eq!(
            seen(released(held_by("a")), now).free_after("b", now),
            Duration::ZERO
        );
    }

    #[test]
    fn a_lease_is_free_once_it_has_not_changed_for_its_duration() {
        let now = Instant::now();
        let seen = seen(held_by("a"), now);
        assert_eq!(
            seen.free_after("b", now + Duration::from_secs(5)),
            Duration::from_secs(10)
        );
        assert_eq!(seen.free_after("b", now + DURATION), Duration::ZERO);
    }

    #[test]
    fn a_renewal_starts_the_duration_again_and_a_second_look_does_not() {
        let now = Instant::now();
        let lease = held_by("a");
        let mut seen = seen(lease.clone(), now);
        seen.update(Some(lease.clone()), now + Duration::from_secs(5));
        assert_eq!(seen.free_after("b", now + DURATION), Duration::ZERO);
        let mut renewed = lease;
        renewed.spec.as_mut().unwrap().renew_time = Some(MicroTime(Timestamp::MAX));
        seen.update(Some(renewed), now + Duration::from_secs(5));
        assert_eq!(seen.free_after("b", now + DURATION), Duration::from_secs(5));
    }

    #[test]
    fn a_holder_that_comes_back_need_not_wait() {
        let now = Instant::now();
        assert_eq!(seen(held_by("a"), now).free_after("a", now), Duration::ZERO);
    }

    #[test]
    fn taking_a_lease_counts_as_a_transition_and_renewing_does_not() {
        let first = held_by("a");
        let renewed = claimed(Some(&first), "operator", "a", DURATION);
        let taken = claimed(Some(&renewed), "operator", "b", DURATION);
        let transitions = |lease: &Lease| lease.spec.as_ref().unwrap().lease_transitions;
        assert_eq!(
            [
                transitions(&first),
                transitions(&renewed),
                transitions(&taken)
            ],
            [Some(0), Some(0), Some(1)]
        );
        assert_eq!(
            renewed.spec.as_ref().unwrap().acquire_time,
            first.spec.as_ref().unwrap().acquire_time
        );
    }
}
