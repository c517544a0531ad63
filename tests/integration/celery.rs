//! Programs that use the library django-celery-token-bucket work with our queues as they are. The Django project is in
//! tests/celery.

use chrono::{DateTime, SubsecRound, TimeDelta};
use serde_json::json;
use token_bucket_operator::{
    api::{TokenBucketStatus, Trigger, from_time},
    bucket::{Origin, REFILL_TASK, RefillRequest},
};

use crate::support::{Celery, Operator, RARELY, SOON, Vhost, eventually, send_requests, stage};

const BUCKET: &str = "token_bucket_x";
const REFILL: &str = "token_buckets.refill";

#[tokio::test]
async fn a_celery_worker_takes_tokens_from_our_bucket() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 3, "maximum": 5, "initialTokens": 5});
    buckets.create("x", spec).await;
    depth_becomes(&vhost, BUCKET, 5).await;
    let celery = Celery::new(&vhost, 3, 5).await;
    let _worker = celery.worker("celery");

    celery
        .python("from app import call\nfor n in range(9): call.delay(n)")
        .await;
    celery
        .until("five tasks to run and four to wait", |journal| {
            journal.attempts("SUCCESS app.call") == 5 && journal.tried("RETRY app.call") == 4
        })
        .await;
    assert_eq!(vhost.depth(BUCKET).await, Some(0));

    buckets.request_refill("x", "three more").await;
    let journal = celery
        .until("three more to run", |journal| {
            journal.attempts("SUCCESS app.call") == 8
        })
        .await;
    let turn = journal.attempts("RETRY app.call");
    let journal = celery
        .until("the last one to wait again", |journal| {
            journal.attempts("RETRY app.call") > turn
        })
        .await;
    assert_eq!(journal.tried("SUCCESS app.call"), 8, "{journal:?}");
    assert_eq!(journal.attempts("FAILURE"), 0, "{journal:?}");
    assert_eq!(vhost.depth(BUCKET).await, Some(0));
    buckets
        .until("x", "the tokens in the status", |status| {
            (status.tokens_issued, status.available_tokens) == (Some(8), Some(0))
        })
        .await;
}

#[tokio::test]
async fn a_celery_app_may_ask_for_a_refill() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 7, "maximum": 100});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let celery = Celery::new(&vhost, 7, 100).await;

    // The periodic task names the bucket by keyword, as the library registers it; a program may name it by position.
    // Either declares the queue first, while the operator is its exclusive consumer.
    celery.python("import beat").await;
    depth_becomes(&vhost, BUCKET, 7).await;
    celery
        .python(&format!(
            "from app import app\n\
             app.send_task('{REFILL_TASK}', ['x'], queue='{REFILL}')"
        ))
        .await;
    let status = buckets
        .until("x", "both refills", |status| {
            status.tokens_issued == Some(14)
        })
        .await;
    let trigger = status.last_refill.map(|refill| refill.trigger);
    assert_eq!(trigger, Some(Trigger::Request));

    // A request that had not been acknowledged would be there again.
    operator.terminate().await;
    assert_eq!(vhost.depth(REFILL).await, Some(0));
    assert_eq!(vhost.depth(BUCKET).await, Some(14));
}

