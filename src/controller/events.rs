//! Kubernetes events: what `kubectl describe` shows. Told on transitions only; a lost one is no harm.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{Quota, RateLimiter};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::ops::api_error::message;
use crate::ops::identity::PROGRAM;
use api::TokenBucket;
use bucket::BucketId;

/// Events that wait. When a broker with thousands of buckets goes away, the rest is dropped.
const WAITING: usize = 1000;
/// Events in a second, after a burst of [`BURST`]: they must not hold up the statuses.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
const BURST: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Something to tell about a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

impl Notice {
    /// Somebody should look.
    #[must_use]
    pub(super) fn warning(reason: &str, note: &str) -> Self {
        Self {
            warning: true,
            reason: reason.to_owned(),
            note: note.to_owned(),
        }
    }

    /// Good to know.
    #[must_use]
    pub(super) fn normal(reason: &str, note: &str) -> Self {
        Self {
            warning: false,
            reason: reason.to_owned(),
            note: note.to_owned(),
        }
    }

    /// Queues stay at a broker that nobody looks after any more.
    #[must_use]
    pub(super) fn left_behind(queues: &str, broker: &str, why: &str) -> Self {
        let note = format!(
            "these may be left behind at {broker}: {queues}. {why}. Delete them by hand when nobody needs them"
        );
        Self::warning("QueuesLeftBehind", &note)
    }

    /// Whether somebody should look.
    #[must_use]
    pub(super) fn is_warning(&self) -> bool {
        self.warning
    }
}

/// Takes events, and never makes anybody wait.
#[derive(Clone, Debug)]
pub(super) struct Events(mpsc::Sender<(ObjectReference, Notice)>);

impl Events {
    /// The handle, and the task that sends; it ends when all handles are gone.
    pub(super) fn new(client: Client, instance: &str) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, waiting) = mpsc::channel(WAITING);
        let reporter = Reporter {
            controller: PROGRAM.to_owned(),
            instance: Some(instance.to_owned()),
        };
        (Self(sender), send(Recorder::new(client, reporter), waiting))
    }

    /// An event about the resource `id` with that UID.
    pub(super) fn publish(&self, id: &BucketId, uid: &str, notice: Notice) {
        if self.0.try_send((reference(id, uid), notice)).is_err() {
            debug!(bucket = %id, "too many events: one is dropped");
        }
    }
}

async fn send(recorder: Recorder, mut waiting: mpsc::Receiver<(ObjectReference, Notice)>) {
    let budget = RateLimiter::direct(Quota::per_second(PER_SECOND).allow_burst(BURST));
    while let Some((
        reference,
        Notice {
            warning,
            reason,
            note,
        },
    )) = waiting.recv().await
    {
        budget.until_ready().await;
        let type_ = if warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = Event {
            type_,
            action: "Reconcile".to_owned(),
            reason,
            note: Some(shortened(note)),
            secondary: None,
        };
        match timeout(REQUEST_TIMEOUT, recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_namespace_terminating(&error) => {
                debug!(error = message(&error), "no event");
            }
            Ok(Err(error)) => warn!(error = message(&error), "cannot publish an event"),
            Err(_) => warn!("cannot publish an event: the API server did not answer in time"),
        }
    }
}

/// A namespace that is being deleted takes no events about what is deleted with it.
fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating")
}

/// The API server refuses notes of more than 1024 bytes.
fn shortened(mut note: String) -> String {
    if note.len() > 1024 {
        note.truncate(note.floor_char_boundary(1020));
        note.push('…');
    }
    note
}

fn reference(id: &BucketId, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(TokenBucket::api_version(&()).into_owned()),
        kind: Some(TokenBucket::kind(&()).into_owned()),
        namespace: Some(id.namespace().to_owned()),
        name: Some(id.name().to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = shortened("é".repeat(600));
        assert!(note.len() <= 1024 && note.ends_with("é…"), "{note}");
    }
}
