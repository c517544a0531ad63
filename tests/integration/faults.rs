//! Things break while refills are due and workers take tokens; the accountant finds every token.

mod big;
mod broker;
mod cluster;
mod flood;
mod network;

use std::sync::Arc;

use serde_json::json;

use crate::support::{
    Account, Accountant, Buckets, Namespace, Operator, Pace, Proxy, Vhost, stage,
};

const REFILL_QUEUE: &str = "token_buckets.refill";

/// An operator that reaches its broker through a proxy, and a bucket that is refilled each second while somebody takes
/// from it.
struct Scene {
    operator: Operator,
    broker: Proxy,
    vhost: Vhost<'static>,
    buckets: Buckets,
    account: Arc<Account>,
    accountant: Accountant,
    _namespace: Namespace<'static>,
}

impl Scene {
    async fn set() -> Self {
        let (testbed, namespace, vhost, buckets) = stage().await;
        let (broker, url) = Proxy::in_front_of(&vhost.amqp_url()).await;
        // Silence is noticed after twice that.
        let url = format!("{url}?heartbeat=2");
        let arguments = ["--status-interval", "200ms"];
        let operator = Operator::start_at(testbed, &namespace, Some(&url), &arguments).await;
        let (account, accountant) = books(&buckets, &vhost).await;
        Self {
            operator,
            broker,
            vhost,
            buckets,
            account,
            accountant,
            _namespace: namespace,
        }
    }

    /// Each tick has added its tokens once.
    async fn adds_up(self) {
        self.accountant.stop().await;
        self.account.check(&self.buckets, &self.vhost).await;
    }
}

/// The bucket `x`, refilled each second, and somebody who takes from it.
async fn books(buckets: &Buckets, vhost: &Vhost<'_>) -> (Arc<Account>, Accountant) {
    let limits = [3, 1_000_000];
    let account = Account::open(buckets, "x", Pace(1), limits, true, json!({})).await;
    let account = Arc::new(account);
    buckets.ready("x").await;
    let accountant = Accountant::start(vhost, std::slice::from_ref(&account)).await;
    (account, accountant)
}
