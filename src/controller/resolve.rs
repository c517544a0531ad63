//! The resolve step: at which broker a bucket is. Client required, for one plain get of the Secret that the bucket names:
//! a cache of Secrets would hold every Secret of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{poll_fn, unfold};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::broker_rules::{BrokerRules, RuleBroken};
use super::rereads::Seen;
use super::secret_label::SecretLabel;
use super::secrets::{Answer, SecretName, Secrets};
use super::triggers::ReconcileTriggers;
use crate::ops::api_error::ApiError;
use api::ConnectionSpec;
use bucket::BucketId;
use bucket::machine::Class;
use endpoint::{Endpoint, SecretError};

/// Secrets that are read at the same time.
const MOST_READS: usize = 32;
/// Looks at Secrets in use at the same time, and the time between two of them: with 3,000 Secrets that is a minute.
const MOST_LOOKS: usize = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// A request that takes longer has failed.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Why it is not known where a bucket is.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// Neither the resource nor the operator names a broker.
    #[error(
        "no broker: name a Secret in spec.connection.secretRef, or start the operator with AMQP_URL_FILE or \
         AMQP_URL (--amqp-url-file, --amqp-url), which name the broker of all buckets without one"
    )]
    NoBroker,
    /// The Secret does not exist.
    #[error(
        "there is no Secret {0} in this namespace: create it, or correct spec.connection.secretRef.name"
    )]
    SecretNotFound(String),
    /// The Secret does not name a broker.
    #[error("Secret {name}: {problem}")]
    InvalidSecret {
        /// Name of the Secret.
        name: String,
        /// What is wrong with it.
        #[source]
        problem: SecretError,
    },
    /// The broker is not one that the administrator allows.
    #[error(
        "the broker that Secret {name} names is none of those that the operator's --allowed-broker-hosts allows \
         ({allowed}): name one of these in the Secret, or have yours allowed"
    )]
    BrokerNotAllowed {
        /// Name of the Secret.
        name: String,
        /// The hosts that are allowed.
        allowed: String,
    },
    /// The broker is reached without TLS.
    #[error(
        "the broker that Secret {0} names is not reached by TLS, which the operator's --require-tls asks for: write \
         amqps:// in its uri, or beside host the key tls: true (or 5671 as the port)"
    )]
    TlsRequired(String),
    /// The operator may not read the Secret.
    #[error(
        "the operator may not read Secret {0}: set rbac.secrets.enabled=true in its Helm chart (rbac.secrets.names, when set, \
         lists this Secret too), or grant its service account get on it"
    )]
    SecretForbidden(String),
    /// The Secret does not have the label that it needs.
    #[error(
        "Secret {name} has no label {label}, and the operator uses only Secrets that have it (--require-secret-label): if \
         buckets may be at its broker, kubectl label secret {name} {}",
        label.assignment()
    )]
    SecretNotAllowed {
        /// Name of the Secret.
        name: String,
        /// The label.
        label: SecretLabel,
    },
    /// The API server did not answer.
    #[error("cannot read Secret {name}: {source}")]
    SecretUnavailable {
        /// Name of the Secret.
        name: String,
        /// What the client said.
        source: Arc<ApiError>,
    },
}

impl ResolveError {
    /// The reason of the condition, the event and the metric.
    #[must_use]
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoBroker => "NoBroker",
            Self::SecretNotFound(_) => "SecretNotFound",
            Self::InvalidSecret { .. } => "InvalidSecret",
            Self::BrokerNotAllowed { .. } => "BrokerNotAllowed",
            Self::TlsRequired(_) => "TLSRequired",
            Self::SecretForbidden(_) => "SecretForbidden",
            Self::SecretNotAllowed { .. } => "SecretNotAllowed",
            Self::SecretUnavailable { .. } => "SecretUnavailable",
        }
    }

    /// What it means for the bucket.
    #[must_use]
    pub(super) fn class(&self) -> Class {
        match self {
            Self::NoBroker
            | Self::InvalidSecret { .. }
            | Self::BrokerNotAllowed { .. }
            | Self::TlsRequired(_)
            | Self::SecretForbidden(_)
            | Self::SecretNotAllowed { .. } => Class::Person,
            // Often the Secret comes a moment after the bucket.
            Self::SecretNotFound(_) | Self::SecretUnavailable { .. } => Class::Transient,
        }
    }
}

/// Finds the broker of a bucket.
pub(super) struct Resolver {
    client: Client,
    default: watch::Receiver<Option<Endpoint>>,
    required_label: Option<SecretLabel>,
    rules: BrokerRules,
    secrets: Secrets,
    asked: mpsc::UnboundedSender<SecretName>,
    triggers: ReconcileTriggers,
}

impl Resolver {
    /// `default` is the broker of buckets that name none. Only Secrets with the `required_label` are used, if there is one. When a
    /// Secret comes, the buckets that wait for it are reconciled.
    #[must_use]
    pub(super) fn new(
        client: Client,
        default: watch::Receiver<Option<Endpoint>>,
        required_label: Option<SecretLabel>,
        rules: BrokerRules,
        reread_interval: Duration,
        triggers: ReconcileTriggers,
    ) -> (Self, mpsc::UnboundedReceiver<SecretName>) {
        let (asked, to_read) = mpsc::unbounded_channel();
        let resolver = Self {
            client,
            default,
            required_label,
            rules,
            secrets: Secrets::new(reread_interval),
            asked,
            triggers,
        };
        (resolver, to_read)
    }

