//! `tests/testbed/tools`, which installs what the tests need: whoever asks and whenever, each tool once and whole.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

/// A call for axe-core, the smallest of the tools.
struct Call {
    process: Child,
    progress: BufReader<ChildStderr>,
}

impl Call {
    fn start(cache: &Path) -> Self {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed/tools");
        let started = Command::new(tools)
            .arg("axe")
            .env("XDG_CACHE_HOME", cache)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = started.expect("tests/testbed/tools runs");
        let progress = BufReader::new(process.stderr.take().expect("it is piped"));
        Self { process, progress }
    }

    /// Waits for a line of its progress.
    fn says(&mut self, beginning: &str) {
        let mut lines = self.progress.by_ref().lines();
        let said = lines.any(|line| line.expect("text").starts_with(beginning));
        assert!(said, "it ended without a word of: {beginning}");
    }

    /// How often it installs from now on, and the path that it prints.
    fn end(mut self) -> (usize, String) {
        let mut said = String::new();
        let read = self.progress.read_to_string(&mut said);
        read.expect("text");
        let output = self.process.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{said}");
        let installed = said.matches("downloading axe-core: done").count();
        (installed, String::from_utf8(output.stdout).expect("text"))
    }
}

fn is_whole(path: &str) {
    let script = fs::read_to_string(path.trim_end()).expect("what it has installed");
    assert!(script.contains("axe.run"), "{path} is something else");
}

#[test]
fn two_calls_at_once_install_a_tool_once() {
    let cache = tempfile::tempdir().expect("a folder");
    let folder = cache.path().join("token-bucket-operator");
    fs::create_dir(&folder).expect("a folder");
    let lock = File::create(folder.join("lock")).expect("a file");
    lock.lock().expect("nobody else has it");

    let mut calls = [Call::start(cache.path()), Call::start(cache.path())];
    // Both have found the cache empty.
    for call in &mut calls {
        call.says("waiting for another call");
    }
    drop(lock);

    let [(one, path), (other, same)] = calls.map(Call::end);
    assert_eq!(one + other, 1);
    assert_eq!(path, same);
    is_whole(&path);
}

#[test]
fn a_call_that_is_killed_does_not_hinder_the_next_one() {
    let cache = tempfile::tempdir().expect("a folder");
    let mut killed = Call::start(cache.path());
    killed.says("downloading axe-core");
    killed.process.kill().expect("it can be killed");
    killed.process.wait().expect("it ends");

    let (installed, path) = Call::start(cache.path()).end();
    assert_eq!(installed, 1);
    is_whole(&path);
}
