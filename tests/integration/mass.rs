//! What happens to many buckets at one time costs the API server writes in proportion, and few events.

use futures::{StreamExt, stream};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::json;
use token_bucket_operator::api::{TokenBucket, TokenBucketStatus};

use crate::support::{
    Buckets, Crowd, Namespace, Network, Operator, Proxy, RARELY, Testbed, condition, eventually,
};

const NAMESPACES: usize = 4;

/// Writes that the API server has seen since it began: of buckets, and of events.
async fn writes(client: &Client) -> [f64; 2] {
    let request = axum::http::Request::get("/metrics").body(Vec::new());
    let text = client.request_text(request.expect("a request")).await;
    let text = text.expect("the API server's metrics");
    ["tokenbuckets", "events"].map(|resource| {
        let resource = format!("resource=\"{resource}\"");
        let is_write = |line: &&str| {
            let mut verbs = ["POST", "PUT", "PATCH", "APPLY"].iter();
            verbs.any(|verb| line.contains(&format!("verb=\"{verb}\"")))
        };
        text.lines()
            .filter(|line| line.starts_with("apiserver_request_total{") && line.contains(&resource))
            .filter(is_write)
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    })
}

struct Mass<'t> {
    crowd: Crowd,
    client: Client,
    namespaces: Vec<Namespace<'t>>,
    before: [f64; 2],
    events: f64,
}

impl<'t> Mass<'t> {
    async fn of(testbed: &'t Testbed) -> Self {
        let mut namespaces = Vec::new();
        for _ in 0..NAMESPACES {
            namespaces.push(testbed.namespace().await);
        }
        let client = testbed.client().await;
        Self {
            crowd: Crowd::of(60),
            before: writes(&client).await,
            events: 0.0,
            client,
            namespaces,
        }
    }

    async fn create(&self, testbed: &Testbed) {
        for (at, namespace) in self.namespaces.iter().enumerate() {
            let buckets = Buckets::of(testbed, namespace).await;
            let creations = (at..self.crowd.many).step_by(NAMESPACES).map(|number| {
                let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9});
                let buckets = &buckets;
                async move { buckets.create(&format!("b{number}"), spec).await }
            });
            let creations = stream::iter(creations).buffer_unordered(16);
            creations.map(drop).collect::<()>().await;
        }
    }

    /// Waits until so many buckets are left, and all of them are so.
    async fn all(&self, left: usize, are_so: impl Fn(&TokenBucketStatus) -> bool) {
        let api: Api<TokenBucket> = Api::all(self.client.clone());
        eventually("all of them", self.crowd.soon(), async || {
            let all = api.list(&ListParams::default()).await.expect("a list");
            let there = all.items.len();
            let statuses = all.items.into_iter().filter_map(|it| it.status);
            match (there, statuses.filter(|it| are_so(it)).count()) {
                (there, so) if (there, so) == (left, left) => Ok(()),
                (there, so) => Err(format!("{so} of {there}, and {left} are to be left")),
            }
        })
        .await;
    }

    /// Writes since the last time, of which there may be so many for each of those that something has happened to. Events come at
    /// their own pace, and count in the end.
    async fn cost(&mut self, what: &str, of: usize, most: f64) {
        let now = writes(&self.client).await;
        let [writes, events] = [0, 1].map(|at| now[at] - self.before[at]);
        self.before = now;
        self.events += events;
        let told = format!("{what}: {writes} writes of buckets, {events} of events");
        self.crowd.tell(&told);
        assert!(writes <= most * of as f64, "{told}");
    }
}

#[tokio::test]
async fn what_happens_to_many_buckets_costs_writes_in_proportion() {
    let testbed = Testbed::of_own();
    let mut mass = Mass::of(&testbed).await;
    let vhost = testbed.vhost().await;
    let (proxy, url) = Proxy::in_front_of(&vhost.amqp_url()).await;
    let others: Vec<_> = mass.namespaces[1..]
        .iter()
        .map(|namespace| format!("--namespace={}", namespace.name()))
        .collect();
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    let first = &mass.namespaces[0];
    let _operator = Operator::start_at(&testbed, first, Some(&url), &others).await;
    let many = mass.crowd.many;
    let ready = |status: &TokenBucketStatus| condition(status, "Ready") == "True";
    mass.create(&testbed).await;
    mass.all(many, ready).await;
    // The creation, the finalizer and the status, and another one where that came before its tokens were counted.
    mass.cost("created", many, 4.0).await;

    proxy.set(Network::Frozen);
    proxy.cut();
    let away = |status: &TokenBucketStatus| condition(status, "BrokerConnected") == "False";
    mass.all(many, away).await;
    mass.cost("the broker goes", many, 2.0).await;
    proxy.set(Network::Good);
    mass.all(many, ready).await;
    mass.cost("it comes back", many, 3.0).await;

    let in_first = (0..many).step_by(NAMESPACES).count();
    let api: Api<TokenBucket> = Api::namespaced(mass.client.clone(), mass.namespaces[0].name());
    let (how, which) = (DeleteParams::default(), ListParams::default());
    let deleted = api.delete_collection(&how, &which).await;
    deleted.expect("they can be deleted");
    mass.all(many - in_first, ready).await;
    // What is refused while it is being deleted counts too.
    mass.cost("deleted at one time", in_first, 3.0).await;

    // The last namespace first, and with it what is in it, in whatever order.
    for namespace in mass.namespaces[1..].iter().rev() {
        testbed.kubectl_ok(&["delete", "namespace", namespace.name(), "--wait=false"]);
    }
    mass.all(0, ready).await;
    mass.cost("with their namespaces", many - in_first, 3.0)
        .await;
    // That the broker went, and that it came back.
    assert!(mass.events <= 2.0 * many as f64, "{} events", mass.events);
    let left = vhost.queues().await;
    assert!(left.is_empty(), "{left:?}");
}
