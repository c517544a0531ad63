//! Which resources this operator cares for, and whether it may.

use std::time::Duration;

use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::time::sleep;
use tracing::warn;

use api::TokenBucket;

/// Pause before the next try when something is not there yet.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Resources in one answer to a list. What an answer takes in memory lies between what stays of it, so small ones leave fewer
/// gaps.
const PAGE: u32 = 100;

/// Namespaces and labels of the resources that this operator cares for.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The namespaces; none means all.
    pub namespaces: Vec<String>,
    /// Label selector.
    pub selector: Option<String>,
}

/// Settings with which the operator cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// The API server does not understand the selector.
    #[error(
        "the label selector {0:?} is invalid ({1}): set --selector or LABEL_SELECTOR to for example team=shop"
    )]
    Selector(String, String),
    /// The operator may not read the resources.
    #[error(
        "the operator may not list TokenBuckets in {0} ({1}): grant its service account list and watch"
    )]
    Forbidden(String, String),
}

impl Scope {
    /// Each scope of a watch: a namespace, or None for all.
    #[must_use]
    pub fn watches(&self) -> Vec<Option<String>> {
        let mut namespaces = self.namespaces.clone();
        namespaces.sort();
        namespaces.dedup();
        if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.into_iter().map(Some).collect()
        }
    }

    pub(super) fn config(&self) -> watcher::Config {
        let config = watcher::Config::default().page_size(PAGE);
        match &self.selector {
            Some(selector) => config.labels(selector),
            None => config,
        }
    }

    /// Waits until the resources can be listed: until the API server answers and the CustomResourceDefinition is there.
    ///
    /// # Errors
    /// When somebody has to change the settings or the permissions first.
    pub async fn wait_until_listable(&self, client: &Client) -> Result<(), ScopeError> {
        for namespace in self.watches() {
            let mut warned = false;
            while let Some(missing) = self.missing(client, namespace.as_deref()).await? {
                if !warned {
                    warn!("{missing}; waiting for that");
                    warned = true;
                }
                sleep(RETRY_AFTER).await;
            }
        }
        Ok(())
    }

    /// What keeps the resources of `namespace` from being listed, if waiting may help.
    ///
    /// # Errors
    /// When somebody has to change the settings or the permissions first.
    pub async fn missing(
        &self,
        client: &Client,
        namespace: Option<&str>,
    ) -> Result<Option<String>, ScopeError> {
        let api: Api<PartialObjectMeta<TokenBucket>> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let params = ListParams {
            label_selector: self.selector.clone(),
            ..ListParams::default().limit(1)
        };
        match api.list_metadata(&params).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) => match (status.code, &self.selector) {
                (404, _) => Ok(Some(
                    "the API server knows no TokenBuckets: install the CustomResourceDefinition with \
                     `token-bucket-operator crd | kubectl apply --server-side -f -`"
                        .to_owned(),
                )),
                (400, Some(selector)) => Err(ScopeError::Selector(selector.clone(), status.message)),
                (401 | 403, _) => Err(ScopeError::Forbidden(describe_scope(namespace), status.message)),
                _ => Ok(Some(format!("cannot list TokenBuckets: {}", status.message))),
            },
            Err(error) => Ok(Some(format!("the API server does not answer: {error}"))),
        }
    }
}

/// A namespace of a watch, or all of them, in words.
#[must_use]
pub fn describe_scope(namespace: Option<&str>) -> String {
    namespace.map_or_else(
        || "all namespaces".to_owned(),
        |name| format!("namespace {name}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_is_watched_once() {
        let scope = |namespaces: &[&str]| Scope {
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            selector: None,
        };
        assert_eq!(scope(&[]).watches(), [None]);
        assert_eq!(
            scope(&["b", "a", "b"]).watches(),
            [Some("a".to_owned()), Some("b".to_owned())]
        );
    }
}
