use k8s_openapi::api::core::v1 as core;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::{Testbed, finish, unique};

/// A namespace of one test; it is deleted when dropped.
pub struct Namespace<'t> {
    testbed: &'t Testbed,
    name: String,
}

impl<'t> Namespace<'t> {
    pub(super) async fn create(testbed: &'t Testbed) -> Self {
        let name = format!("test-{}", unique());
        let namespace =
            serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
        let api: Api<core::Namespace> = Api::all(testbed.client().await);
        api.create(&PostParams::default(), &namespace)
            .await
            .expect("a new namespace is accepted");
        Self { testbed, name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A Secret that names a broker.
    pub async fn create_secret(&self, name: &str, uri: &str) {
        let secret = json!({"metadata": {"name": name}, "stringData": {"uri": uri}});
        let secret = serde_json::from_value(secret).expect("a Secret");
        let secrets = self.secrets().await;
        let created = secrets.create(&PostParams::default(), &secret).await;
        created.expect("the Secret is accepted");
    }

    /// The Secret names another broker from now on.
    pub async fn change_secret(&self, name: &str, uri: &str) {
        let patch = Patch::Merge(json!({"stringData": {"uri": uri}}));
        let secrets = self.secrets().await;
        let patched = secrets.patch(name, &PatchParams::default(), &patch).await;
        patched.expect("the Secret is changed");
    }

    async fn secrets(&self) -> Api<core::Secret> {
        Api::namespaced(self.testbed.client().await, &self.name)
    }

    /// Arguments of an operator that is one of several replicas; their lease is here.
    pub fn elected(&self) -> [&str; 3] {
        [
            "--leader-elect=true",
            "--leader-elect-namespace",
            &self.name,
        ]
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        finish(async {
            // A client of this runtime: the test's own is driven by a thread that is busy here.
            let client: Client = self.testbed.client().await;
            // The control plane ends with the run, so what stays behind does no harm.
            let _ = Api::<core::Namespace>::all(client)
                .delete(&self.name, &Default::default())
                .await;
        });
    }
}
