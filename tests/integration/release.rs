//! A release has one version everywhere.

use std::path::Path;
use std::process::{Command, Output};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .envs([
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@example.com"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@example.com"),
            // Whatever the machine does to repositories, this one has no hooks and no templates.
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ])
        .output();
    output.expect("it runs")
}

fn ok(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = run(folder, program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `release` says against a version.
fn refusal(folder: &Path, version: &str) -> String {
    let output = run(folder, ".ci/release", &[version]);
    assert!(!output.status.success(), "{version} was released");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A repository with everything that a release touches.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = [
        ".ci",
        "Cargo.toml",
        "Cargo.lock",
        "CHANGELOG.md",
        "Dockerfile",
        "charts",
        "clients",
        "crates",
        "deploy",
        "docs",
        "tests",
    ];
    ok(
        Path::new(PROJECT),
        "cp",
        &[
            &["-r"],
            &parts[..],
            &[folder.path().to_str().expect("text")],
        ]
        .concat(),
    );
    for place in ["src", "benches"] {
        std::fs::create_dir(folder.path().join(place)).expect("a folder");
        std::fs::write(folder.path().join(place).join("main.rs"), "").expect("a file");
    }
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "--all"],
        &["commit", "--quiet", "--message", "all"],
    ] {
        ok(folder.path(), "git", arguments);
    }
    folder
}

#[test]
fn a_release_has_one_version_everywhere_and_a_dated_heading() {
    let folder = copy();
    let folder = folder.path();
    let before = env!("CARGO_PKG_VERSION");
    ok(folder, ".ci/release", &["987.6.5"]);
    assert_eq!(ok(folder, "git", &["tag"]), "v987.6.5\n");
    assert_eq!(ok(folder, "git", &["status", "--porcelain"]), "");
    for file in [
        "Cargo.toml",
        "Cargo.lock",
        "Dockerfile",
        "charts/token-bucket-operator/Chart.yaml",
        "deploy/install.yaml",
        "docs/installation.md",
    ] {
        let text = std::fs::read_to_string(folder.join(file)).expect("a file");
        assert!(text.contains("987.6.5"), "{file} has not the new version");
        let left = format!("token-bucket-operator:{before}");
        assert!(!text.contains(&left), "{file} has {left}");
    }
    let changes = std::fs::read_to_string(folder.join("CHANGELOG.md")).expect("the changelog");
    let date = ok(folder, "date", &["--utc", "+%F"]);
    let heading = format!("## [Unreleased]\n\n## [987.6.5] - {}", date.trim());
    assert!(changes.contains(&heading), "{changes}");
    // Nothing is new since.
    assert!(refusal(folder, "987.6.6").contains("under Unreleased"));
}

#[test]
fn what_cannot_be_a_release_is_refused_and_changes_nothing() {
    let folder = copy();
    let folder = folder.path();
    for (version, reason) in [
        ("1.0", "usage"),
        ("v1.0.0", "usage"),
        ("0.0.1", "is older than"),
    ] {
        let said = refusal(folder, version);
        assert!(said.contains(reason), "{version}: {said}");
    }
    ok(folder, "git", &["tag", "v987.6.5"]);
    assert!(refusal(folder, "987.6.5").contains("there is a tag"));
    assert_eq!(ok(folder, "git", &["status", "--porcelain"]), "");
    std::fs::write(folder.join("new"), "").expect("a file");
    assert!(refusal(folder, "987.6.6").contains("not committed"));
}
