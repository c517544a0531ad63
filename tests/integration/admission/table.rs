//! The tables of manifests, and how an answer of the API server is judged by them.

use kube::{
    Api,
    api::{DynamicObject, PostParams},
    core::Status,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// One manifest: changes of the base manifest, and the answer that is due.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub case: String,
    #[serde(default)]
    pub metadata: Value,
    #[serde(default = "no_change")]
    pub spec: Value,
    pub field: Option<String>,
    pub says: Option<String>,
}

/// One change of a resource that exists.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub case: String,
    pub before: Value,
    pub after: Value,
    pub field: Option<String>,
    pub says: Option<String>,
}

pub fn no_change() -> Value {
    json!({})
}

pub fn table<T: DeserializeOwned>(yaml: &str) -> Vec<T> {
    serde_yaml::from_str(yaml).expect("the table is well-formed")
}

/// The smallest good manifest, changed as a merge patch would.
pub fn manifest(metadata: &Value, spec: &Value) -> DynamicObject {
    let mut manifest = json!({
        "apiVersion": "tokenbucket.dev/v1alpha1",
        "kind": "TokenBucket",
        "metadata": {"name": "base-one"},
        "spec": {"schedule": "0 * * * *", "amount": 10, "maximum": 100},
    });
    merge(&mut manifest["metadata"], metadata);
    if spec.is_null() {
        manifest.as_object_mut().expect("an object").remove("spec");
    } else {
        merge(&mut manifest["spec"], spec);
    }
    serde_json::from_value(manifest).expect("an object of Kubernetes")
}

/// `null` is kept where the manifest has no such field, to show what the API server makes of it.
fn merge(target: &mut Value, changes: &Value) {
    for (name, value) in changes.as_object().into_iter().flatten() {
        if value.is_null() && target.get(name).is_some() {
            target.as_object_mut().expect("an object").remove(name);
        } else {
            target[name] = expand(value);
        }
    }
}

/// `{repeat: [x, 3]}` is `xxx`.
fn expand(value: &Value) -> Value {
    match (&value["repeat"][0], &value["repeat"][1], value) {
        (Value::String(text), Value::Number(times), _) => text
            .repeat(times.as_u64().unwrap_or_default() as usize)
            .into(),
        (_, _, Value::Object(members)) => {
            let expanded = members
                .iter()
                .map(|(name, value)| (name.clone(), expand(value)));
            expanded.collect::<serde_json::Map<_, _>>().into()
        }
        _ => value.clone(),
    }
}

/// Sends the manifest through admission, and no further.
pub async fn create(
    buckets: &Api<DynamicObject>,
    manifest: &DynamicObject,
) -> Result<DynamicObject, Box<Status>> {
    let dry_run = PostParams {
        dry_run: true,
        ..Default::default()
    };
    answer(buckets.create(&dry_run, manifest).await)
}

pub fn answer<T>(result: kube::Result<T>) -> Result<T, Box<Status>> {
    match result {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) => Err(status),
        Err(error) => panic!("the API server did not answer: {error}"),
    }
}

/// What is wrong with an answer, if anything: a mistake is reported once, at its field, in the words of the table.
pub fn misjudged<T>(
    answer: &Result<T, Box<Status>>,
    field: Option<&str>,
    says: Option<&str>,
) -> Option<String> {
    match (answer, says) {
        (Ok(_), None) => None,
        (Ok(_), Some(says)) => Some(format!("accepted, should say {says:?}")),
        (Err(status), None) => Some(format!("refused: {}", status.message)),
        (Err(status), Some(says)) => {
            // Beside a wrong type the API server says that it has not tried the rules.
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let causes: Vec<_> = causes.filter(|cause| cause.field != "<nil>").collect();
            match causes[..] {
                [cause] if cause.message.contains(says) && Some(cause.field.as_str()) == field => {
                    None
                }
                _ => Some(format!(
                    "should say {says:?} at {field:?}, says {causes:#?}"
                )),
            }
        }
    }
}

pub fn assert_none(wrong: Vec<String>) {
    assert!(
        wrong.is_empty(),
        "{} misjudged:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
