//! Which TokenBuckets of a namespace are in force when there are more than may be: the oldest ones. No client required.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;

use kube::runtime::watcher::Event;

use super::index::Claim;
use super::resource::Guarded;
use bucket::BucketId;

/// The resources of each namespace: those in force and those that wait. By their claims, so that every replica and every start
/// judges alike.
#[derive(Debug)]
pub(super) struct Seats {
    most: Option<NonZeroU32>,
    residents: HashMap<BucketId, Claim>,
    namespaces: HashMap<Box<str>, Seated>,
}

#[derive(Debug, Default)]
struct Seated {
    /// The oldest ones.
    within: BTreeSet<Claim>,
    /// The others, all younger.
    beyond: BTreeSet<Claim>,
}

impl Seats {
    /// At most so many in force in each namespace; None: all of them, and nothing is remembered.
    pub(super) fn new(most: Option<NonZeroU32>) -> Self {
        Self {
            most,
            residents: HashMap::new(),
            namespaces: HashMap::new(),
        }
    }

    /// The limit, when the resource is beyond it.
    #[must_use]
    pub(super) fn beyond(&self, id: &BucketId) -> Option<NonZeroU32> {
        let seated = self.namespaces.get(id.namespace())?;
        let resident = self.residents.get(id)?;
        self.most.filter(|_| seated.beyond.contains(resident))
    }

    /// Takes note of what a watch shows; `gone` are the resources that it means the end of. Answers those that are to be
    /// judged again.
    pub(super) fn observe(&mut self, event: &Event<Guarded>, gone: &[BucketId]) -> Vec<BucketId> {
        let Some(most) = self.most else {
            return Vec::new();
        };
        let most = usize::try_from(most.get()).unwrap_or(usize::MAX);
        let mut moved: Vec<_> = gone.iter().filter_map(|id| self.remove(id)).collect();
        if let Event::Apply(object) | Event::InitApply(object) = event {
            moved.extend(self.insert(Claim::of(object), most));
        }
        moved
    }

    /// Answers who lost its seat.
    fn insert(&mut self, resident: Claim, most: usize) -> Vec<BucketId> {
        let id = resident.id.clone();
        if self.residents.get(&id) == Some(&resident) {
            return Vec::new();
        }
        // Deleted and created anew while nobody looked.
        let mut moved: Vec<_> = self.remove(&id).into_iter().collect();
        self.residents.insert(id.clone(), resident.clone());
        let seated = self.namespaces.entry(id.namespace().into()).or_default();
        seated.within.insert(resident);
        if seated.within.len() > most
            && let Some(youngest) = seated.within.pop_last()
        {
            moved.push(youngest.id.clone());
            seated.beyond.insert(youngest);
        }
        moved
    }

    /// Answers who gets its seat.
    fn remove(&mut self, id: &BucketId) -> Option<BucketId> {
        let resident = self.residents.remove(id)?;
        let seated = self.namespaces.get_mut(id.namespace())?;
        let next = if seated.within.remove(&resident) {
            seated.beyond.pop_first()
        } else {
            seated.beyond.remove(&resident);
            None
        };
        seated.within.extend(next.clone());
        if seated.within.is_empty() {
            self.namespaces.remove(id.namespace());
        }
        next.map(|next| next.id)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, second: u32, uid: &str) -> Guarded {
        serde_json::from_value(json!({
            "apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket",
            "metadata": {"name": name, "namespace": "shop", "uid": uid,
                         "creationTimestamp": format!("2026-11-24T10:00:{second:02}Z")},
            "spec": {"schedule": "@hourly", "amount": 1, "maximum": 1},
        }))
        .unwrap()
    }

    fn id(name: &str) -> BucketId {
        BucketId::new("shop", name)
    }

    fn seats(most: u32) -> Seats {
        Seats::new(NonZeroU32::new(most))
    }

    fn apply(seats: &mut Seats, name: &str, second: u32, uid: &str) -> Vec<BucketId> {
        seats.observe(&Event::Apply(object(name, second, uid)), &[])
    }

    fn waiting<'n>(seats: &Seats, names: &[&'n str]) -> Vec<&'n str> {
        let beyond = |name: &&&str| seats.beyond(&id(name)).is_some();
        names.iter().filter(beyond).copied().collect()
    }

    #[test]
    fn the_oldest_are_in_force_in_whatever_order_they_are_seen() {
        let all = [
            ("a", 1, "u1"),
            ("b", 2, "u3"),
            ("c", 2, "u2"),
            ("d", 3, "u4"),
        ];
        for turn in 0..all.len() {
            let mut seats = seats(2);
            for (name, second, uid) in all.iter().cycle().skip(turn).take(all.len()) {
                apply(&mut seats, name, *second, uid);
            }
            // Of one second the smaller UID counts.
            assert_eq!(waiting(&seats, &["a", "b", "c", "d"]), ["b", "d"], "{turn}");
        }
    }

    #[test]
    fn whoever_loses_or_gets_a_seat_is_judged_again() {
        let mut seats = seats(1);
        assert_eq!(apply(&mut seats, "young", 9, "u1"), []);
        assert_eq!(apply(&mut seats, "old", 1, "u2"), [id("young")]);
        assert_eq!(apply(&mut seats, "old", 1, "u2"), [], "a mere update");
        assert_eq!(apply(&mut seats, "later", 10, "u3"), [id("later")]);
        assert_eq!(
            seats.observe(&Event::InitDone, &[id("old")]),
            [id("young")],
            "the next in age"
        );
        assert_eq!(waiting(&seats, &["young", "later"]), ["later"]);
    }

    #[test]
    fn a_resource_that_was_created_anew_is_young() {
        let mut seats = seats(1);
        apply(&mut seats, "a", 1, "u1");
        apply(&mut seats, "b", 2, "u2");
        assert_eq!(
            apply(&mut seats, "a", 3, "u3"),
            [id("b"), id("a")],
            "both change places"
        );
        assert_eq!(waiting(&seats, &["a", "b"]), ["a"]);
    }

    #[test]
    fn nothing_is_remembered_of_what_is_gone_and_nothing_at_all_without_a_limit() {
        let mut seats = seats(1);
        apply(&mut seats, "a", 1, "u1");
        apply(&mut seats, "b", 2, "u2");
        seats.observe(&Event::InitDone, &[id("b"), id("a")]);
        assert!(seats.residents.is_empty() && seats.namespaces.is_empty());
        let mut unlimited = Seats::new(None);
        apply(&mut unlimited, "a", 1, "u1");
        assert!(unlimited.residents.is_empty());
    }
}
