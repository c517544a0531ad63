//! The watch step: which changes of resources lead to a reconciliation. Client required.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures::future::ready;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use tracing::{debug, warn};

use super::context::Context;
use super::deselected::Deselected;
use super::resource::Guarded;
use super::scope::{Scope, api_of, streams_lists};
use super::validate::LONGEST_REQUEST;
use api::{ALERT_WHEN_EMPTY, FINALIZER, REFILL_REQUESTED_AT};

/// What is wrong with a resource that cannot be read repeats what is in it, in so many octets at most.
const LONGEST_ERROR: usize = 500;

/// Resources of one watch, and the stream of those that are to be reconciled.
pub(super) fn watch(
    scope: &Scope,
    namespace: Option<String>,
    context: Arc<Context>,
    deselected: Deselected,
) -> (
    Store<Guarded>,
    impl Stream<Item = watcher::Result<Guarded>> + Send + 'static,
) {
    let (store, writer) = reflector::store();
    let api: Api<Guarded> = api_of(&context.client, namespace.as_deref());
    let metadata = api_of(&context.client, namespace.as_deref());
    let scope = scope.clone();
    let known = context.clone();
    let stream = async move { streams_lists(&metadata).await }
        .into_stream()
        .flat_map(move |streams| {
            debug!(streams, "watching TokenBuckets");
            watcher(api.clone(), scope.config(streams))
        })
        .default_backoff()
        .inspect_ok(move |event| {
            let changes = context.index().observe(namespace.as_deref(), event);
            for id in &changes.gone {
                context.forget(id);
                deselected.release(id);
            }
            context.resolver.secrets().observe(event, &changes.gone);
            let moved = context.seats().observe(event, &changes.gone);
            context.triggers.send(&changes.concerned);
            context.triggers.send(&moved);
        })
        .inspect_err(
            |error| warn!(%error, "the watch of TokenBuckets is interrupted: trying again"),
        )
        .modify(strip)
        .reflect(writer)
        .applied_objects()
        .try_filter(move |object| ready(known.index().is_news(object, fingerprint(object))));
    (store, stream)
}

/// Takes away what no reconciliation needs: it would be most of the memory of a store with many resources.
fn strip(object: &mut Guarded) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.resource_version = None;
    meta.labels = meta.labels.take().and_then(|mut labels| {
        labels.retain(|key, _| key == ALERT_WHEN_EMPTY);
        (!labels.is_empty()).then_some(labels)
    });
    meta.owner_references = None;
    if let Some(finalizers) = &mut meta.finalizers {
        // Once its own is among them, only the place of that matters.
        if let Some(own) = finalizers.iter().position(|it| it == FINALIZER) {
            finalizers.truncate(own + 1);
            finalizers[..own].fill_with(String::new);
        }
        finalizers.shrink_to_fit();
    }
    meta.annotations = meta.annotations.take().and_then(|mut annotations| {
        let mut request = annotations.remove(REFILL_REQUESTED_AT)?;
        // One octet more than may be.
        let most = request.floor_char_boundary(LONGEST_REQUEST + char::MAX.len_utf8());
        request.truncate(most);
        request.shrink_to_fit();
        Some([(REFILL_REQUESTED_AT.to_owned(), request)].into())
    });
    match &mut object.0 {
        Ok(bucket) => bucket.status = None,
        Err(invalid) => {
            let most = invalid.error.floor_char_boundary(LONGEST_ERROR);
            invalid.error.truncate(most);
            invalid.error.shrink_to_fit();
        }
    }
}

