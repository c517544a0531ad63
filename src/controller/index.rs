//! All TokenBuckets that are known, and which of them name the same queue. No client required.
//!
//! Who comes takes nothing from anybody, so that only the departure of a resource concerns others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::conflict::{Conflict, Verdict};
use super::engine_registry::Assignment;
use super::interner::Interner;
use super::moves::Home;
use super::resource::{Guarded, id_of};
use amqp::Endpoint;
use api::{TokenBucket, TokenBucketStatus, from_time};
use bucket::{BucketId, Known};

/// A resource's claim to a queue, or to a place in its namespace. The smallest claim of several is the best: that of the oldest
/// resource, then of the smallest UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    created: DateTime<Utc>,
    /// UID of the resource.
    pub uid: Arc<str>,
    /// Whose claim it is.
    pub id: BucketId,
}

impl Claim {
    /// That of a resource.
    pub(super) fn of(object: &Guarded) -> Self {
        let created = object.creation_timestamp();
        Self {
            created: created.map(|time| from_time(&time)).unwrap_or_default(),
            uid: object.meta().uid.as_deref().unwrap_or_default().into(),
            id: id_of(object),
        }
    }
}

#[derive(Clone, Debug)]
struct IndexedResource {
    claim: Claim,
    /// None when the resource cannot be read: it claims nothing.
    queue: Option<Arc<str>>,
    /// It is known that its bucket was in force.
    established: bool,
    /// Where its ledger has named it last.
    home: Option<Arc<Home>>,
    /// The status that it came with, until its first reconciliation takes it.
    published: Option<Box<TokenBucketStatus>>,
    /// What that status says of its ledger, until the bucket is put in force.
    known: Option<Box<Known>>,
    /// Of the version that was last passed on to be reconciled.
    fingerprint: Option<u64>,
}

/// The resources that one or several watches have shown.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Boxed: a large value in each empty place of the map would be half of its memory.
    resources: HashMap<BucketId, Box<IndexedResource>>,
    homes: Interner<Home>,
    /// By queue, the best claim first.
    claims: HashMap<Arc<str>, Vec<Claim>>,
    /// By queue, where several resources name it.
    conflicts: HashMap<Arc<str>, Conflict>,
    /// By the scope of its watch: what a list that has begun has shown so far.
    listing: HashMap<Option<String>, HashSet<BucketId>>,
}

/// What a change of the index means for others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Resources that no longer exist.
    pub gone: Vec<BucketId>,
    /// Resources that wanted what one of them had.
    pub concerned: Vec<BucketId>,
}

impl Index {
    /// Takes note of what the watch of `scope` (a namespace, or all) shows.
    pub(super) fn observe(&mut self, scope: Option<&str>, event: &Event<Guarded>) -> Changes {
        let mut changes = Changes::default();
        let scope = scope.map(str::to_owned);
        match event {
            Event::Init => {
                self.listing.insert(scope, HashSet::new());
            }
            Event::InitApply(object) => {
                self.insert(object, &mut changes);
                self.listing.entry(scope).or_default().insert(id_of(object));
            }
            Event::InitDone => {
                let listed = self.listing.remove(&scope).unwrap_or_default();
                let missing = |id: &&BucketId| {
                    scope
                        .as_ref()
                        .is_none_or(|namespace| *namespace == id.namespace())
                        && !listed.contains(id)
                };
                let missing: Vec<_> = self.resources.keys().filter(missing).cloned().collect();
                for id in missing {
                    self.remove(&id, &mut changes);
                    changes.gone.push(id);
                }
            }
            Event::Apply(object) => self.insert(object, &mut changes),
            Event::Delete(object) => {
                let id = id_of(object);
                if self.holds(&id, object.meta().uid.as_deref()) {
                    self.remove(&id, &mut changes);
                    changes.gone.push(id);
                }
            }
        }
        changes
    }

    /// Whether the resource still exists, and is the same one.
    #[must_use]
    pub(super) fn holds(&self, id: &BucketId, uid: Option<&str>) -> bool {
        self.resources
            .get(id)
            .is_some_and(|indexed| Some(&*indexed.claim.uid) == uid)
    }

    /// All resources.
    #[must_use]
    pub(super) fn ids(&self) -> Vec<BucketId> {
        self.resources.keys().cloned().collect()
    }

