use std::ffi::OsStr;
use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::{Mutex, OnceLock},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Buckets, Namespace, Proxy, Vhost};

/// A Kubernetes control plane and a RabbitMQ node, shared by all tests of a run.
pub struct Testbed {
    settings: HashMap<String, String>,
    /// The servers live until these pipes close, which is when this process ends, however it ends.
    control: Option<Mutex<Control>>,
    /// Of a testbed that uses the control plane of another one.
    _kubeconfig: Option<TempDir>,
}

struct Control {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Control {
    fn ready(&mut self) -> Result<(), String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        read.map_err(|error| error.to_string())?;
        match line.trim() {
            "ready" => Ok(()),
            _ => Err("tests/testbed/testbed failed; its output is above".into()),
        }
    }
}

/// Has `tests/testbed/tools` make sure of a tool, and answers what it prints: most often a path.
pub fn tool(name: &str) -> String {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed/tools");
    let made = Command::new(tools)
        .arg(name)
        .stderr(Stdio::inherit())
        .output();
    let made = made.expect("tests/testbed/tools runs");
    assert!(made.status.success(), "no {name}: its output is above");
    let printed = String::from_utf8(made.stdout).expect("text");
    printed.trim().to_owned()
}

/// The testbed, started by the first test that asks. With `TESTBED_DIR`, one that is up already is used: it saves the
/// ten seconds of the start when a test is run again and again.
pub async fn testbed() -> &'static Testbed {
    static TESTBED: OnceLock<Result<Testbed, String>> = OnceLock::new();
    let started = tokio::task::spawn_blocking(|| TESTBED.get_or_init(Testbed::start)).await;
    started
        .expect("no panic at the start")
        .as_ref()
        .unwrap_or_else(|error| panic!("no testbed: {error}"))
}

/// What most tests stand on: a namespace, a vhost, and the TokenBuckets of the namespace.
pub async fn stage() -> (
    &'static Testbed,
    Namespace<'static>,
    Vhost<'static>,
    Buckets,
) {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let buckets = Buckets::of(testbed, &namespace).await;
    (testbed, namespace, vhost, buckets)
}

impl Testbed {
    fn start() -> Result<Self, String> {
        let (dir, control) = match env::var_os("TESTBED_DIR") {
            Some(dir) => (PathBuf::from(dir), None),
            None => Self::run(env::var_os("KUBECONFIG").as_deref())?,
        };
        let testbed = Self::read(&dir, control)?;
        testbed.install_crd()?;
        Ok(testbed)
    }

