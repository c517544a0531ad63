//! The page at `/`, in a real browser.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Operator, RARELY, SOON, condition, eventually, stage, tool};

/// What headless Chromium prints, and what it complains about.
async fn chromium(folder: &Path, arguments: &[&str]) -> (String, String) {
    let profile = format!("--user-data-dir={}", folder.join("profile").display());
    let browser = tokio::process::Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
        ])
        .args([
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--enable-logging=stderr",
            "--hide-scrollbars",
            &profile,
        ])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = browser.await.expect("chromium runs");
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaints}");
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        complaints,
    )
}

/// A copy of the page that shows, in its title, what keeps people from using it by the rules of axe-core: the page
/// itself allows no scripts.
fn examined(folder: &Path, page: &str) -> String {
    let run = "axe.run().then(found => document.title = JSON.stringify(found.violations));";
    let axe = tool("axe");
    let scripts = format!(r#"<script src="file://{axe}"></script><script>{run}</script></body>"#);
    let copy = page.replace("</body>", &scripts);
    assert_ne!(page, copy, "the page has an end");
    let file = folder.join("page.html");
    fs::write(&file, copy).expect("a copy");
    format!("file://{}", file.display())
}

/// What the copy of the page has found out.
async fn barriers(folder: &Path, copy: &str, preferred: &str) -> Value {
    let patience = "--virtual-time-budget=30000";
    let (shown, _) = chromium(folder, &["--dump-dom", patience, preferred, copy]).await;
    let title = shown
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"));
    let title = title.expect("a title").0;
    let found = title
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    serde_json::from_str(&found).unwrap_or_else(|_| panic!("axe-core found nothing out: {shown}"))
}

#[tokio::test]
async fn a_browser_shows_every_bucket_in_light_and_in_dark() {
    tool("chromium");
    let (testbed, namespace, vhost, buckets) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &["--ui"]).await;
    let spec = json!({"schedule": RARELY, "amount": 1, "maximum": 9, "initialTokens": 7});
    buckets.create("good", spec).await;
    buckets.ready("good").await;
    let spec = json!({"schedule": RARELY, "timeZone": "Mars/Olympus", "amount": 1, "maximum": 5});
    buckets.create("bad", spec).await;
    let stalled = |status: &_| condition(status, "Stalled") == "True";
    buckets.until("bad", "it to be stalled", stalled).await;
    eventually("both buckets on the page", SOON, async || {
        let page = operator.http("/").await?;
        let complete = page.contains("7 of 9") && page.contains("Stalled: InvalidTimeZone");
        if complete { Ok(()) } else { Err(page) }
    })
    .await;

    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("http://{}/", operator.address().expect("its address"));
    let (shown, complaints) = chromium(folder.path(), &["--dump-dom", &url]).await;
    assert!(!complaints.contains("CONSOLE"), "{complaints}");
    let (bad, good) = shown.split_once("7 of 9").expect("the good one's tokens");
    assert!(
        bad.contains("InvalidTimeZone"),
        "the bad one comes first: {shown}"
    );
    assert!(
        good.contains("to 7 tokens in the last hour, maximum 9"),
        "{shown}"
    );
    assert!(good.contains(">Ready<"), "{shown}");

    let picture = async |name: &str, scheme: &str| {
        let (size, file) = ("--window-size=1200,480", format!("--screenshot={name}.png"));
        let (_, complaints) = chromium(folder.path(), &[size, &file, scheme, &url]).await;
        assert!(!complaints.contains("CONSOLE"), "{complaints}");
        let picture = fs::read(folder.path().join(format!("{name}.png"))).expect("a screenshot");
        if let Ok(folder) = std::env::var("SCREENSHOTS") {
            fs::write(Path::new(&folder).join(format!("{name}.png")), &picture).expect("a copy");
        }
        picture
    };
    let light = picture("light", "--blink-settings=preferredColorScheme=1").await;
    let dark = picture("dark", "--blink-settings=preferredColorScheme=0").await;
    assert!(light != dark, "both colour schemes look the same");

    let page = operator.http("/").await.expect("a page");
    let copy = examined(folder.path(), &page);
    for scheme in 0..2 {
        let preferred = format!("--blink-settings=preferredColorScheme={scheme}");
        let barriers = barriers(folder.path(), &copy, &preferred).await;
        assert_eq!(barriers, json!([]), "{preferred}: {barriers:#}");
    }

    let found = operator.http("/?find=bad&page=x").await.expect("a page");
    assert!(
        found.contains("InvalidTimeZone") && !found.contains("7 of 9"),
        "{found}"
    );
}

#[tokio::test]
async fn without_the_flag_there_is_no_page_and_a_replica_that_stands_by_says_so() {
    let (testbed, namespace, vhost, _) = stage().await;
    let elect = [
        "--leader-elect=true",
        "--ui",
        "--leader-elect-namespace",
        namespace.name(),
    ];
    let without = Operator::start(testbed, &namespace, &vhost, &[]).await;
    eventually("an answer that there is no page", SOON, async || {
        without.http("/livez").await?;
        match without.http("/").await {
            Err(refused) if refused.contains("404") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let leader = Operator::start(testbed, &namespace, &vhost, &elect).await;
    eventually("a leader", SOON, async || {
        if leader.leads().await? {
            Ok(())
        } else {
            Err(leader.logs())
        }
    })
    .await;
    let standby = Operator::start(testbed, &namespace, &vhost, &elect).await;
    eventually("the page of the standby", SOON, async || {
        let page = standby.http("/").await?;
        if page.contains("stands by") {
            Ok(())
        } else {
            Err(page)
        }
    })
    .await;
    let page = leader.http("/").await.expect("a page");
    assert!(page.contains("no TokenBucket yet"), "{page}");
}
