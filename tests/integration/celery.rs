//! Programs that use the library django-celery-token-bucket work with our queues as they are. The Django project is in
//! tests/celery.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use chrono::DateTime;
use serde_json::json;
use tempfile::TempDir;
use token_bucket_operator::{
    api::Trigger,
    broker::{Broker, Endpoint, Origin, REFILL_TASK, RefillRequest},
};
use tokio::process::{Child, Command};

use crate::support::{Buckets, Operator, SOON, Vhost, eventually, testbed};

const BUCKET: &str = "token_bucket_x";
const REFILL: &str = "token_buckets.refill";

/// Nothing of it is due while a test runs.
const RARELY: &str = "0 0 1 1 *";

#[tokio::test]
async fn a_celery_worker_takes_tokens_from_our_bucket() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(testbed, &namespace).await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 3, "maximum": 5, "initialTokens": 5});
    buckets.create("x", spec).await;
    depth_becomes(&vhost, BUCKET, 5).await;
    let celery = Celery::new(&vhost, 3, 5).await;
    let _worker = celery.worker("celery");

    celery
        .python("from app import call\nfor n in range(9): call.delay(n)")
        .await;
    celery
        .until("five tasks to run and four to wait", |journal| {
            journal.attempts("SUCCESS app.call") == 5 && journal.tried("RETRY app.call") == 4
        })
        .await;
    assert_eq!(vhost.depth(BUCKET).await, Some(0));

    buckets.request_refill("x", "three more").await;
    let journal = celery
        .until("three more to run", |journal| {
            journal.attempts("SUCCESS app.call") == 8
        })
        .await;
    let turn = journal.attempts("RETRY app.call");
    let journal = celery
        .until("the last one to wait again", |journal| {
            journal.attempts("RETRY app.call") > turn
        })
        .await;
    assert_eq!(journal.tried("SUCCESS app.call"), 8, "{journal:?}");
    assert_eq!(journal.attempts("FAILURE"), 0, "{journal:?}");
    assert_eq!(vhost.depth(BUCKET).await, Some(0));
    buckets
        .until("x", "the tokens in the status", |status| {
            (status.tokens_issued, status.available_tokens) == (Some(8), Some(0))
        })
        .await;
}

#[tokio::test]
async fn a_celery_app_may_ask_for_a_refill() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(testbed, &namespace).await;
    let mut operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 7, "maximum": 100});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let celery = Celery::new(&vhost, 7, 100).await;

    // The periodic task names the bucket by keyword, as the library registers it; a program may name it by position.
    // Either declares the queue first, while the operator is its exclusive consumer.
    celery.python("import beat").await;
    depth_becomes(&vhost, BUCKET, 7).await;
    celery
        .python(&format!(
            "from app import app\n\
             app.send_task('{REFILL_TASK}', ['x'], queue='{REFILL}')"
        ))
        .await;
    let status = buckets
        .until("x", "both refills", |status| {
            status.tokens_issued == Some(14)
        })
        .await;
    let trigger = status.last_refill.map(|refill| refill.trigger);
    assert_eq!(trigger, Some(Trigger::Request));

    // A request that had not been acknowledged would be there again.
    operator.terminate().await;
    assert_eq!(vhost.depth(REFILL).await, Some(0));
    assert_eq!(vhost.depth(BUCKET).await, Some(14));
}

#[tokio::test]
async fn a_request_of_the_operator_is_a_valid_celery_message() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(testbed, &namespace).await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 4, "maximum": 10});
    let uid = buckets.create("x", spec).await.metadata.uid;
    buckets.ready("x").await;
    operator.terminate().await;
    let request = RefillRequest {
        bucket: "x".into(),
        origin: Origin::Schedule {
            uid: uid.expect("a uid"),
            since: DateTime::UNIX_EPOCH,
            tick: DateTime::from_timestamp_secs(1_000_000_000).expect("an instant"),
            ticks: 1,
        },
    };
    publish(&vhost, request).await;

    // The library declares the bucket's queue before it adds tokens: with other arguments than ours its task fails.
    let celery = Celery::new(&vhost, 4, 10).await;
    let _worker = celery.worker(REFILL);
    let done = format!("SUCCESS {REFILL_TASK}");
    let journal = celery
        .until("the library to refill", |journal| {
            journal.attempts(&done) == 1
        })
        .await;
    assert_eq!(journal.attempts("FAILURE"), 0, "{journal:?}");
    depth_becomes(&vhost, BUCKET, 4).await;
}