    /// A testbed with a broker of its own, which can be killed. It uses the control plane of this one.
    pub fn with_own_broker(&self) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = folder.path().join("kubeconfig");
        fs::copy(self.kubeconfig(), &kubeconfig).expect("a copy of the kubeconfig");
        let started = Self::run(Some(kubeconfig.as_os_str()))
            .and_then(|(dir, control)| Self::read(&dir, control));
        let testbed = started.unwrap_or_else(|error| panic!("no testbed: {error}"));
        Self {
            _kubeconfig: Some(folder),
            ..testbed
        }
    }

    /// A testbed of which nobody else uses a part.
    pub fn of_own() -> Self {
        let testbed = Self::bare();
        let installed = testbed.install_crd();
        installed.unwrap_or_else(|error| panic!("no CustomResourceDefinition: {error}"));
        testbed
    }

    /// The same without the CustomResourceDefinition.
    pub fn bare() -> Self {
        let started = Self::run(None).and_then(|(dir, control)| Self::read(&dir, control));
        started.unwrap_or_else(|error| panic!("no testbed: {error}"))
    }

    fn read(dir: &Path, control: Option<Control>) -> Result<Self, String> {
        let file = dir.join("env");
        let text =
            fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let settings = text.lines().filter_map(|line| line.split_once('='));
        let settings = settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Self {
            settings,
            control: control.map(Mutex::new),
            _kubeconfig: None,
        })
    }

    /// Starts servers: all of them, or those that the cluster of a kubeconfig has not.
    fn run(kubeconfig: Option<&OsStr>) -> Result<(PathBuf, Option<Control>), String> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed");
        let tools = Command::new(scripts.join("tools"))
            .status()
            .map_err(|error| error.to_string())?;
        if !tools.success() {
            return Err("tests/testbed/tools failed; its output is above".into());
        }
        // `testbed run` removes the folder.
        let dir = tempfile::tempdir()
            .map_err(|error| error.to_string())?
            .keep();
        let mut child = Command::new(scripts.join("testbed"))
            .arg("run")
            .arg(&dir)
            .env_remove("KUBECONFIG")
            .envs(kubeconfig.map(|file| ("KUBECONFIG", file)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut control = Control {
            orders: child.stdin.take().expect("it is piped"),
            answers: BufReader::new(child.stdout.take().expect("it is piped")),
        };
        control.ready()?;
        Ok((dir, Some(control)))
    }

    /// Ends a server, `rabbitmq` or `kube-apiserver`, by a signal and starts it again with what it has stored. Returns
    /// when it is back. Only for a server of one's own.
    pub fn restart(&self, server: &str, signal: &str) {
        let control = self.control.as_ref().expect("a testbed of our own");
        let mut control = control.lock().expect("nobody has failed with it");
        writeln!(control.orders, "{server} {signal}").expect("it takes orders");
        control.ready().expect("it carries them out");
    }

    fn install_crd(&self) -> Result<(), String> {
        let crd = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/tokenbuckets.yaml");
        if !crd.exists() {
            return Ok(());
        }
        let crd = crd.to_string_lossy();
        for arguments in [
            &["apply", "--server-side", "--force-conflicts", "-f", &crd][..],
            &[
                "wait",
                "--for=condition=Established",
                "--timeout=30s",
                "-f",
                &crd,
            ],
        ] {
            let output = self.kubectl(arguments);
            if !output.status.success() {
                return Err(format!(
                    "kubectl {}: {}",
                    arguments[0],
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
        }
        Ok(())
    }

    /// A value of the testbed's `env` file.
    pub fn setting(&self, name: &str) -> &str {
        self.settings
            .get(name)
            .unwrap_or_else(|| panic!("the testbed's env file has no {name}"))
    }

    pub fn kubeconfig(&self) -> &Path {
        Path::new(self.setting("KUBECONFIG"))
    }

    /// The kubeconfig with nothing left in other files, to be changed.
    pub fn kubeconfig_as_json(&self) -> Value {
        let view = [
            "config",
            "view",
            "--minify",
            "--flatten",
            "--raw",
            "-o",
            "json",
        ];
        serde_json::from_str(&self.kubectl_ok(&view)).expect("JSON")
    }

    /// A client with all rights, new each time: it belongs to the runtime of one test.
    pub async fn client(&self) -> Client {
        let kubeconfig =
            Kubeconfig::read_from(self.kubeconfig()).expect("the testbed's kubeconfig");
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
    }

    /// A proxy in front of the API server, and a kubeconfig, written to `file`, that goes through it.
    pub async fn proxy_of_api_server(&self, file: &Path) -> Proxy {
        let mut kubeconfig = self.kubeconfig_as_json();
        let server = &mut kubeconfig["clusters"][0]["cluster"]["server"];
        let (proxy, url) = Proxy::in_front_of(server.as_str().expect("a server")).await;
        *server = url.into();
        // JSON is YAML.
        fs::write(file, kubeconfig.to_string()).expect("a file");
        proxy
    }

    /// Runs kubectl with all rights and waits for it.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_as(self.kubeconfig(), arguments)
    }

    /// The same with the rights of another kubeconfig.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.setting("KUBECTL"));
        command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
        command.output().expect("kubectl runs")
    }

    /// Writes a kubeconfig of whoever has this token into a folder.
    pub fn kubeconfig_of(&self, token: &str, namespace: &str, folder: &Path) -> PathBuf {
        let mut kubeconfig = self.kubeconfig_as_json();
        kubeconfig["users"][0]["user"] = json!({"token": token.trim()});
        kubeconfig["contexts"][0]["context"]["namespace"] = namespace.into();
        let file = folder.join("kubeconfig");
        // JSON is YAML.
        fs::write(&file, kubeconfig.to_string()).expect("a file");
        file
    }

    /// The same with success, and what it printed.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A token of a new service account.
    pub fn account(&self, namespace: &str, name: &str) -> String {
        self.kubectl_ok(&["create", "serviceaccount", name, "-n", namespace]);
        let token = self.kubectl_ok(&["create", "token", name, "-n", namespace]);
        token.trim().to_owned()
    }

    /// Runs rabbitmqctl and waits for it. What it does concerns everybody who uses the broker.
    pub async fn rabbitmqctl(&self, arguments: &[&str]) {
        let mut command = tokio::process::Command::new(self.setting("RABBITMQCTL"));
        let output = command.args(arguments).output().await.expect("it runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {message}"
        );
    }

    /// A new vhost, empty.
    pub async fn vhost(&self) -> Vhost<'_> {
        Vhost::create(self, json!({})).await
    }

    /// A new vhost where queues that are declared without a type are quorum queues.
    pub async fn quorum_vhost(&self) -> Vhost<'_> {
        Vhost::create(self, json!({"default_queue_type": "quorum"})).await
    }

    /// A new namespace, empty.
    pub async fn namespace(&self) -> Namespace<'_> {
        Namespace::create(self).await
    }
}
