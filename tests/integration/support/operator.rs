use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{Namespace, SOON, Testbed, Vhost, eventually};

/// The operator as users run it: a process. It is killed when dropped; a failing test shows its log.
pub struct Operator {
    process: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Operator {
    /// Starts `run` for one namespace and one vhost, without leader election, its HTTP listener on any free port.
    /// `extra` arguments come last.
    pub async fn start(
        testbed: &Testbed,
        namespace: &Namespace<'_>,
        vhost: &Vhost<'_>,
        extra: &[&str],
    ) -> Self {
        let url = vhost.amqp_url();
        Self::start_at(testbed, namespace, Some(&url), extra).await
    }

    /// The same with any default broker, or none.
    pub async fn start_at(
        testbed: &Testbed,
        namespace: &Namespace<'_>,
        amqp_url: Option<&str>,
        extra: &[&str],
    ) -> Self {
        Self::start_with(testbed.kubeconfig(), namespace, amqp_url, extra)
    }

    /// The same with a kubeconfig of one's own.
    pub fn start_with(
        kubeconfig: &Path,
        namespace: &Namespace<'_>,
        amqp_url: Option<&str>,
        extra: &[&str],
    ) -> Self {
        let mut arguments = vec![
            "run".to_owned(),
            format!("--namespace={}", namespace.name()),
        ];
        arguments.extend(amqp_url.map(|url| format!("--amqp-url={url}")));
        arguments.push("--listen=127.0.0.1:0".to_owned());
        arguments.extend(extra.iter().map(|&argument| argument.to_owned()));
        let log = "info,token_bucket_engine::session=debug";
        let environment = [("LEADER_ELECT", "false"), ("RUST_LOG", log)];
        Self::start_as(kubeconfig, &arguments, environment)
    }

    /// The program with any arguments and environment.
    pub fn start_as<'e>(
        kubeconfig: &Path,
        arguments: &[String],
        environment: impl IntoIterator<Item = (&'e str, &'e str)>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the log");
        let log = folder.path().join("operator.log");
        let file = File::create(&log).expect("a log file");
        // Should the test process be killed, the operator goes too.
        let process = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                env!("CARGO_BIN_EXE_token-bucket-operator"),
            ])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the operator starts");
        Self {
            process,
            log,
            _folder: folder,
        }
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let end = timeout(SOON, self.process.wait()).await;
        end.expect("it ends").expect("its exit status")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id().expect("the operator is running")
    }

    /// Its resident memory in MiB: now, and the most it ever was.
    pub fn memory(&self) -> [u64; 2] {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the operator is running");
        ["VmRSS:", "VmHWM:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let size = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            size.expect("a size in KiB") / 1024
        })
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("its state")
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("the operator was running");
    }

    /// SIGTERM; panics when the process is still there after half a minute.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM").await;
        let end = timeout(Duration::from_secs(30), self.process.wait()).await;
        end.expect("the operator ends within 30 s of SIGTERM")
            .expect("the operator's exit status")
    }

    /// Sends a signal by its name: `STOP`, `CONT`…
    pub async fn signal(&self, name: &str) {
        let pid = self.pid();
        let sent = Command::new("bash")
            .args(["-c", &format!("kill -s {name} {pid}")])
            .status()
            .await;
        assert!(
            sent.expect("bash runs").success(),
            "no signal {name} to {pid}"
        );
    }

    /// Where its HTTP listener is.
    pub fn address(&self) -> Result<String, String> {
        let logs = self.logs();
        // As text, or as JSON.
        let text = logs.split_once("address=");
        let (_, rest) = text.or(logs.split_once("\"address\":\"")).ok_or(&logs)?;
        let ends = |character: char| character.is_whitespace() || character == '"';
        Ok(rest.split(ends).next().unwrap_or_default().to_owned())
    }

    /// What its HTTP listener answers with success.
    pub async fn http(&self, path: &str) -> Result<String, String> {
        let address = self.address()?;
        let answer = reqwest::get(format!("http://{address}{path}")).await;
        let answer = answer.and_then(|answer| answer.error_for_status());
        let text = answer.map_err(|error| error.to_string())?.text().await;
        text.map_err(|error| error.to_string())
    }

    /// Status and text of what its HTTP listener answers to whoever shows this token, or none.
    pub async fn http_as(&self, token: Option<&str>, path: &str) -> Result<(u16, String), String> {
        let url = format!("http://{}{path}", self.address()?);
        let request = reqwest::Client::new().get(url);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        Ok((status, text))
    }

    /// A sample among its metrics, by name and labels; `None` when there is no such series.
    pub async fn metric(&self, series: &str) -> Result<Option<f64>, String> {
        let metrics = self.http("/metrics").await?;
        let mut samples = metrics.lines().filter_map(|line| line.rsplit_once(' '));
        let sample = samples.find(|(name, _)| *name == series);
        Ok(sample.and_then(|(_, value)| value.parse().ok()))
    }

    /// Whether it leads, by its metrics.
    pub async fn leads(&self) -> Result<bool, String> {
        match self.metric("tokenbucket_leader").await? {
            Some(1.0) => Ok(true),
            Some(0.0) => Ok(false),
            leader => Err(format!("{leader:?}")),
        }
    }

    /// Waits until it leads.
    pub async fn becomes_leader(&self) {
        eventually("the replica to lead", SOON, async || {
            match self.leads().await? {
                true => Ok(()),
                false => Err("it does not lead".into()),
            }
        })
        .await;
    }

    /// Waits until it has logged `text`.
    pub async fn logs_have(&self, text: &str) {
        eventually("a line in the log", SOON, async || {
            let logs = self.logs();
            if logs.contains(text) {
                Ok(())
            } else {
                Err(logs)
            }
        })
        .await;
    }

    /// What it has logged until now.
    pub fn logs(&self) -> String {
        fs::read_to_string(&self.log).expect("the operator's log")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the operator ---\n{}---", self.logs());
        }
    }
}
