//! Triggers the reconciliation of resources that did not change themselves.

use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use super::resource::Guarded;
use bucket::BucketId;

/// Towards the controller of each scope: a namespace, or all.
#[derive(Clone, Debug, Default)]
pub(super) struct ReconcileTriggers(
    Vec<(Option<String>, mpsc::UnboundedSender<ObjectRef<Guarded>>)>,
);

impl ReconcileTriggers {
    /// The stream of triggers for a further scope.
    pub(super) fn of_scope(
        &mut self,
        scope: Option<&str>,
    ) -> mpsc::UnboundedReceiver<ObjectRef<Guarded>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.push((scope.map(str::to_owned), sender));
        receiver
    }

    /// Reconciles each of `ids`.
    pub(super) fn send(&self, ids: &[BucketId]) {
        for id in ids {
            for (scope, sender) in &self.0 {
                if scope
                    .as_ref()
                    .is_none_or(|namespace| *namespace == id.namespace())
                {
                    let _ = sender.send(ObjectRef::new(id.name()).within(id.namespace()));
                }
            }
        }
    }
}
