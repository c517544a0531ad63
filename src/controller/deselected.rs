//! Deselected resources: their labels were changed, so that the watch tells of them as it tells of deleted ones. They lose
//! the finalizer, for nobody here will be told of their deletion.

use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::scope::Scope;
use crate::ops::api_error::message;
use api::{FINALIZER, TokenBucket};
use bucket::BucketId;

/// Takes the names of resources that a watch lost, to release them.
#[derive(Clone, Debug)]
pub(super) struct Deselected(Option<mpsc::UnboundedSender<BucketId>>);

impl Deselected {
    /// The handle, and the task that releases them; it ends when all handles are gone.
    pub(super) fn new(client: Client, scope: &Scope) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, lost) = mpsc::unbounded_channel();
        // Without a selector, what the watch loses is deleted.
        (
            Self(scope.selector.is_some().then_some(sender)),
            release_all(client, lost),
        )
    }

    pub(super) fn release(&self, id: &BucketId) {
        if let Some(sender) = &self.0 {
            let _ = sender.send(id.clone());
        }
    }
}

async fn release_all(client: Client, mut lost: mpsc::UnboundedReceiver<BucketId>) {
    while let Some(id) = lost.recv().await {
        match remove_finalizer(&client, &id).await {
            Ok(true) => {
                info!(bucket = %id, "left the label selector: its queues stay, and it is nobody's concern here")
            }
            Ok(false) => {}
            Err(error) => {
                warn!(bucket = %id, error = message(&error), "cannot remove the finalizer from a bucket that left the selector")
            }
        }
    }
}

/// Whether the resource was there and had the finalizer.
async fn remove_finalizer(client: &Client, id: &BucketId) -> kube::Result<bool> {
    let api: Api<PartialObjectMeta<TokenBucket>> = Api::namespaced(client.clone(), id.namespace());
    let Some(object) = api.get_metadata_opt(id.name()).await? else {
        return Ok(false);
    };
    let rest: Vec<_> = object
        .finalizers()
        .iter()
        .filter(|finalizer| *finalizer != FINALIZER)
        .collect();
    if rest.len() == object.finalizers().len() {
        return Ok(false);
    }
    let patch =
        json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": rest}});
    api.patch_metadata(id.name(), &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(true)
}
