//! Looks whether the operator could work with its settings: the resources, its rights in Kubernetes, its broker.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::controller::{Scope, describe_scope};
use crate::ops::identity::PROGRAM;
use amqp::{Broker, Endpoint};

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// The resources that the operator would watch.
    pub scope: Scope,
    /// Namespace of its lease, when it would take part in an election.
    pub lease_namespace: Option<String>,
    /// Whether it would ask who may see its metrics.
    pub metrics_auth: bool,
    /// Its default broker.
    pub broker: Option<Endpoint>,
    /// Name of its connection to the broker.
    pub connection_name: String,
}

/// Something that was found, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Good(String),
    /// Worth knowing; the operator works all the same.
    Note(String),
    /// The operator cannot work: what is wrong and what to do.
    Bad(String),
}

/// A right that the operator uses.
struct Right {
    group: &'static str,
    resource: &'static str,
    subresource: Option<&'static str>,
    name: Option<&'static str>,
    verbs: &'static [&'static str],
    /// Why it may be missing.
    optional: Option<&'static str>,
}

const OF_RESOURCES: [Right; 4] = [
    Right {
        group: "tokenbucket.dev",
        resource: "tokenbuckets",
        subresource: None,
        name: None,
        verbs: &["get", "list", "watch", "patch"],
        optional: None,
    },
    Right {
        group: "tokenbucket.dev",
        resource: "tokenbuckets",
        subresource: Some("status"),
        name: None,
        verbs: &["patch"],
        optional: None,
    },
    Right {
        group: "events.k8s.io",
        resource: "events",
        subresource: None,
        name: None,
        verbs: &["create", "patch"],
        optional: None,
    },
    Right {
        group: "",
        resource: "secrets",
        subresource: None,
        name: None,
        verbs: &["get"],
        optional: Some(
            "only buckets with spec.connection need it, and it may be granted by the name of the Secret (rbac.secrets in the chart)",
        ),
    },
];

const OF_LEASE: [Right; 2] = [
    Right {
        group: "coordination.k8s.io",
        resource: "leases",
        subresource: None,
        name: None,
        verbs: &["create"],
        optional: None,
    },
    Right {
        group: "coordination.k8s.io",
        resource: "leases",
        subresource: None,
        name: Some(PROGRAM),
        verbs: &["get", "list", "watch", "update"],
        optional: None,
    },
];

const OF_REVIEWS: [Right; 2] = [
    Right {
        group: "authentication.k8s.io",
        resource: "tokenreviews",
        subresource: None,
        name: None,
        verbs: &["create"],
        optional: None,
    },
    Right {
        group: "authorization.k8s.io",
        resource: "subjectaccessreviews",
        subresource: None,
        name: None,
        verbs: &["create"],
        optional: None,
    },
];

impl Preflight {
    /// Looks at everything. A problem does not keep it from looking at the rest.
    pub async fn check(&self, client: &Client) -> Vec<Finding> {
        let mut findings = Vec::new();
        for namespace in self.scope.watches() {
            findings.push(
                match self.scope.missing(client, namespace.as_deref()).await {
                    Ok(None) => Finding::Good(format!(
                        "TokenBuckets can be listed in {}",
                        describe_scope(namespace.as_deref())
                    )),
                    Ok(Some(missing)) => Finding::Bad(missing),
                    Err(error) => Finding::Bad(error.to_string()),
                },
            );
            for right in &OF_RESOURCES {
                findings.extend(right.check(client, namespace.as_deref()).await);
            }
        }
        if let Some(namespace) = &self.lease_namespace {
            for right in &OF_LEASE {
                findings.extend(right.check(client, Some(namespace)).await);
            }
        }
        if self.metrics_auth {
            for right in &OF_REVIEWS {
                findings.extend(right.check(client, None).await);
            }
        }
        findings.push(self.check_broker().await);
        findings
    }

    async fn check_broker(&self) -> Finding {
        let Some(endpoint) = &self.broker else {
            return Finding::Note(
                "there is no default broker: buckets need spec.connection, or set --amqp-url-file (AMQP_URL_FILE)".to_owned(),
            );
        };
        match Broker::connect(endpoint, &self.connection_name).await {
            Ok(broker) => {
                let version = broker.version().map(ToString::to_string);
                broker.close().await;
                Finding::Good(format!(
                    "the broker {endpoint} lets the operator in ({})",
                    version.as_deref().unwrap_or("of an unknown version")
                ))
            }
            Err(error) => Finding::Bad(format!("{error}")),
        }
    }
}

impl Right {
    /// Nothing when all is well: a dozen good rights are no news.
    async fn check(&self, client: &Client, namespace: Option<&str>) -> Vec<Finding> {
        let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        let mut findings = Vec::new();
        for verb in self.verbs {
            let review = self.review(verb, namespace);
            let answer = api.create(&PostParams::default(), &review).await;
            let what = self.describe(verb, namespace);
            match answer {
                Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => {}
                Ok(_) => findings.push(match self.optional {
                    Some(why) => Finding::Note(format!("the operator may not {what}: {why}")),
                    None => Finding::Bad(format!(
                        "the operator may not {what}: grant its service account that"
                    )),
                }),
                Err(error) => {
                    findings.push(Finding::Bad(format!(
                        "cannot find out whether the operator may {what}: {error}"
                    )));
                }
            }
        }
        findings
    }

    fn review(&self, verb: &str, namespace: Option<&str>) -> SelfSubjectAccessReview {
        let text = |text: &str| Some(text.to_owned());
        SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: text(self.group),
                    resource: text(self.resource),
                    subresource: self.subresource.map(str::to_owned),
                    name: self.name.map(str::to_owned),
                    namespace: namespace.map(str::to_owned),
                    verb: text(verb),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        }
    }

    fn describe(&self, verb: &str, namespace: Option<&str>) -> String {
        let part = |separator: &str, part: Option<&str>| {
            part.map_or_else(String::new, |part| format!("{separator}{part}"))
        };
        format!(
            "{verb} {}{}{} in {}",
            self.resource,
            part("/", self.subresource),
            part(" called ", self.name),
            describe_scope(namespace)
        )
    }
}