    /// UID of a resource.
    #[must_use]
    pub(super) fn uid(&self, id: &BucketId) -> Option<&str> {
        self.resources.get(id).map(|indexed| &*indexed.claim.uid)
    }

    /// Who a resource is. What is known of one is the same text for every part of the program.
    #[must_use]
    pub(super) fn identity(&self, object: &impl ResourceExt) -> (BucketId, Arc<str>) {
        let (id, uid) = (id_of(object), object.meta().uid.as_deref());
        match self.resources.get(&id).map(|indexed| &indexed.claim) {
            Some(claim) if Some(&*claim.uid) == uid => (claim.id.clone(), claim.uid.clone()),
            _ => (id, uid.unwrap_or_default().into()),
        }
    }

    /// Whether a version of a resource with this fingerprint is to be reconciled: the one before had another.
    pub(super) fn is_news(&mut self, object: &impl ResourceExt, fingerprint: u64) -> bool {
        let indexed = self.resources.get_mut(&id_of(object));
        indexed.is_none_or(|indexed| indexed.fingerprint.replace(fingerprint) != Some(fingerprint))
    }

    /// The status that the resource had when it was first seen; None the second time.
    pub(super) fn take_published(&mut self, id: &BucketId) -> Option<Box<TokenBucketStatus>> {
        self.resources.get_mut(id)?.published.take()
    }

    /// What the status that the resource had when it was first seen says of its ledger; None the second time.
    pub(super) fn take_known(&mut self, id: &BucketId) -> Option<Known> {
        let known = self.resources.get_mut(id)?.known.take();
        known.map(|known| *known)
    }

    /// Whether `id` has its queue at `endpoint`, and who is to be reconciled besides. `assigned` tells what is in force.
    pub(super) fn ask(
        &mut self,
        id: &BucketId,
        endpoint: &Endpoint,
        assigned: impl Fn(&BucketId) -> Option<Assignment>,
    ) -> (Verdict, Vec<BucketId>) {
        let alone = (Verdict::Holds(None), Vec::new());
        let Some((claim, queue)) = self.claim_of(id) else {
            return alone;
        };
        let claims = self.claims.get(&queue).map_or(&[][..], Vec::as_slice);
        if claims.len() < 2 {
            return alone;
        }
        let conflict = self.conflicts.entry(queue).or_insert_with(|| {
            // Until now one of them was alone.
            let mut conflict = Conflict::default();
            for other in claims.iter().filter(|other| **other != claim) {
                if let Some(Assignment { endpoint, owns }) = assigned(&other.id) {
                    conflict.ask(other, &endpoint);
                    if owns {
                        conflict.owned(&endpoint, other);
                    }
                }
            }
            conflict
        });
        conflict.ask(&claim, endpoint)
    }

    /// Nothing is done for `id` because of what it says itself. Answers who is to be reconciled.
    pub(super) fn refused(&mut self, id: &BucketId) -> Vec<BucketId> {
        let Some((claim, queue)) = self.claim_of(id) else {
            return Vec::new();
        };
        let conflict = self.conflicts.get_mut(&queue);
        conflict.map_or_else(Vec::new, |conflict| conflict.leave(&claim, false))
    }

    /// The ledger of `id` at `home` names the resource with the UID `owner`. Answers who is to be reconciled.
    pub(super) fn owned(&mut self, id: &BucketId, home: Home, owner: &str) -> Vec<BucketId> {
        let endpoint = home.endpoint.clone();
        if let Some(indexed) = self.resources.get_mut(id)
            && *indexed.claim.uid == *owner
        {
            indexed.established = true;
            indexed.home = Some(self.homes.intern(Arc::new(home)));
        }
        let Some((_, queue)) = self.claim_of(id) else {
            return Vec::new();
        };
        let claims = self.claims.get(&queue).into_iter().flatten();
        let owner = claims.into_iter().find(|claim| *claim.uid == *owner);
        let conflict = self.conflicts.get_mut(&queue);
        let known = owner.zip(conflict);
        known.map_or_else(Vec::new, |(owner, conflict)| {
            conflict.owned(&endpoint, owner)
        })
    }

