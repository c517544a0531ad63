//! One soak: a namespace and a vhost of its own, operators behind proxies, takers, faults, and the balance at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::future::join_all;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::accounts::{Account, Balance, Promise, work};
use crate::cluster::{Cluster, Minutes, PLANS, PLENTY};
use crate::faults::{Fault, Operators};
use crate::support::{Network, Operator, Proxy, Vhost, testbed};

/// From the beginning of a soak to its first fault, and from its last one to the end of the schedules, at least.
const AROUND: Duration = Duration::from_secs(15);
/// Longer than a lease.
const STOPPED: Duration = Duration::from_secs(20);
/// Longer than it takes to notice a silent connection.
const FROZEN: Duration = Duration::from_secs(40);
/// Messages of a flood.
const FLOOD: usize = 20_000;

/// The result of a soak.
pub struct Report {
    operators: Operators,
    faults: BTreeMap<Fault, u64>,
    balances: Vec<(&'static str, Promise, Balance)>,
    over: u64,
    contests: usize,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        let exact = |(_, _, balance): &(_, _, Balance)| balance.lost == 0 && balance.doubled == 0;
        self.over == 0 && self.balances.iter().all(exact)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operators: {}", self.operators)?;
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
        if self.operators.clusters > 1 {
            writeln!(
                f,
                "taken back from a rival: at least {} times",
                self.contests
            )?;
        }
        write!(f, "seen above its maximum: {} times", self.over)
    }
}

/// Runs faults for `duration` and draws the balance.
pub async fn run(seed: u64, operators: Operators, duration: Duration, kinds: &[Fault]) -> Report {
    let testbed = testbed().await;
    let vhost = testbed.vhost().await;
    let mut stage = Stage::set(&vhost, operators, seed).await;
    // Each rival takes its time to be told of the conflict.
    let around = AROUND * u32::try_from(1 + operators.clusters).unwrap_or(1);
    let minutes = Minutes::until(Utc::now() + duration + around);
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
        let fault = Fault::random(&mut stage.random, operators, kinds);
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
        operators,
        faults,
        balances,
        over,
        contests: stage.contests + stage.operators.iter().map(contests).sum::<usize>(),
    }
}

/// Operators, and the proxies between them and the rest.
struct Stage<'t> {
    vhost: &'t Vhost<'t>,
    clusters: Vec<Cluster>,
    replicas: usize,
    broker: Proxy,
    /// Through the proxy.
    amqp_url: String,
    api: Proxy,
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
    /// Those of the first cluster, then those of the next one.
    operators: Vec<Operator>,
    /// In the logs of those that have ended.
    contests: usize,
    random: StdRng,
}

impl<'t> Stage<'t> {
    async fn set(vhost: &'t Vhost<'t>, operators: Operators, seed: u64) -> Self {
        let Operators { clusters, replicas } = operators;
        let testbed = testbed().await;
        let (broker, amqp_url) = Proxy::in_front_of(&vhost.amqp_url()).await;
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = folder.path().join("kubeconfig");
        let api = testbed.proxy_of_api_server(&kubeconfig).await;
        let mut stage = Self {
            vhost,
            clusters: join_all((0..clusters).map(Cluster::new)).await,
            replicas,
            broker,
            amqp_url,
            api,
            kubeconfig,
            _folder: folder,
            operators: Vec::new(),
            contests: 0,
            random: StdRng::seed_from_u64(seed),
        };
        stage.operators = (0..clusters * replicas)
            .map(|index| stage.operator(index))
            .collect();
        stage
    }

    fn operator(&self, index: usize) -> Operator {
        let namespace = &self.clusters[index / self.replicas].namespace;
        let elect = format!("--leader-elect={}", self.replicas > 1);
        let arguments = [&elect, "--leader-elect-namespace", namespace.name()];
        Operator::start_with(
            &self.kubeconfig,
            namespace,
            Some(&self.amqp_url),
            &arguments,
        )
    }

    async fn open_accounts(&self, minutes: &Minutes) -> Vec<Account> {
        let mut accounts = Vec::new();
        let (first, rivals) = self.clusters.split_first().expect("one cluster");
        for &plan in PLANS {
            let (name, pace, amount, maximum, _, promise) = plan;
            let created = first.create(plan, minutes).await;
            let highest = if name == "edited" {
                2 * maximum
            } else {
                maximum
            };
            accounts.push(Account::new(name, pace, amount, highest, promise, created));
        }
        for rival in rivals {
            rival.contend(first, minutes).await;
        }
        accounts
    }

    /// Edits a bucket, in each cluster.
    async fn edit(&self, name: &str, spec: Value) {
        for cluster in &self.clusters {
            cluster.buckets.edit(name, spec.clone()).await;
        }
    }

    /// One operator; when there are several replicas, mostly the one that leads.
    async fn victim(&mut self) -> usize {
        let random = self.random.random_range(0..self.operators.len());
        if self.replicas == 1 || self.random.random_bool(0.25) {
            return random;
        }
        for (index, operator) in self.operators.iter().enumerate() {
            if let Ok(true) = operator.leads().await {
                return index;
            }
        }
        random
    }

    fn replace(&mut self, index: usize) {
        self.contests += contests(&self.operators[index]);
        self.operators[index] = self.operator(index);
    }

    async fn suffer(&mut self, fault: Fault, quiet: &RwLock<()>) {
        let testbed = testbed().await;
        match fault {
            Fault::Kill => {
                let victim = self.victim().await;
                self.operators[victim].kill().await;
                self.replace(victim);
            }
            Fault::Terminate => {
                let victim = self.victim().await;
                self.operators[victim].terminate().await;
                self.replace(victim);
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
                let queue = self.refill_queue();
                let deleted = channel.queue_delete(queue.into(), Default::default());
                deleted.await.expect("it is deleted");
            }
            Fault::Flood => self.flood().await,
            Fault::EditMaximum => {
                let maximum = PLENTY + self.random.random_range(0..PLENTY);
                self.edit("edited", json!({"maximum": maximum})).await;
            }
            Fault::Suspend => {
                self.edit("suspended", json!({"suspend": true})).await;
                sleep(Duration::from_millis(self.random.random_range(100..4_000))).await;
                self.edit("suspended", json!({"suspend": false})).await;
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

    /// That of one cluster.
    fn refill_queue(&mut self) -> String {
        let cluster = self.random.random_range(0..self.clusters.len());
        self.clusters[cluster].refill_queue.clone()
    }

    /// Messages that nobody can carry out: malformed, of another program, for a bucket that does not exist.
    async fn flood(&mut self) {
        let channel = self.vhost.channel().await;
        let queue = self.refill_queue();
        let bodies: [&[u8]; 3] = [b"{", br#"[[], {"name": "nobody"}, {}]"#, b""];
        for number in 0..FLOOD {
            let publish = channel.basic_publish(
                "".into(),
                queue.as_str().into(),
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
        self.edit("suspended", json!({"suspend": false})).await;
        for operator in &self.operators {
            operator.signal("CONT").await;
        }
    }
}

/// How often an operator has taken a bucket back. It says so once of each rival.
fn contests(operator: &Operator) -> usize {
    operator.logs().matches("this one comes first").count()
}

async fn during(proxy: &Proxy, network: Network, duration: Duration) {
    proxy.set(network);
    sleep(duration).await;
    proxy.set(Network::Good);
}