/// Two versions of a resource with equal fingerprints are reconciled once. In particular the operator's own writes of the
/// status lead to no reconciliation.
fn fingerprint(object: &Guarded) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = object.meta();
    (
        &meta.uid,
        meta.generation,
        meta.deletion_timestamp.is_some(),
    )
        .hash(&mut hasher);
    object
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
        .hash(&mut hasher);
    object
        .annotations()
        .get(REFILL_REQUESTED_AT)
        .hash(&mut hasher);
    object.labels().get(ALERT_WHEN_EMPTY).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(change: impl FnOnce(&mut Value)) -> Guarded {
        let mut value = json!({
            "apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket",
            "metadata": {"name": "a", "namespace": "shop", "uid": "u1", "generation": 1, "resourceVersion": "1"},
            "spec": {"schedule": "@hourly", "amount": 1, "maximum": 1},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn same(change: impl FnOnce(&mut Value)) -> bool {
        fingerprint(&object(|_| ())) == fingerprint(&object(change))
    }

    #[test]
    fn a_status_needs_no_pass() {
        assert!(same(|it| {
            it["status"] = json!({"availableTokens": 7});
            it["metadata"]["resourceVersion"] = json!("2");
        }));
    }

    #[test]
    fn what_people_change_needs_a_pass() {
        assert!(!same(|it| it["metadata"]["generation"] = json!(2)));
        assert!(!same(|it| it["metadata"]["uid"] = json!("u2")));
        assert!(!same(
            |it| it["metadata"]["deletionTimestamp"] = json!("2026-11-24T10:00:07Z")
        ));
        assert!(!same(|it| it["metadata"]["finalizers"] = json!([FINALIZER])));
        assert!(!same(
            |it| it["metadata"]["annotations"] = json!({REFILL_REQUESTED_AT: "now"})
        ));
        assert!(same(
            |it| it["metadata"]["annotations"] = json!({"other": "now"})
        ));
        assert!(!same(
            |it| it["metadata"]["labels"] = json!({ALERT_WHEN_EMPTY: "true"})
        ));
        assert!(same(
            |it| it["metadata"]["labels"] = json!({"other": "true"})
        ));
    }

    #[test]
    fn nothing_is_kept_that_no_pass_needs() {
        let mut stored = object(|it| {
            it["status"] = json!({"availableTokens": 7});
            it["metadata"]["labels"] = json!({"team": "shop", ALERT_WHEN_EMPTY: "true"});
            it["metadata"]["annotations"] = json!({"other": "x", REFILL_REQUESTED_AT: "now"});
            it["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u"}]);
            it["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        });
        strip(&mut stored);
        let needed = object(|it| {
            it["metadata"]["labels"] = json!({ALERT_WHEN_EMPTY: "true"});
            it["metadata"]["annotations"] = json!({REFILL_REQUESTED_AT: "now"});
            it["metadata"]["resourceVersion"] = Value::Null;
        });
        assert_eq!(
            serde_json::to_value(stored.0.unwrap()).unwrap(),
            serde_json::to_value(needed.0.unwrap()).unwrap()
        );
    }

    #[test]
    fn a_malformed_resource_needs_a_pass_of_its_own_and_stops_no_other() {
        let malformed = object(|it| it["spec"]["amount"] = json!("many"));
        assert!(
            malformed
                .0
                .as_ref()
                .is_err_and(|error| error.error.contains("many"))
        );
        assert_eq!(malformed.name_any(), "a");
    }

    #[test]
    fn what_others_write_without_end_is_not_kept() {
        let mut stored = object(|it| {
            it["metadata"]["annotations"] = json!({REFILL_REQUESTED_AT: "ä".repeat(100_000)});
            it["metadata"]["finalizers"] = json!(["a/b", "x".repeat(60), FINALIZER, "c/d"]);
        });
        strip(&mut stored);
        let request = &stored.annotations()[REFILL_REQUESTED_AT];
        assert!(request.len() > LONGEST_REQUEST && request.capacity() < 200);
        // What is patched names the place of its own.
        assert_eq!(stored.finalizers(), ["", "", FINALIZER]);
        // Until that is added, the others have to be named.
        let others = json!(["a/b", "c/d"]);
        let mut new = object(|it| it["metadata"]["finalizers"] = others.clone());
        strip(&mut new);
        assert_eq!(json!(new.finalizers()), others);
    }
}
