//! One soak: a namespace and a vhost of its own, operators behind proxies, takers, faults, and the balance at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use token_bucket_operator::api::from_time;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::accounts::{Account, Balance, Promise, work};
use crate::faults::Fault;
use crate::support::{Buckets, Namespace, Network, Operator, Pace, Proxy, Vhost, testbed};

const REFILL_QUEUE: &str = "token_buckets.refill";
/// Beyond every sum of a soak.
const PLENTY: u64 = 1_000_000;
/// From the beginning of a soak to its first fault, and from its last one to the end of the schedules, at least.
const AROUND: Duration = Duration::from_secs(15);
/// Longer than a lease.
const STOPPED: Duration = Duration::from_secs(20);
/// Longer than it takes to notice a silent connection.
const FROZEN: Duration = Duration::from_secs(40);
/// Messages of a flood.
const FLOOD: usize = 20_000;

/// Name, pace, amount, maximum, policy, promise.
type Plan = (&'static str, Pace, u64, u64, &'static str, Promise);
const PLANS: &[Plan] = &[
    ("each_second", Pace(1), 3, PLENTY, "All", Promise::Exact),
    ("each_second_2", Pace(1), 7, PLENTY, "All", Promise::Exact),
    ("each_2", Pace(2), 1, PLENTY, "All", Promise::Exact),
    ("each_3", Pace(3), 50, PLENTY, "All", Promise::Exact),
    ("each_5", Pace(5), 2_000, PLENTY, "All", Promise::Exact),
    ("edited", Pace(1), 2, PLENTY, "All", Promise::Exact),
    ("suspended", Pace(1), 4, PLENTY, "All", Promise::Exact),
    ("latest", Pace(1), 5, PLENTY, "Latest", Promise::AtMost),
    ("skip", Pace(2), 5, PLENTY, "Skip", Promise::AtMost),
    ("small", Pace(1), 20, 50, "All", Promise::AtMost),
];

/// The result of a soak.
pub struct Report {
    replicas: usize,
    faults: BTreeMap<Fault, u64>,
    balances: Vec<(&'static str, Promise, Balance)>,
    over: u64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        let exact = |(_, _, balance): &(_, _, Balance)| balance.lost == 0 && balance.doubled == 0;
        self.over == 0 && self.balances.iter().all(exact)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operators: {}", self.replicas)?;
        for (fault, count) in &self.faults {
            writeln!(f, "{count:6}  {fault}")?;
        }
        writeln!(
            f,
            "bucket           ticks due  tokens taken  tokens left  ticks lost  ticks doubled"
        )?;
        for (name, promise, balance) in &self.balances {
            let Balance {
                ticks,
                taken,
                left,
                lost,
                doubled,
            } = balance;
            let lost = match promise {
                Promise::Exact => lost.to_string(),
                Promise::AtMost => "by policy".to_owned(),
            };
            writeln!(
                f,
                "{name:15} {ticks:10} {taken:13} {left:12} {lost:>11} {doubled:14}"
            )?;
        }
        write!(f, "seen above its maximum: {} times", self.over)
    }
}

/// Runs faults for `duration` and draws the balance.
pub async fn run(seed: u64, replicas: usize, duration: Duration, kinds: &[Fault]) -> Report {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let mut stage = Stage::set(&namespace, &vhost, replicas, seed).await;
    let minutes = Minutes::until(Utc::now() + duration + 2 * AROUND);
    let accounts = Arc::new(stage.open_accounts(&minutes).await);
    let (stop, quiet) = (CancellationToken::new(), Arc::new(RwLock::default()));
    let takers = tokio::spawn(work(
        vhost.amqp_url(),
        accounts.clone(),
        quiet.clone(),
        stop.clone(),
    ));
    let (mut faults, begun) = (BTreeMap::new(), Instant::now());
    while begun.elapsed() < duration {
        sleep(Duration::from_millis(stage.random.random_range(50..1_500))).await;
        let fault = Fault::random(&mut stage.random, replicas, kinds);
        stage.suffer(fault, &quiet).await;
        *faults.entry(fault).or_default() += 1;
        eprintln!("{:7.1} s  {fault}", begun.elapsed().as_secs_f32());
    }
    stage.heal().await;
    if let Ok(rest) = (minutes.last - Utc::now()).to_std() {
        sleep(rest).await;
    }
    stop.cancel();
    let over = takers.await.expect("the takers end");
    let settled = accounts.iter().map(async |account| {
        let balance = account.settle(&vhost, minutes.last).await;
        (account.name, account.promise, balance)
    });
    let balances = join_all(settled).await;
    Report {
        replicas,
        faults,
        balances,
        over,
    }
}

