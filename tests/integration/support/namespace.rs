use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client, api::PostParams};
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
