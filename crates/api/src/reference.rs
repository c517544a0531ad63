//! docs/reference.md, from the CustomResourceDefinition. Only the test below writes and reads it.

use serde_json::Value;

use super::crd::{assert_committed, schema};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference.md");

const HEAD: &str = "\
<!-- Generated from crates/api: UPDATE_GENERATED=1 cargo test -p token-bucket-api. Do not edit. -->

# Reference: TokenBucket

`apiVersion: tokenbucket.dev/v1alpha1`, `kind: TokenBucket`, short name `tb`, namespaced. `kubectl explain
tokenbucket.spec --recursive` shows the same. The conditions and their reasons are in the
[README](../README.md#status).
";

fn reference() -> String {
    let schema = schema();
    let mut text = HEAD.to_owned();
    for part in ["spec", "status"] {
        text += &format!("\n## {part}\n\n| field | type | what it is |\n|---|---|---|\n");
        rows(part, &schema["properties"][part], &mut text);
    }
    text += "\n## What is refused\n\nThe API server refuses these with the message given, whoever asks.\n\n";
    text += "| field | message |\n|---|---|\n";
    refusals("", &schema, &mut text);
    text
}

fn rows(path: &str, schema: &Value, text: &mut String) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let required = schema["required"].as_array().into_iter().flatten();
        let needed = if required.clone().any(|it| it == name) {
            ", required"
        } else {
            ""
        };
        let description = cell(field["description"].as_str().unwrap());
        *text += &format!(
            "| `{path}` | {}{needed} | {description} |\n",
            type_of(field)
        );
        rows(&path, field, text);
        rows(&format!("{path}[]"), &field["items"], text);
    }
}

fn type_of(field: &Value) -> String {
    let words = field["enum"].as_array();
    if let Some(words) = words {
        let words = words
            .iter()
            .map(|word| format!("`{}`", word.as_str().unwrap()));
        return words.collect::<Vec<_>>().join(", ");
    }
    match (field["type"].as_str().unwrap(), field["format"].as_str()) {
        ("string", Some("date-time")) => "time".to_owned(),
        ("array", _) => format!("list of {}", type_of(&field["items"])),
        (name, _) => name.to_owned(),
    }
}

fn refusals(path: &str, schema: &Value, text: &mut String) {
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let place = path.to_owned() + rule["fieldPath"].as_str().unwrap_or_default();
        for message in messages(rule) {
            let message = cell(message);
            *text += &format!("| `{}` | {message} |\n", place.trim_start_matches('.'));
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        refusals(&format!("{path}.{name}"), field, text);
    }
}

/// What a rule can say: its message, or the texts among which an expression chooses, each on a line of its own.
fn messages(rule: &Value) -> Vec<&str> {
    match rule["messageExpression"].as_str() {
        None => vec![rule["message"].as_str().unwrap()],
        Some(expression) => {
            let choice = |line: &str| line.starts_with("? '") || line.starts_with(": '");
            let lines = expression.lines().map(str::trim);
            let lines = lines.filter(|line| choice(line));
            lines.map(|line| line[3..].trim_end_matches('\'')).collect()
        }
    }
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('*', "\\*")
        .replace('<', "&lt;")
}

#[test]
fn the_committed_reference_is_what_the_types_give() {
    assert_committed(PATH, &reference());
}