/// When buckets are refilled: in these minutes, so that the schedules end by themselves and the sums stand still. A
/// balance drawn while ticks go on would take one that is late for one that is lost.
struct Minutes {
    first: DateTime<Utc>,
    /// Their last second.
    last: DateTime<Utc>,
}

impl Minutes {
    fn until(end: DateTime<Utc>) -> Self {
        let first = Utc::now();
        let last = end.timestamp() / 60 * 60 + 59;
        let last = DateTime::from_timestamp(last, 0).expect("a time of this century");
        assert!(last - first < TimeDelta::minutes(59), "less than an hour");
        Self { first, last }
    }

    fn schedule(&self, pace: Pace) -> String {
        let minutes = self.first.timestamp() / 60..=self.last.timestamp() / 60;
        let list: Vec<_> = minutes.map(|it| (it % 60).to_string()).collect();
        format!("*/{} {} * * * *", pace.0, list.join(","))
    }
}

/// Operators, and the proxies between them and the rest.
struct Stage<'t> {
    namespace: &'t Namespace<'t>,
    vhost: &'t Vhost<'t>,
    buckets: Buckets,
    broker: Proxy,
    /// Through the proxy.
    amqp_url: String,
    api: Proxy,
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
    operators: Vec<Operator>,
    random: StdRng,
}

impl<'t> Stage<'t> {
    async fn set(
        namespace: &'t Namespace<'t>,
        vhost: &'t Vhost<'t>,
        replicas: usize,
        seed: u64,
    ) -> Self {
        let testbed = testbed().await;
        let (broker, amqp_url) = Proxy::in_front_of(&vhost.amqp_url()).await;
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = folder.path().join("kubeconfig");
        let api = testbed.proxy_of_api_server(&kubeconfig).await;
        let mut stage = Self {
            namespace,
            vhost,
            buckets: Buckets::of(testbed, namespace).await,
            broker,
            amqp_url,
            api,
            kubeconfig,
            _folder: folder,
            operators: Vec::new(),
            random: StdRng::seed_from_u64(seed),
        };
        stage.operators = (0..replicas).map(|_| stage.operator(replicas)).collect();
        stage
    }

    fn operator(&self, replicas: usize) -> Operator {
        let elect = format!("--leader-elect={}", replicas > 1);
        let arguments = [&elect, "--leader-elect-namespace", self.namespace.name()];
        Operator::start_with(
            &self.kubeconfig,
            self.namespace,
            Some(&self.amqp_url),
            &arguments,
        )
    }

    async fn open_accounts(&self, minutes: &Minutes) -> Vec<Account> {
        let mut accounts = Vec::new();
        for &(name, pace, amount, maximum, policy, promise) in PLANS {
            let spec = json!({
                "name": name, "schedule": minutes.schedule(pace), "amount": amount, "maximum": maximum,
                "missedRefills": policy, "refillQueue": REFILL_QUEUE,
            });
            let resource = self.buckets.create(&name.replace('_', "-"), spec).await;
            let created = resource.metadata.creation_timestamp.expect("a time");
            let created = from_time(&created);
            let highest = if name == "edited" {
                2 * maximum
            } else {
                maximum
            };
            accounts.push(Account::new(name, pace, amount, highest, promise, created));
        }
        accounts
    }

