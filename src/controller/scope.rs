//! Which resources this operator cares for, and whether it may.

use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use tokio::time::sleep;
use tracing::warn;

use api::TokenBucket;

/// Pause before the next try when something is not there yet.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Resources in one answer to a list, where they cannot be had one after the other: each can have more than a megabyte, and an
/// answer is in memory as a whole.
const PAGE: u32 = 10;
/// An API server that can send resources one after the other has sent the end of none within so many seconds.
const NONE_WITHIN: u32 = 5;
/// Annotation of the bookmark behind the resources that were there.
const INITIAL_END: &str = "k8s.io/initial-events-end";

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

    pub(super) fn config(&self, streams: bool) -> watcher::Config {
        let config = watcher::Config::default().page_size(PAGE);
        let config = if streams {
            config.streaming_lists()
        } else {
            config
        };
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
        let api: Api<PartialObjectMeta<TokenBucket>> = api_of(client, namespace);
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

/// Whether the API server can send the resources that are there one after the other (the feature `WatchList`, since 1.34 in all
/// of them). It is asked for one whose name nothing can have.
pub(super) async fn streams_lists(api: &Api<PartialObjectMeta<TokenBucket>>) -> bool {
    let none = WatchParams::default()
        .initial_events()
        .timeout(NONE_WITHIN)
        .fields("metadata.name=-");
    let Ok(events) = api.watch_metadata(&none, "0").await else {
        return false;
    };
    let first = pin!(events).try_next().await;
    match first {
        Ok(Some(WatchEvent::Bookmark(mark))) => mark.metadata.annotations.contains_key(INITIAL_END),
        _ => false,
    }
}

/// The resources of a namespace, or of all.
pub(super) fn api_of<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
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
