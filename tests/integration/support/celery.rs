use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{SOON, Vhost, eventually, tool};

/// A Django project whose bucket x is the one in a vhost.
pub struct Celery {
    environment: PathBuf,
    settings: [(&'static str, String); 6],
    folder: TempDir,
}

impl Celery {
    pub async fn new(vhost: &Vhost<'_>, amount: u32, maximum: u32) -> Self {
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
            environment: tool("python").into(),
            settings,
            folder,
        }
    }

    /// A Celery worker of this app for one queue; it is killed when dropped.
    pub fn worker(&self, queue: &str) -> Child {
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
    pub async fn python(&self, code: &str) {
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

    pub fn journal(&self) -> Journal {
        let text = fs::read_to_string(self.folder.path().join("journal"));
        Journal(
            text.expect("a journal")
                .lines()
                .map(str::to_owned)
                .collect(),
        )
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Journal) -> bool) -> Journal {
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
pub struct Journal(Vec<String>);

impl Journal {
    pub fn attempts(&self, beginning: &str) -> usize {
        let lines = self.0.iter();
        lines.filter(|line| line.starts_with(beginning)).count()
    }

    /// How many tasks have such attempts.
    pub fn tried(&self, beginning: &str) -> usize {
        let mut lines: Vec<_> = self.0.iter().collect();
        lines.retain(|line| line.starts_with(beginning));
        lines.sort();
        lines.dedup();
        lines.len()
    }
}
