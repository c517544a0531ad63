//! All TokenBuckets that are known, and which of them name the same queue. No client required.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::resource::{Guarded, id_of};
use api::{ConnectionSpec, TokenBucket, TokenBucketStatus, from_time};
use bucket::{BucketId, Known};

/// A resource's claim to a queue. The smallest claim of several owns it: the oldest resource, then the smallest UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    created: DateTime<Utc>,
    uid: Arc<str>,
    /// Whose claim it is.
    pub id: BucketId,
}

#[derive(Clone, Debug)]
struct IndexedResource {
    claim: Claim,
    /// None when the resource cannot be read: it claims nothing.
    queue: Option<Arc<str>>,
    connection: Option<Box<ConnectionSpec>>,
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
    /// By queue, the best claim first.
    claims: HashMap<Arc<str>, Vec<Claim>>,
    /// By the scope of its watch: what a list that has begun has shown so far.
    listing: HashMap<Option<String>, HashSet<BucketId>>,
}

/// What a change of the index means for others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Resources that no longer exist.
    pub gone: Vec<BucketId>,
    /// Resources whose claim has to be judged again.
    pub rivals: Vec<BucketId>,
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

    /// Resources that name the same queue as `id`: those with a better claim, and those with a worse one. Each with its
    /// connection, as the queue is the same only at the same broker.
    #[must_use]
    pub(super) fn rivals(&self, id: &BucketId) -> Rivals {
        let Some(IndexedResource {
            claim,
            queue: Some(queue),
            ..
        }) = self.resources.get(id).map(Box::as_ref)
        else {
            return Rivals::default();
        };
        let rival = |rival: &Claim| {
            let indexed = self.resources.get(&rival.id)?;
            Some((rival.id.clone(), indexed.connection.clone()))
        };
        let claims = || self.claims.get(queue).into_iter().flatten();
        Rivals {
            better: claims()
                .filter(|other| *other < claim)
                .filter_map(rival)
                .collect(),
            worse: claims()
                .filter(|other| *other > claim)
                .filter_map(rival)
                .collect(),
        }
    }

    fn insert(&mut self, object: &Guarded, changes: &mut Changes) {
        let id = id_of(object);
        let meta = object.meta();
        let claim = Claim {
            created: object
                .creation_timestamp()
                .map(|time| from_time(&time))
                .unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            id: id.clone(),
        };
        let (queue, connection) = match &object.0 {
            Ok(bucket) => (
                Some(bucket.queue_name().into()),
                bucket.spec.connection.clone(),
            ),
            Err(_) => (None, None),
        };
        let indexed = IndexedResource {
            claim,
            queue,
            connection,
            published: None,
            known: None,
            fingerprint: None,
        };
        if let Some(before) = self.resources.get_mut(&id) {
            if before.claim == indexed.claim && before.queue == indexed.queue {
                if before.connection != indexed.connection {
                    before.connection = indexed.connection;
                    self.push_rivals(&id, changes);
                }
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
        let bucket = object.0.as_ref().ok();
        let indexed = Box::new(IndexedResource {
            published: bucket.and_then(|bucket| bucket.status.clone()),
            known: bucket.and_then(known).map(Box::new),
            ..indexed
        });
        self.resources.insert(id.clone(), indexed);
        self.push_rivals(&id, changes);
    }

    fn remove(&mut self, id: &BucketId, changes: &mut Changes) {
        self.push_rivals(id, changes);
        let Some(IndexedResource {
            claim,
            queue: Some(queue),
            ..
        }) = self.resources.remove(id).map(|indexed| *indexed)
        else {
            return;
        };
        if let Some(claims) = self.claims.get_mut(&queue) {
            claims.retain(|other| *other != claim);
            if claims.is_empty() {
                self.claims.remove(&queue);
            }
        }
    }

    fn push_rivals(&self, id: &BucketId, changes: &mut Changes) {
        let Rivals { better, worse } = self.rivals(id);
        changes
            .rivals
            .extend(better.into_iter().chain(worse).map(|(id, _)| id));
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

/// Resources that name the same queue as another one, the best claim first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rivals {
    /// Older resources.
    pub better: Vec<(BucketId, Option<Box<ConnectionSpec>>)>,
    /// Younger resources.
    pub worse: Vec<(BucketId, Option<Box<ConnectionSpec>>)>,
}

#[cfg(test)]
mod tests;
