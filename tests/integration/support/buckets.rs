use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use token_bucket_operator::api::{TokenBucket, TokenBucketStatus, from_time};

use super::{Namespace, Testbed, eventually};

/// How long anything may take that the operator does at once.
pub const SOON: Duration = Duration::from_secs(90);

/// A schedule of which nothing is due while a test runs.
pub const RARELY: &str = "0 0 1 1 *";

/// The TokenBuckets of one namespace.
pub struct Buckets {
    api: Api<TokenBucket>,
}

impl Buckets {
    pub async fn of(testbed: &Testbed, namespace: &Namespace<'_>) -> Self {
        let api = Api::namespaced(testbed.client().await, namespace.name());
        Self { api }
    }

    pub async fn create(&self, name: &str, spec: Value) -> TokenBucket {
        let bucket = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}));
        let bucket = bucket.expect("a TokenBucket");
        let created = self.api.create(&PostParams::default(), &bucket).await;
        created.expect("a good TokenBucket is accepted")
    }

    pub async fn get(&self, name: &str) -> Option<TokenBucket> {
        self.api
            .get_opt(name)
            .await
            .expect("the API server answers")
    }

    pub async fn status(&self, name: &str) -> TokenBucketStatus {
        let bucket = self.get(name).await;
        *bucket.and_then(|bucket| bucket.status).unwrap_or_default()
    }

    /// Merges a patch into the specification.
    pub async fn edit(&self, name: &str, spec: Value) {
        self.patch(name, json!({ "spec": spec })).await;
    }

    /// Asks for a refill, as `kubectl annotate` does.
    pub async fn request_refill(&self, name: &str, value: &str) {
        let annotations = json!({"tokenbucket.dev/refill-requested-at": value});
        self.patch(name, json!({"metadata": {"annotations": annotations}}))
            .await;
    }

    async fn patch(&self, name: &str, patch: Value) {
        let patched = self
            .api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.expect("the edit is accepted");
    }

    /// Asks for its deletion and does not wait.
    pub async fn begin_to_delete(&self, name: &str) {
        let deletion = self.api.delete(name, &Default::default()).await;
        deletion.expect("it can be deleted");
    }

    /// Deletes it and waits until it is gone.
    pub async fn delete(&self, name: &str) {
        self.begin_to_delete(name).await;
        eventually("the resource to be gone", SOON, async || {
            match self.get(name).await {
                Some(bucket) => Err(format!("{:?}", bucket.status)),
                None => Ok(()),
            }
        })
        .await;
    }

    /// Waits until the newest specification is in force.
    pub async fn ready(&self, name: &str) -> TokenBucketStatus {
        self.until(name, "it to be ready", |status| {
            condition(status, "Ready") == "True"
        })
        .await
    }

    /// Waits for a status of the newest generation.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&TokenBucketStatus) -> bool,
    ) -> TokenBucketStatus {
        eventually(what, SOON, async || {
            let bucket = self.get(name).await.ok_or("no such resource")?;
            let generation = bucket.metadata.generation;
            let status = *bucket.status.unwrap_or_default();
            if status.observed_generation == generation && holds(&status) {
                Ok(status)
            } else {
                Err(format!("generation {generation:?}: {status:#?}"))
            }
        })
        .await
    }
}

/// `True`, `False`, `Unknown`, or empty when there is no such condition.
pub fn condition<'s>(status: &'s TokenBucketStatus, kind: &str) -> &'s str {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind);
    condition
        .map(|condition| condition.status.as_str())
        .unwrap_or_default()
}

/// The reason of a condition, or empty.
pub fn reason<'s>(status: &'s TokenBucketStatus, kind: &str) -> &'s str {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind);
    condition
        .map(|condition| condition.reason.as_str())
        .unwrap_or_default()
}

/// The newest scheduled refill's due time.
pub fn last_tick(status: &TokenBucketStatus) -> Option<DateTime<Utc>> {
    let refill = status.last_refill.as_ref()?;
    refill.scheduled_time.as_ref().map(from_time)
}