    /// Those that may have learnt whether they are at one broker.
    pub(super) fn contenders(&self) -> Vec<BucketId> {
        let conflicts = self.conflicts.values();
        conflicts
            .flat_map(|conflict| conflict.holders(|_| true))
            .collect()
    }

    /// Whose queue `id` waits for.
    #[must_use]
    pub(super) fn awaited_by(&self, id: &BucketId) -> Option<BucketId> {
        let (claim, queue) = self.claim_of(id)?;
        let holder = self.conflicts.get(&queue)?.awaited_by(&claim)?;
        Some(holder.id.clone())
    }

    /// Whether it is known that the bucket was in force.
    #[must_use]
    pub(super) fn is_established(&self, id: &BucketId) -> bool {
        self.resources.get(id).is_some_and(|it| it.established)
    }

    /// Where the bucket has its queues, as far as this process has seen it.
    #[must_use]
    pub(super) fn home(&self, id: &BucketId) -> Option<Arc<Home>> {
        self.resources.get(id)?.home.clone()
    }

    /// UIDs of the other resources that name the queue of `id`, but for those that are known to be elsewhere.
    #[must_use]
    pub(super) fn rivals(
        &self,
        id: &BucketId,
        is_elsewhere: impl Fn(&BucketId) -> bool,
    ) -> Box<[Arc<str>]> {
        let Some((own, queue)) = self.claim_of(id) else {
            return Box::default();
        };
        let claims = self.claims.get(&queue).into_iter().flatten();
        let others = claims.filter(|claim| **claim != own && !is_elsewhere(&claim.id));
        others.map(|claim| claim.uid.clone()).collect()
    }

    fn claim_of(&self, id: &BucketId) -> Option<(Claim, Arc<str>)> {
        let indexed = self.resources.get(id)?;
        Some((indexed.claim.clone(), indexed.queue.clone()?))
    }

    fn insert(&mut self, object: &Guarded, changes: &mut Changes) {
        let claim = Claim::of(object);
        let id = claim.id.clone();
        let bucket = object.0.as_ref().ok();
        let indexed = IndexedResource {
            claim,
            queue: bucket.map(|bucket| bucket.queue_name().into()),
            established: false,
            home: None,
            published: None,
            known: None,
            fingerprint: None,
        };
        if let Some(before) = self.resources.get(&id) {
            if before.claim == indexed.claim && before.queue == indexed.queue {
                return;
            }
            self.remove(&id, changes);
        }
        if let Some(queue) = &indexed.queue {
            let one = || Vec::with_capacity(1);
            let claims = self.claims.entry(queue.clone()).or_insert_with(one);
            let position = claims.partition_point(|other| *other < indexed.claim);
            claims.insert(position, indexed.claim.clone());
        }
        let known = bucket.and_then(known);
        let indexed = Box::new(IndexedResource {
            established: known.is_some(),
            published: bucket.and_then(|bucket| bucket.status.clone()),
            known: known.map(Box::new),
            ..indexed
        });
        self.resources.insert(id, indexed);
    }

    fn remove(&mut self, id: &BucketId, changes: &mut Changes) {
        let Some(IndexedResource {
            claim,
            queue: Some(queue),
            ..
        }) = self.resources.remove(id).map(|indexed| *indexed)
        else {
            return;
        };
        if let Some(conflict) = self.conflicts.get_mut(&queue) {
            changes.concerned.extend(conflict.leave(&claim, true));
        }
        if let Some(claims) = self.claims.get_mut(&queue) {
            claims.retain(|other| *other != claim);
            if claims.len() < 2 {
                self.conflicts.remove(&queue);
            }
            if claims.is_empty() {
                self.claims.remove(&queue);
            }
        }
    }
}

/// What the status of a resource says of the ledger of its bucket; None when it was written before there was one, or is
/// about a bucket of another name.
fn known(resource: &TokenBucket) -> Option<Known> {
    let status = resource.status.as_deref()?;
    if status.queue_name.as_ref() != Some(&resource.queue_name()) {
        return None;
    }
    let refill = status.last_refill.as_ref();
    let manual = status.last_handled_refill_request.as_deref();
    Some(Known {
        tick: refill.and_then(|refill| refill.scheduled_time.as_ref().map(from_time)),
        manual: manual.map(Into::into),
        requests: Vec::new(),
        issued: status.tokens_issued?,
    })
}

#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;
