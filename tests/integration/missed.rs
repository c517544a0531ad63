//! Ticks that passed while the operator was away go by `missedRefills`.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use token_bucket_operator::api::from_time;

use crate::support::{Operator, SOON, eventually, stage};

/// What an operator says that it has added: due time and tokens of each refill, by bucket.
fn refills(operator: &Operator) -> HashMap<String, Vec<(DateTime<Utc>, i64)>> {
    let mut refills = HashMap::<_, Vec<_>>::new();
    let logs = operator.logs();
    for line in logs.lines().filter(|line| line.contains(" INFO refilled ")) {
        let field = |name: &str| {
            let (_, rest) = line.split_once(name).expect("a field");
            rest.split([' ', '"']).next().expect("a value")
        };
        let (_, bucket) = field("bucket=").split_once('/').expect("a namespace");
        let due = field("due=\"").parse().expect("a time");
        let added = field("added=").parse().expect("a number");
        refills
            .entry(bucket.to_owned())
            .or_default()
            .push((due, added));
    }
    refills
}

#[tokio::test]
async fn each_policy_does_what_it_says_about_the_ticks_of_an_absence() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let mut created = DateTime::<Utc>::MAX_UTC;
    for (name, policy) in [
        ("latest", json!({"missedRefills": "Latest"})),
        ("skip", json!({"missedRefills": "Skip"})),
        ("all", json!({"missedRefills": "All"})),
        (
            "deadline",
            json!({"missedRefills": "All", "startingDeadlineSeconds": 8}),
        ),
        ("edited", json!({"missedRefills": "All"})),
        ("resumed", json!({"missedRefills": "All", "suspend": true})),
    ] {
        let mut spec = json!({"schedule": "* * * * * *", "amount": 1, "maximum": 10_000});
        let fields = spec.as_object_mut().expect("an object");
        fields.extend(policy.as_object().expect("an object").clone());
        let bucket = buckets.create(name, spec).await;
        created = from_time(&bucket.metadata.creation_timestamp.expect("a creation time"));
    }
    buckets.ready("resumed").await;
    eventually("five buckets to be refilled", SOON, async || {
        let refills = refills(&operator);
        if refills.len() == 5 {
            Ok(())
        } else {
            Err(format!("{refills:?}"))
        }
    })
    .await;
    operator.terminate().await;
    let before = refills(&operator);
    let tokens = async |name: &str| {
        let depth = vhost.depth(&format!("token_bucket_{name}")).await;
        i64::try_from(depth.expect("the queue")).expect("a count")
    };
    for (name, refills) in &before {
        let added: i64 = refills.iter().map(|(_, added)| added).sum();
        assert_eq!(tokens(name).await, added, "{name}");
    }

    buckets.edit("resumed", json!({"suspend": false})).await;
    buckets
        .edit("edited", json!({"schedule": "*/2 * * * * *"}))
        .await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let back = Utc::now();
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    eventually("all to be refilled twice", SOON, async || {
        let refills = refills(&operator);
        let twice = refills.values().filter(|refills| refills.len() > 1).count();
        if twice == 6 {
            Ok(())
        } else {
            Err(format!("{refills:?}"))
        }
    })
    .await;
    // Twelve seconds and more, of which one tick, none, and those of eight seconds are carried out.
    for (policy, least) in [("Latest", 11.0), ("Skip", 12.0), ("All", 3.0)] {
        let series = format!("tokenbucket_ticks_left_out_total{{policy=\"{policy}\"}}");
        let ticks = operator.metric(&series).await.expect("metrics");
        let ticks = ticks.expect("a count of ticks");
        assert!((least..least + 20.0).contains(&ticks), "{policy}: {ticks}");
    }
    let written = "tokenbucket_api_requests_total{method=\"PATCH\",code=\"200\"}";
    assert!(operator.metric(written).await.expect("metrics").is_some());
    operator.terminate().await;

    for (name, refills) in refills(&operator) {
        let old = before.get(&name).map(Vec::as_slice).unwrap_or_default();
        let all: i64 = old.iter().chain(&refills).map(|(_, added)| added).sum();
        assert_eq!(tokens(&name).await, all, "{name}");
        // From the first one on it is as always: each tick for itself.
        let step = TimeDelta::seconds(if name == "edited" { 2 } else { 1 });
        for pair in refills.windows(2) {
            assert_eq!(pair[1], (pair[0].0 + step, 1), "{name}: {refills:?}");
        }
        let (due, added) = refills[0];
        let since = |start: DateTime<Utc>| (due - start).num_seconds();
        let missed = old.last().map(|(last, _)| since(*last));
        let said =
            format!("{name}: {added} for {due}, {missed:?} ticks after {old:?}, back at {back}");
        match name.as_str() {
            "latest" => assert!(added == 1 && due > back - step, "{said}"),
            "skip" | "edited" => assert!(added == 1 && due > back, "{said}"),
            "all" => assert_eq!(Some(added), missed, "{said}"),
            // At most those that were young enough when it came back; while its turn comes, more of them get too old.
            "deadline" => {
                let young = 1 + since(back - TimeDelta::seconds(8));
                assert!(
                    (1..=young).contains(&added) && missed > Some(added),
                    "{said}"
                );
            }
            "resumed" => assert_eq!(added, since(created), "{said}"),
            _ => panic!("{said}"),
        }
    }
}
