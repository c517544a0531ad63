//! docs/recipes.md: its manifests are applied, its workers run, and what it shows is what is in the files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{Buckets, Namespace, Operator, RARELY, Testbed, Vhost, Worker};

mod workers;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// An operator that is to find these buckets, of which each is full and nothing becomes due.
async fn begin(
    (testbed, namespace, vhost, buckets): &(&Testbed, Namespace<'_>, Vhost<'_>, Buckets),
    names: &[&str],
) -> Operator {
    for name in names {
        buckets.edit(name, json!({"schedule": RARELY})).await;
    }
    let extra = ["--status-interval", "200ms"];
    let operator = Operator::start(testbed, namespace, vhost, &extra).await;
    for name in names {
        buckets.ready(name).await;
    }
    operator
}

/// Two workers in each language with so much work each.
fn workers(vhost: &Vhost<'_>, bucket: &str, calls: usize) -> Vec<Worker> {
    let pair = || {
        [
            Worker::go(vhost, &[bucket], calls),
            Worker::node(vhost, bucket, calls),
        ]
    };
    [pair(), pair()].into_iter().flatten().collect()
}

async fn all_end_well(workers: &mut [Worker]) {
    for worker in workers {
        let status = worker.end().await;
        assert!(status.success(), "{status}: {}", worker.log());
    }
}

#[test]
fn the_recipes_show_what_is_in_the_files() {
    let text = fs::read_to_string(file("docs/recipes.md")).expect("the recipes");
    // Only the script stands further to the right in its file.
    let lines = |text: &str, language: &str| -> String {
        let line = |line| match language {
            "sh" => str::trim(line),
            _ => line,
        };
        text.lines().map(|it| format!("{}\n", line(it))).collect()
    };
    let (mut shown, mut from) = (0, "");
    // Text and blocks of code by turns. The last link to a file before a block says where it is from.
    for pair in text.split("```").collect::<Vec<_>>().chunks_exact(2) {
        let links = pair[0].split("](../").skip(1);
        let links = links.filter_map(|link| Some(link.split_once(')')?.0));
        from = links
            .filter(|link| file(link).is_file())
            .last()
            .unwrap_or(from);
        let (language, code) = pair[1].split_once('\n').expect("a language");
        if language == "console" {
            continue;
        }
        let source = fs::read_to_string(file(from)).expect("an example");
        let (source, code) = (lines(&source, language), lines(code, language));
        assert!(source.contains(&code), "{from} has no such part:\n{code}");
        shown += 1;
    }
    assert!(shown > 0, "no code");
}
