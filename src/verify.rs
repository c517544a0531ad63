//! Tries the operator of a cluster with the life of one bucket: create, wait until it is filled, delete.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{DeleteParams, PostParams};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::{self, await_condition};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::timeout;

use api::TokenBucket;
use api::conditions::{READY, RECONCILING, STALLED};

/// Why the operator does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The API server does not take the TokenBucket.
    #[error(
        "cannot create a TokenBucket in namespace {namespace}: {error}; is the CustomResourceDefinition installed, and \
         may this user create tokenbuckets?"
    )]
    Create {
        /// Where it was to be created.
        namespace: String,
        /// What the API server says.
        error: Box<kube::Error>,
    },
    /// The TokenBucket cannot be followed.
    #[error("cannot follow the TokenBucket {name}: {error}")]
    Follow {
        /// Its name.
        name: String,
        /// What the API server says.
        error: Box<wait::Error>,
    },
    /// The operator says that a person has to do something.
    #[error("the operator refuses the TokenBucket: {0}")]
    Stalled(String),
    /// It took too long.
    #[error("the TokenBucket was not {doing} within {} s: {state}", limit.as_secs())]
    Late {
        /// What it was to become.
        doing: &'static str,
        /// How long it was given.
        limit: Duration,
        /// How far it came.
        state: String,
    },
    /// The TokenBucket cannot be deleted.
    #[error("cannot delete the TokenBucket {name}: {error}")]
    Delete {
        /// Its name.
        name: String,
        /// What the API server says.
        error: Box<kube::Error>,
    },
}

/// What to try.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Namespace of the TokenBucket.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Secret that names its broker; without one it is the operator's.
    pub secret: Option<String>,
    /// Virtual host of its queues; without one it is that of the broker.
    pub vhost: Option<String>,
    /// How long each step may take.
    pub limit: Duration,
}

/// Creates a TokenBucket that starts with one token, waits until the operator has filled it, and deletes it.
///
/// # Errors
/// Says which step failed and why. The TokenBucket is deleted in any case.
pub async fn verify(client: Client, trial: &Trial) -> Result<(), VerifyError> {
    let limit = trial.limit;
    let api: Api<TokenBucket> = Api::namespaced(client, &trial.namespace);
    let created = api.create(&PostParams::default(), &bucket(trial)).await;
    let bucket = created.map_err(|error| VerifyError::Create {
        namespace: trial.namespace.clone(),
        error: Box::new(error),
    })?;
    let name = bucket.name_any();
    let filled = filled(&api, &name, limit).await;
    let deleted = api.delete(&name, &DeleteParams::default()).await;
    filled?;
    deleted.map_err(|error| VerifyError::Delete {
        name: name.clone(),
        error: Box::new(error),
    })?;
    let uid = bucket.uid().unwrap_or_default();
    let gone = is_deleted(&uid);
    match timeout(limit, await_condition(api, &name, gone)).await {
        Ok(gone) => gone.map(drop).map_err(|error| VerifyError::Follow {
            name,
            error: Box::new(error),
        }),
        Err(_) => Err(VerifyError::Late {
            doing: "gone",
            limit,
            state: "the operator has not removed its finalizer; see its log".to_owned(),
        }),
    }
}

fn bucket(trial: &Trial) -> TokenBucket {
    let mut bucket = json!({
        "metadata": {"generateName": "verify-", "labels": trial.labels},
        "spec": {"schedule": "@yearly", "amount": 1, "maximum": 1, "initialTokens": 1},
    });
    if let Some(name) = &trial.secret {
        bucket["spec"]["connection"]["secretRef"] = json!({"name": name});
    }
    if let Some(vhost) = &trial.vhost {
        bucket["spec"]["connection"]["vhost"] = json!(vhost);
    }
    serde_json::from_value(bucket).expect("this is a TokenBucket")
}

async fn filled(api: &Api<TokenBucket>, name: &str, limit: Duration) -> Result<(), VerifyError> {
    let settled =
        |bucket: Option<&TokenBucket>| bucket.is_some_and(|bucket| judge(bucket).is_some());
    match timeout(limit, await_condition(api.clone(), name, settled)).await {
        Ok(Ok(bucket)) => match bucket.as_ref().and_then(judge) {
            Some(Err(message)) => Err(VerifyError::Stalled(message)),
            _ => Ok(()),
        },
        Ok(Err(error)) => Err(VerifyError::Follow {
            name: name.to_owned(),
            error: Box::new(error),
        }),
        Err(_) => {
            let bucket = api.get_opt(name).await.ok().flatten();
            let working = bucket.and_then(|bucket| message(&bucket, RECONCILING));
            Err(VerifyError::Late {
                doing: "filled",
                limit,
                state: working.unwrap_or_else(|| {
                    "no operator has taken note of it; is one running, and does it watch this namespace?".to_owned()
                }),
            })
        }
    }
}

/// Whether the bucket has come to rest: filled, or in need of a person.
fn judge(bucket: &TokenBucket) -> Option<Result<(), String>> {
    if let Some(message) = message(bucket, STALLED) {
        return Some(Err(message));
    }
    let tokens = bucket.status.as_ref()?.available_tokens;
    message(bucket, READY)
        .filter(|_| tokens == Some(1))
        .map(|_| Ok(()))
}

/// What a condition that is true says.
fn message(bucket: &TokenBucket, condition: &str) -> Option<String> {
    let conditions = &bucket.status.as_ref()?.conditions;
    let mut conditions = conditions.iter();
    let found = conditions.find(|found| found.type_ == condition && found.status == "True")?;
    Some(format!("{} ({})", found.message, found.reason))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn judged(conditions: Value, tokens: Option<i64>) -> Option<Result<(), String>> {
        let bucket = json!({
            "apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket", "metadata": {"name": "a"},
            "spec": {"schedule": "@yearly", "amount": 1, "maximum": 1},
            "status": {"availableTokens": tokens, "conditions": conditions},
        });
        judge(&serde_json::from_value(bucket).unwrap())
    }

    fn condition(kind: &str) -> Value {
        json!([{"type": kind, "status": "True", "reason": "Why", "message": "so", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    #[test]
    fn the_bucket_is_where_the_trial_says() {
        let connection = |secret: Option<&str>, vhost: Option<&str>| {
            let trial = Trial {
                namespace: "shop".to_owned(),
                labels: BTreeMap::new(),
                secret: secret.map(str::to_owned),
                vhost: vhost.map(str::to_owned),
                limit: Duration::ZERO,
            };
            serde_json::to_value(bucket(&trial).spec.connection).unwrap()
        };
        assert_eq!(connection(None, None), Value::Null);
        let (named, at) = (json!({"name": "s"}), json!("v"));
        assert_eq!(connection(Some("s"), None), json!({"secretRef": named}));
        assert_eq!(connection(None, Some("v")), json!({"vhost": at}));
        assert_eq!(
            connection(Some("s"), Some("v")),
            json!({"secretRef": named, "vhost": at})
        );
    }

    #[test]
    fn a_bucket_is_filled_when_it_is_ready_and_has_its_token() {
        assert_eq!(judged(condition(READY), Some(1)), Some(Ok(())));
        assert_eq!(judged(condition(READY), Some(0)), None);
        assert_eq!(judged(condition(RECONCILING), Some(1)), None);
    }

    #[test]
    fn a_stalled_bucket_tells_why() {
        assert_eq!(
            judged(condition(STALLED), None),
            Some(Err("so (Why)".to_owned()))
        );
    }
}
