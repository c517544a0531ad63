use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Operator, Testbed, tool};

/// The chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/token-bucket-operator")
}

/// Helm with files of its own. With a testbed it works on that cluster, otherwise on none.
pub struct Helm<'t> {
    testbed: Option<&'t Testbed>,
    program: String,
    home: TempDir,
}

impl<'t> Helm<'t> {
    pub fn new(testbed: Option<&'t Testbed>) -> Self {
        Self::of(tool("helm"), testbed)
    }

    /// The one before.
    pub fn three(testbed: Option<&'t Testbed>) -> Self {
        Self::of(tool("helm-3"), testbed)
    }

    fn of(program: String, testbed: Option<&'t Testbed>) -> Self {
        Self {
            testbed,
            program,
            home: tempfile::tempdir().expect("a folder"),
        }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("Helm runs")
    }

    /// Helm with these arguments, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.home.path());
        }
        command.env_remove("KUBECONFIG").args(arguments);
        if let Some(testbed) = self.testbed {
            command.arg("--kubeconfig").arg(testbed.kubeconfig());
        }
        command
    }

    /// What it prints when it succeeds.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "helm {arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What it prints when it refuses.
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "helm {arguments:?} succeeds");
        String::from_utf8(output.stderr).expect("text")
    }
}

/// A pod as the API server has it. There is no node to run it, so its only container is run here: the same arguments
/// and plain environment, the Secrets that it mounts as they are now, with the rights of its service account and nothing more.
pub struct Pod {
    spec: Value,
    kubeconfig: PathBuf,
    folder: TempDir,
}

impl Pod {
    /// From what kubectl prints as JSON: a Pod, or something with a template for pods.
    pub fn of(testbed: &Testbed, object: &str) -> Self {
        let object: Value = serde_json::from_str(object).expect("JSON");
        let template = &object["spec"]["template"]["spec"];
        let spec = if template.is_null() {
            &object["spec"]
        } else {
            template
        };
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .expect("a namespace");
        let account = spec["serviceAccountName"].as_str().expect("a name");
        let token = testbed.kubectl_ok(&["create", "token", account, "-n", namespace]);
        let folder = tempfile::tempdir().expect("a folder");
        let pod = Self {
            spec: spec.clone(),
            kubeconfig: testbed.kubeconfig_of(&token, namespace, folder.path()),
            folder,
        };
        for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
            pod.mount(testbed, namespace, volume);
        }
        pod
    }

    /// What the kubelet makes of a volume with items of a Secret. One that is not there is as if it were optional.
    fn mount(&self, testbed: &Testbed, namespace: &str, volume: &Value) {
        let wanted = &volume["secret"];
        let Some(name) = wanted["secretName"].as_str() else {
            return;
        };
        let found = testbed.kubectl(&["get", "secret", name, "-n", namespace, "-o", "json"]);
        let Ok(secret) = serde_json::from_slice::<Secret>(&found.stdout) else {
            return;
        };
        let (data, folder) = (secret.data.unwrap_or_default(), self.volume(volume));
        fs::create_dir(&folder).expect("a folder");
        for item in wanted["items"].as_array().into_iter().flatten() {
            let [key, path] = ["key", "path"].map(|field| item[field].as_str().expect("text"));
            fs::write(folder.join(path), &data[key].0).expect("a file");
        }
    }

    fn volume(&self, volume: &Value) -> PathBuf {
        let name = volume["name"].as_str().expect("a name");
        self.folder.path().join(name)
    }

    /// A path of its container, where it is on this machine.
    fn path_here(&self, path: &str) -> String {
        let mounts = self.spec["containers"][0]["volumeMounts"].as_array();
        let here = mounts.into_iter().flatten().find_map(|mount| {
            let rest = path.strip_prefix(mount["mountPath"].as_str()?)?;
            Some(format!("{}{rest}", self.volume(mount).display()))
        });
        here.unwrap_or_else(|| path.to_owned())
    }

    /// As something that can be created.
    pub fn manifest(&self, name: &str, namespace: &str) -> String {
        let metadata = json!({"name": name, "namespace": namespace});
        let spec = &self.spec;
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string()
    }

    /// A kubeconfig with the rights of its service account.
    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.to_str().expect("a path of text")
    }

    /// Runs it. What its environment takes from elsewhere is `environment`; its port is any free one.
    pub fn run(&self, environment: &[(&str, &str)]) -> Operator {
        self.run_with(environment, &[])
    }

    /// The same with more arguments.
    pub fn run_with(&self, environment: &[(&str, &str)], more: &[&str]) -> Operator {
        let container = &self.spec["containers"][0];
        let arguments = container["args"].as_array().expect("arguments").iter();
        let arguments: Vec<_> = arguments
            .map(|argument| argument.as_str().expect("text"))
            .map(|argument| match argument.starts_with("--listen=") {
                true => "--listen=127.0.0.1:0".to_owned(),
                false => argument.to_owned(),
            })
            .chain(more.iter().map(|&argument| argument.to_owned()))
            .collect();
        let plain = container["env"].as_array().into_iter().flatten();
        let plain =
            plain.filter_map(|entry| Some((entry["name"].as_str()?, entry["value"].as_str()?)));
        let plain: Vec<_> = plain
            .map(|(name, value)| (name, self.path_here(value)))
            .collect();
        let plain = plain.iter().map(|(name, value)| (*name, &**value));
        Operator::start_as(
            &self.kubeconfig,
            &arguments,
            plain.chain(environment.iter().copied()),
        )
    }
}