    /// Reads the Secrets that passes ask for, and has the buckets reconciled that wait for them.
    pub(super) async fn read_asked(&self, mut to_read: mpsc::UnboundedReceiver<SecretName>) {
        let asked = poll_fn(|task| to_read.poll_recv(task));
        let read = async |(namespace, name): SecretName| {
            // When the API server is silent they ask again.
            let _ = timeout(READ_WITHIN, self.read_once(&namespace, &name)).await;
            self.triggers
                .send(&self.secrets.take_waiting(&(namespace, name)));
        };
        asked.for_each_concurrent(MOST_READS, read).await;
    }

    /// Looks again and again at the Secrets in use, and has the buckets reconciled whose Secret is not as it was. A watch would need
    /// the right to list all Secrets.
    pub(super) async fn read_again(&self) {
        let due = unfold((), async |()| {
            sleep(BETWEEN_LOOKS).await;
            Some((self.secrets.due_again().await, ()))
        });
        let look = async |secret: SecretName| {
            match timeout(READ_WITHIN, self.look_again(&secret)).await {
                Ok(Some(concerned)) => self.triggers.send(&concerned),
                // The API server is silent: the next look is for that.
                Ok(None) | Err(_) => self.secrets.forget_seen(&secret),
            }
        };
        due.for_each_concurrent(MOST_LOOKS, look).await;
    }

    /// Whom it concerns that a Secret is not as it was; None when that is not known. Mostly the API server is asked for its version
    /// alone: whoever writes Secrets may write large ones.
    async fn look_again(&self, secret: &SecretName) -> Option<Vec<BucketId>> {
        let (namespace, name) = secret;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let seen = match secrets.get_metadata(name).await {
            Ok(found) => Seen::Version(found.metadata.resource_version.unwrap_or_default()),
            Err(kube::Error::Api(status)) if status.code == 404 => Seen::Missing,
            Err(kube::Error::Api(status)) if status.code == 403 => Seen::Forbidden,
            Err(_) => return None,
        };
        if !self.secrets.saw(secret, seen) {
            return Some(Vec::new());
        }
        let read = self.read(namespace, name);
        self.secrets.get_again(secret, read).await
    }

    /// The broker of a bucket, as far as it is known. None: its Secret is being read, and it is reconciled after that. A pass
    /// does not wait for it: thousands that do would hold up all the others.
    pub(super) fn known(
        &self,
        id: &BucketId,
        connection: Option<&ConnectionSpec>,
    ) -> Option<Result<Endpoint, ResolveError>> {
        let Some(name) = connection.and_then(ConnectionSpec::secret) else {
            return Some(self.own_broker().map(|broker| in_vhost(broker, connection)));
        };
        match self.secrets.known(id, name) {
            Ok(outcome) => Some(outcome.map(|broker| in_vhost(broker, connection))),
            Err(is_first) => {
                if is_first {
                    // The reader ends with the program.
                    let _ = self
                        .asked
                        .send((id.namespace().to_owned(), name.to_owned()));
                }
                None
            }
        }
    }

    fn own_broker(&self) -> Result<Endpoint, ResolveError> {
        self.default.borrow().clone().ok_or(ResolveError::NoBroker)
    }

    /// The Secrets that resources name: only of these something is remembered.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The broker that `connection`, of a resource in `namespace`, names.
    ///
    /// # Errors
    /// When it names none, or when its Secret cannot be read.
    pub(super) async fn resolve(
        &self,
        namespace: &str,
        connection: Option<&ConnectionSpec>,
    ) -> Result<Endpoint, ResolveError> {
        let broker = match connection.and_then(ConnectionSpec::secret) {
            Some(name) => self.read_once(namespace, name).await?,
            None => self.own_broker()?,
        };
        Ok(in_vhost(broker, connection))
    }

    async fn read_once(&self, namespace: &str, name: &str) -> Result<Endpoint, ResolveError> {
        let read = self.read(namespace, name);
        let Answer { outcome, concerned } = self.secrets.get(namespace, name, read).await;
        self.triggers.send(&concerned);
        outcome
    }

    /// How long until the Secret may be read again.
    #[must_use]
    pub(super) fn pause(&self, namespace: &str, secret: &str) -> Duration {
        self.secrets.pause(namespace, secret)
    }

    async fn read(&self, namespace: &str, name: &str) -> Result<Endpoint, ResolveError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = secrets.get(name).await.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 404 => {
                ResolveError::SecretNotFound(name.to_owned())
            }
            kube::Error::Api(status) if status.code == 403 => {
                ResolveError::SecretForbidden(name.to_owned())
            }
            error => ResolveError::SecretUnavailable {
                name: name.to_owned(),
                source: Arc::new(ApiError(error)),
            },
        })?;
        if let Some(label) = &self.required_label
            && !label.is_among(secret.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()))
        {
            return Err(ResolveError::SecretNotAllowed {
                name: name.to_owned(),
                label: label.clone(),
            });
        }
        let data = secret.data.unwrap_or_default();
        let data = data
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect();
        let endpoint =
            endpoint::endpoint(&data).map_err(|problem| ResolveError::InvalidSecret {
                name: name.to_owned(),
                problem,
            })?;
        // Here, so that nobody connects to it: neither for its buckets nor for their deletion.
        match self.rules.check(&endpoint) {
            Ok(()) => Ok(endpoint),
            Err(RuleBroken::Host) => Err(ResolveError::BrokerNotAllowed {
                name: name.to_owned(),
                allowed: self.rules.hosts(),
            }),
            Err(RuleBroken::Tls) => Err(ResolveError::TlsRequired(name.to_owned())),
        }
    }
}

/// The broker in the virtual host that the resource names, if it names one.
fn in_vhost(broker: Endpoint, connection: Option<&ConnectionSpec>) -> Endpoint {
    match connection.and_then(|it| it.vhost.as_deref()) {
        Some(vhost) => broker.in_vhost(vhost),
        None => broker,
    }
}