    /// One operator; when there are several, mostly the one that leads.
    async fn victim(&mut self) -> usize {
        let random = self.random.random_range(0..self.operators.len());
        if self.random.random_bool(0.25) {
            return random;
        }
        for (index, operator) in self.operators.iter().enumerate() {
            if let Ok(true) = operator.leads().await {
                return index;
            }
        }
        random
    }

    async fn suffer(&mut self, fault: Fault, quiet: &RwLock<()>) {
        let testbed = testbed().await;
        let replicas = self.operators.len();
        match fault {
            Fault::Kill => {
                let victim = self.victim().await;
                self.operators[victim].kill().await;
                self.operators[victim] = self.operator(replicas);
            }
            Fault::Terminate => {
                let victim = self.victim().await;
                self.operators[victim].terminate().await;
                self.operators[victim] = self.operator(replicas);
            }
            Fault::Stop => {
                let victim = self.victim().await;
                self.operators[victim].signal("STOP").await;
                sleep(STOPPED).await;
                self.operators[victim].signal("CONT").await;
            }
            Fault::Cut => self.broker.cut(),
            Fault::Freeze => during(&self.broker, Network::Frozen, FROZEN).await,
            Fault::Slow => during(&self.broker, Network::Slow, Duration::from_secs(5)).await,
            Fault::NoApiServer => during(&self.api, Network::Frozen, STOPPED).await,
            Fault::CutApiServer => self.api.cut(),
            Fault::DeleteRefillQueue => {
                let channel = self.vhost.channel().await;
                let deleted = channel.queue_delete(REFILL_QUEUE.into(), Default::default());
                deleted.await.expect("it is deleted");
            }
            Fault::Flood => self.flood().await,
            Fault::EditMaximum => {
                let maximum = PLENTY + self.random.random_range(0..PLENTY);
                self.buckets
                    .edit("edited", json!({"maximum": maximum}))
                    .await;
            }
            Fault::Suspend => {
                self.buckets
                    .edit("suspended", json!({"suspend": true}))
                    .await;
                sleep(Duration::from_millis(self.random.random_range(100..4_000))).await;
                self.buckets
                    .edit("suspended", json!({"suspend": false}))
                    .await;
            }
            Fault::RestartBroker => {
                let _nobody = quiet.write().await;
                testbed.rabbitmqctl(&["stop_app"]).await;
                testbed.rabbitmqctl(&["start_app"]).await;
            }
            Fault::MemoryAlarm => {
                testbed
                    .rabbitmqctl(&["set_vm_memory_high_watermark", "0"])
                    .await;
                sleep(Duration::from_secs(3)).await;
                testbed
                    .rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"])
                    .await;
            }
        }
    }

    /// Messages that nobody can carry out: malformed, of another program, for a bucket that does not exist.
    async fn flood(&self) {
        let channel = self.vhost.channel().await;
        let bodies: [&[u8]; 3] = [b"{", br#"[[], {"name": "nobody"}, {}]"#, b""];
        for number in 0..FLOOD {
            let publish = channel.basic_publish(
                "".into(),
                REFILL_QUEUE.into(),
                BasicPublishOptions::default(),
                bodies[number % bodies.len()],
                BasicProperties::default(),
            );
            // The broker may be going down; what does not arrive is no loss.
            if publish.await.is_err() {
                return;
            }
        }
    }

    async fn heal(&mut self) {
        self.broker.set(Network::Good);
        self.api.set(Network::Good);
        self.buckets
            .edit("suspended", json!({"suspend": false}))
            .await;
        for operator in &self.operators {
            operator.signal("CONT").await;
        }
    }
}

async fn during(proxy: &Proxy, network: Network, duration: Duration) {
    proxy.set(network);
    sleep(duration).await;
    proxy.set(Network::Good);
}
