//! How a status gets into the API: one merge patch of the status subresource, without a version, so that it never
//! conflicts.

use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::queue::Job;
use crate::ops::identity::PROGRAM;
use api::{TokenBucket, TokenBucketStatus};

/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Every field of a status, in the API's spelling.
const FIELDS: [&str; 10] = [
    "observedGeneration",
    "conditions",
    "queueName",
    "availableTokens",
    "observedAt",
    "maximum",
    "lastRefill",
    "nextRefillTime",
    "tokensIssued",
    "lastHandledRefillRequest",
];

/// Whether there was a resource to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Yes,
    Gone,
}

/// Writes a status. The answer is not read as a `TokenBucket`, so that malformed ones have a status too.
pub(super) async fn write(client: &Client, job: &Job) -> kube::Result<Written> {
    let resource = ApiResource::erase::<TokenBucket>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), job.id.namespace(), &resource);
    let params = PatchParams {
        field_manager: Some(PROGRAM.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(body(&job.uid, &job.status)?);
    match timeout(
        REQUEST_TIMEOUT,
        api.patch_status(job.id.name(), &params, &patch),
    )
    .await
    {
        Ok(Ok(_)) => Ok(Written::Yes),
        // 409: another resource has taken the name.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(Written::Gone),
        Ok(Err(error)) => Err(error),
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    }
}

/// A merge patch keeps what it does not name, so absent fields are named too.
fn body(uid: &str, status: &TokenBucketStatus) -> kube::Result<Value> {
    let mut fields: Map<String, Value> = FIELDS
        .iter()
        .map(|field| ((*field).to_owned(), Value::Null))
        .collect();
    if let Value::Object(present) = serde_json::to_value(status).map_err(kube::Error::SerdeError)? {
        fields.extend(present);
    }
    if let Some(Value::Object(refill)) = fields.get_mut("lastRefill") {
        refill.entry("scheduledTime").or_insert(Value::Null);
    }
    Ok(json!({"metadata": {"uid": uid}, "status": fields}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::crd;

    #[test]
    fn every_field_of_the_status_is_named() {
        let schema = &crd::schema()["properties"]["status"]["properties"];
        let mut fields: Vec<_> = schema.as_object().unwrap().keys().cloned().collect();
        let body = body("u1", &TokenBucketStatus::default()).unwrap();
        let mut named: Vec<_> = body["status"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        fields.sort();
        named.sort();
        assert_eq!(named, fields);
    }
}