#[tokio::test]
async fn a_request_is_carried_out_between_its_eta_and_its_expiry_and_once() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let extra = ["--status-interval", "200ms"];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &extra).await;
    let spec = json!({"schedule": RARELY, "amount": 7, "maximum": 100});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let celery = Celery::new(&vhost, 7, 100).await;
    let eta = (chrono::Utc::now() + TimeDelta::seconds(15)).trunc_subsecs(0);
    let send = |calls: String| {
        format!(
            "from datetime import datetime, timedelta, timezone\n\
             from app import app\n\
             def send(**options): app.send_task('{REFILL_TASK}', ['x'], queue='{REFILL}', **options)\n\
             now = datetime.now(timezone.utc)\n\
             {calls}"
        )
    };
    // With an offset, and without one, which is UTC; then one that is far away, and one at once.
    let calls = format!(
        "eta = datetime.fromisoformat('{}')\n\
         send(eta=eta.astimezone(timezone(timedelta(hours=5))), expires=now + timedelta(hours=1))\n\
         send(eta=eta.replace(tzinfo=None))\n\
         send(countdown=86400)\n\
         send()",
        eta.to_rfc3339()
    );
    celery.python(&send(calls)).await;
    // It dies with the others in its hands.
    let issued =
        |tokens: u64| move |status: &TokenBucketStatus| status.tokens_issued == Some(tokens);
    buckets.until("x", "the one at once", issued(7)).await;
    operator.kill().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &extra).await;
    let status = buckets.until("x", "those with an eta", issued(21)).await;
    let last = status.last_refill.expect("a refill").completed_time;
    assert!(from_time(&last) >= eta, "{last:?} {eta}");

    let calls = "send(eta=now + timedelta(seconds=2), expires=now + timedelta(seconds=1))";
    celery.python(&send(calls.to_owned())).await;
    let expired = "tokenbucket_requests_dropped_total{reason=\"Expired\"}";
    eventually(
        "the expired one to be counted",
        SOON,
        async || match operator.metric(expired).await? {
            Some(1.0) => Ok(()),
            count => Err(format!("{count:?}")),
        },
    )
    .await;
    operator.terminate().await;
    vhost.depth_becomes(REFILL, 1).await;
    assert_eq!(vhost.depth(BUCKET).await, Some(21));
    assert_eq!(vhost.depth("token_buckets.refill.rejected").await, Some(0));
}

#[tokio::test]
async fn a_request_of_the_operator_is_a_valid_celery_message() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    let spec = json!({"schedule": RARELY, "amount": 4, "maximum": 10});
    let uid = buckets.create("x", spec).await.metadata.uid;
    buckets.ready("x").await;
    operator.terminate().await;
    let request = RefillRequest {
        bucket: "x".into(),
        origin: Origin::Schedule {
            uid: uid.expect("a uid"),
            since: DateTime::UNIX_EPOCH,
            tick: DateTime::from_timestamp_secs(1_000_000_000).expect("an instant"),
            ticks: 1,
        },
    };
    send_requests(&vhost, REFILL, vec![request]).await;

    // The library declares the bucket's queue before it adds tokens: with other arguments than ours its task fails.
    let celery = Celery::new(&vhost, 4, 10).await;
    let _worker = celery.worker(REFILL);
    let done = format!("SUCCESS {REFILL_TASK}");
    let journal = celery
        .until("the library to refill", |journal| {
            journal.attempts(&done) == 1
        })
        .await;
    assert_eq!(journal.attempts("FAILURE"), 0, "{journal:?}");
    depth_becomes(&vhost, BUCKET, 4).await;
}

#[tokio::test]
async fn a_worker_keeps_going_while_the_maximum_is_raised() {
    let (testbed, namespace, vhost, buckets) = stage().await;
    let _operator =
        Operator::start(testbed, &namespace, &vhost, &["--status-interval", "200ms"]).await;
    let spec = json!({"schedule": RARELY, "amount": 10, "maximum": 100, "initialTokens": 10});
    buckets.create("x", spec).await;
    buckets.ready("x").await;
    let celery = Celery::new(&vhost, 10, 100).await;
    let _worker = celery.worker("celery");
    // Most of the tasks find no token and try again soon: the queue is asked all the time.
    celery
        .python("from app import call\nfor n in range(60): call.delay(n)")
        .await;

    for round in 1..=6_u32 {
        let taken = 10 * round;
        celery
            .until("the tokens to be taken", |journal| {
                journal.attempts("SUCCESS app.call") == taken as usize
            })
            .await;
        buckets.request_refill("x", &format!("round {round}")).await;
        let maximum = 100 + round;
        buckets.edit("x", json!({ "maximum": maximum })).await;
        buckets
            .until("x", "the larger queue and the refill", |status| {
                let now = (status.maximum, status.tokens_issued);
                now == (Some(maximum), Some(u64::from(taken + 10)))
            })
            .await;
    }
    let journal = celery.journal();
    assert_eq!(journal.attempts("FAILURE"), 0, "{journal:?}");
    assert_eq!(journal.attempts("SUCCESS app.call"), 60, "{journal:?}");
    depth_becomes(&vhost, BUCKET, 10).await;
}

async fn depth_becomes(vhost: &Vhost<'_>, queue: &str, tokens: u64) {
    eventually("the tokens", SOON, async || {
        match vhost.depth(queue).await {
            Some(depth) if depth == tokens => Ok(()),
            depth => Err(format!("{depth:?} instead of {tokens}")),
        }
    })
    .await;
}
