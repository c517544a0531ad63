use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

use super::{Namespace, SOON, Testbed, eventually};

/// Waits for an event with the reason `wanted` about the resource `of`.
pub async fn event(testbed: &Testbed, namespace: &Namespace<'_>, of: &str, wanted: &str) -> Event {
    let events: Api<Event> = Api::namespaced(testbed.client().await, namespace.name());
    eventually("an event", SOON, async || {
        let list = events
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let of_it = |event: &Event| {
            let name = event
                .regarding
                .as_ref()
                .and_then(|regarding| regarding.name.as_deref());
            name == Some(of) && event.reason.as_deref() == Some(wanted)
        };
        let reasons: Vec<_> = list
            .items
            .iter()
            .map(|event| event.reason.clone())
            .collect();
        list.items
            .into_iter()
            .find(of_it)
            .ok_or(format!("{reasons:?}"))
    })
    .await
}