#[tokio::test]
async fn a_worker_keeps_going_while_the_maximum_is_raised() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(testbed, &namespace).await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 10, "maximum": 100, "initialTokens": 10});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let celery = Celery::new(&vhost, 10, 100).await;
    let _worker = celery.worker("celery");
    // Most of the tasks find no token and try again soon: the queue is asked all the time.
    celery
        .python("from app import call\nfor n in range(60): call.delay(n)")
        .await;

    for round in 1..=6_u32 {
        let taken = 10 * round;
        celery
            .until("the tokens to be taken", |journal| {
                journal.attempts("SUCCESS app.call") == taken as usize
            })
            .await;
        buckets.request_refill("x", &format!("round {round}")).await;
        let maximum = 100 + round;
        buckets.edit("x", json!({ "maximum": maximum })).await;
        buckets
            .until("x", "the larger queue and the refill", |status| {
                let now = (status.maximum, status.tokens_issued);
                now == (Some(maximum), Some(u64::from(taken + 10)))
            })
            .await;
    }
    let journal = celery.journal();
    assert_eq!(journal.attempts("FAILURE"), 0, "{journal:?}");
    assert_eq!(journal.attempts("SUCCESS app.call"), 60, "{journal:?}");
    depth_becomes(&vhost, BUCKET, 10).await;
}

/// A Django project whose bucket x is the one in a vhost.
struct Celery {
    environment: PathBuf,
    settings: [(&'static str, String); 6],
    folder: TempDir,
}

impl Celery {
    async fn new(vhost: &Vhost<'_>, amount: u32, maximum: u32) -> Self {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed/tools");
        let made = Command::new(tools)
            .arg("python")
            .stderr(Stdio::inherit())
            .output()
            .await
            .expect("tests/testbed/tools runs");
        assert!(made.status.success(), "no Python: its output is above");
        let environment = String::from_utf8(made.stdout).expect("a path");
        let folder = tempfile::tempdir().expect("a folder for what the worker writes");
        let journal = folder.path().join("journal");
        File::create(&journal).expect("a journal");
        let settings = [
            ("DJANGO_SETTINGS_MODULE", "settings".into()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("AMQP_URL", vhost.amqp_url()),
            ("AMOUNT", amount.to_string()),
            ("MAXIMUM", maximum.to_string()),
            ("JOURNAL", journal.display().to_string()),
        ];
        Self {
            environment: environment.trim().into(),
            settings,
            folder,
        }
    }

    /// A Celery worker of this app for one queue; it is killed when dropped.
    fn worker(&self, queue: &str) -> Child {
        let log = File::create(self.folder.path().join("log")).expect("a log file");
        self.command("celery")
            .args(["-A", "app", "worker", "--pool", "threads", "-c", "8"])
            .args(["-Q", queue, "--without-gossip", "--without-mingle"])
            .args(["--loglevel", "INFO"])
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("the worker starts")
    }

    /// Runs code in a process of this app.
    async fn python(&self, code: &str) {
        let done = self.command("python").args(["-c", code]).status().await;
        assert!(done.expect("Python runs").success(), "it is above why");
    }

    fn command(&self, program: &str) -> Command {
        // Should the test process be killed, this one goes too.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(self.environment.join("bin").join(program))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/celery"))
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn journal(&self) -> Journal {
        let text = fs::read_to_string(self.folder.path().join("journal"));
        Journal(
            text.expect("a journal")
                .lines()
                .map(str::to_owned)
                .collect(),
        )
    }

    async fn until(&self, what: &str, holds: impl Fn(&Journal) -> bool) -> Journal {
        eventually(what, SOON, async || {
            let journal = self.journal();
            match holds(&journal) {
                true => Ok(journal),
                false => Err(format!("{journal:?}")),
            }
        })
        .await
    }
}

impl Drop for Celery {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- log of the worker ---\n{}---", log.unwrap_or_default());
        }
    }
}

/// One line for each attempt of a task: how it ended, the task, its arguments.
#[derive(Debug)]
struct Journal(Vec<String>);

impl Journal {
    fn attempts(&self, beginning: &str) -> usize {
        let lines = self.0.iter();
        lines.filter(|line| line.starts_with(beginning)).count()
    }

    /// How many tasks have such attempts.
    fn tried(&self, beginning: &str) -> usize {
        let mut lines: Vec<_> = self.0.iter().collect();
        lines.retain(|line| line.starts_with(beginning));
        lines.sort();
        lines.dedup();
        lines.len()
    }
}

async fn publish(vhost: &Vhost<'_>, request: RefillRequest) {
    let endpoint = Endpoint::parse(&vhost.amqp_url()).expect("an address");
    let broker = Broker::connect(&endpoint, "test").await.expect("a broker");
    let publisher = Arc::new(broker).publisher().await;
    let published = publisher
        .expect("a channel")
        .publish(&[(REFILL.into(), request)])
        .await;
    assert_eq!(published, [Ok(())]);
}

async fn depth_becomes(vhost: &Vhost<'_>, queue: &str, tokens: u64) {
    eventually("the tokens", SOON, async || {
        match vhost.depth(queue).await {
            Some(depth) if depth == tokens => Ok(()),
            depth => Err(format!("{depth:?} instead of {tokens}")),
        }
    })
    .await;
}
