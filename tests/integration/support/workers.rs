use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{SOON, Vhost, eventually, tool};

/// A worker of examples/workers, as a process. It is killed when dropped.
pub struct Worker {
    process: Child,
    folder: TempDir,
}

impl Worker {
    /// The one in Go, with as much work as `calls` says.
    pub fn go(vhost: &Vhost<'_>, arguments: &[&str], calls: usize) -> Self {
        let program = tool("go-worker");
        Self::start(folder(calls), &program, arguments, &at(vhost))
    }

    /// The one in Rust.
    pub fn rust(vhost: &Vhost<'_>, bucket: &str, calls: usize) -> Self {
        static BUILT: OnceLock<()> = OnceLock::new();
        BUILT.get_or_init(|| {
            // All of the workspace, as it is built for the tests: nothing is compiled twice.
            let build = [
                "build",
                "--quiet",
                "--locked",
                "--workspace",
                "--example",
                "worker",
            ];
            let built = std::process::Command::new(env!("CARGO"))
                .args(build)
                .status();
            assert!(built.expect("cargo").success(), "it is above why");
        });
        let programs = Path::new(env!("CARGO_BIN_EXE_token-bucket-operator")).parent();
        let program = programs.expect("a folder").join("examples/worker");
        let program = program.to_str().expect("text");
        Self::start(folder(calls), program, &[bucket], &at(vhost))
    }

    /// The one for Node.js.
    pub fn node(vhost: &Vhost<'_>, bucket: &str, calls: usize) -> Self {
        let folder = folder(calls);
        // It finds its library beside itself.
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/workers/node/worker.mjs");
        let program = folder.path().join("worker.mjs");
        fs::copy(source, &program).expect("a copy");
        let library = PathBuf::from(tool("javascript")).join("node_modules");
        symlink(library, folder.path().join("node_modules")).expect("a link");
        let program = program.to_str().expect("text").to_owned();
        Self::start(folder, "node", &[&program, bucket], &at(vhost))
    }

    /// A script, which says each command before it runs it.
    pub fn shell(script: &str, environment: &[(&str, String)]) -> Self {
        Self::start(folder(0), "sh", &["-x", "-ec", script], environment)
    }

    fn start(
        folder: TempDir,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, String)],
    ) -> Self {
        let file = |name: &str| folder.path().join(name);
        // Should the test process be killed, this one goes too.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(File::open(file("work")).expect("a file"))
            .stdout(File::create(file("calls")).expect("a file"))
            .stderr(File::create(file("log")).expect("a file"))
            .kill_on_drop(true)
            .spawn()
            .expect("the worker starts");
        Self { process, folder }
    }

    /// How often it has called the API.
    pub fn calls(&self) -> usize {
        let calls = fs::read_to_string(self.folder.path().join("calls"));
        calls.expect("text").lines().count()
    }

    /// What it has said besides.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("text")
    }

    /// Waits until it has said `text`.
    pub async fn says(&self, text: &str) {
        eventually("a line of a worker", SOON, async || {
            let log = self.log();
            log.contains(text).then_some(()).ok_or(log)
        })
        .await;
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("it is killed");
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let end = timeout(SOON, self.process.wait()).await;
        end.unwrap_or_else(|_| panic!("a worker does not end after {} calls", self.calls()))
            .expect("its exit status")
    }
}

/// With a file of work: a line for each call.
fn folder(calls: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut work = String::new();
    (1..=calls).for_each(|it| writeln!(work, "{it}").expect("text"));
    fs::write(folder.path().join("work"), work).expect("a file");
    folder
}

fn at(vhost: &Vhost<'_>) -> [(&'static str, String); 1] {
    [("AMQP_URL", vhost.amqp_url())]
}

/// Waits until workers have made exactly so many calls together.
pub async fn calls_become(workers: &[Worker], calls: usize) {
    eventually("the calls", SOON, async || {
        let all: Vec<_> = workers.iter().map(Worker::calls).collect();
        match all.iter().sum::<usize>() == calls {
            true => Ok(()),
            false => Err(format!("{all:?} instead of {calls} in all")),
        }
    })
    .await;
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of a worker ---\n{}---", self.log());
        }
    }
}
