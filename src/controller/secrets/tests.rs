use std::sync::atomic::AtomicU32;

use futures::future::join_all;
use serde_json::json;
use tokio::time::{advance, sleep};

use super::*;

/// The Secrets, and how often they were read.
#[derive(Default)]
struct Scene {
    secrets: Secrets,
    reads: AtomicU32,
    exists: AtomicBool,
}

fn object(name: &str, generation: i64, secret: Option<&str>) -> Guarded {
    let connection = secret.map(|name| json!({"secretRef": {"name": name}}));
    serde_json::from_value(json!({
        "apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket",
        "metadata": {"name": name, "namespace": "shop", "uid": "u1", "generation": generation},
        "spec": {"schedule": "@hourly", "amount": 1, "maximum": 1, "connection": connection},
    }))
    .unwrap()
}

fn id(name: &str) -> BucketId {
    BucketId::new("shop", name)
}

impl Scene {
    fn apply(&self, name: &str, generation: i64, secret: Option<&str>) {
        let event = Event::Apply(object(name, generation, secret));
        self.secrets.observe(&event, &[]);
    }

    async fn get(&self, name: &str) -> Answer {
        let read = async {
            self.reads.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(5)).await;
            match self.exists.load(Ordering::SeqCst) {
                true => Ok(Endpoint::parse("amqp://h").unwrap()),
                false => Err(ResolveError::SecretNotFound(name.to_owned())),
            }
        };
        self.secrets.get("shop", name, read).await
    }

    fn reads(&self) -> u32 {
        self.reads.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn many_buckets_that_ask_at_the_same_time_cost_one_request() {
    let scene = Scene::default();
    for number in 0..1000 {
        scene.apply(&format!("bucket-{number}"), 1, Some("missing"));
    }
    let answers = join_all((0..1000).map(|_| scene.get("missing"))).await;
    assert!(answers.iter().all(|answer| answer.outcome.is_err()));
    assert_eq!(scene.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_asked_for_less_and_less_often() {
    let scene = Scene::default();
    scene.apply("a", 1, Some("missing"));
    // A bucket that tries again whenever it may, for an hour.
    let (begin, hour) = (Instant::now(), Duration::from_secs(3600));
    let mut pauses = Vec::new();
    while begin.elapsed() < hour {
        assert!(scene.get("missing").await.outcome.is_err());
        let pause = scene.secrets.pause("shop", "missing");
        pauses.push(pause.as_secs());
        advance(pause).await;
    }
    assert_eq!(pauses[0], 10);
    assert!((15..=20).contains(&pauses[1]), "{pauses:?}");
    assert!(
        pauses[5..].iter().all(|pause| (120..=160).contains(pause)),
        "{pauses:?}"
    );
    assert_eq!(scene.reads() as usize, pauses.len());
    // Those that ask more often get the same answer, and cost nothing.
    for _ in 0..100 {
        assert!(scene.get("missing").await.outcome.is_err());
        advance(Duration::from_millis(100)).await;
    }
    assert!(scene.reads() as usize <= pauses.len() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_bucket_has_its_secret_looked_at_within_ten_seconds_and_no_sooner() {
    let scene = Scene::default();
    scene.apply("a", 1, Some("missing"));
    for _ in 0..8 {
        let _ = scene.get("missing").await;
        advance(scene.secrets.pause("shop", "missing")).await;
    }
    let _ = scene.get("missing").await;
    let reads = scene.reads();
    scene.apply("a", 1, Some("missing"));
    advance(Duration::from_secs(11)).await;
    let _ = scene.get("missing").await;
    assert_eq!(scene.reads(), reads, "it was not changed");
    scene.apply("b", 1, Some("missing"));
    let _ = scene.get("missing").await;
    assert_eq!(scene.reads(), reads + 1, "a new bucket may look once");
    for generation in 2..50 {
        scene.apply("b", generation, Some("missing"));
        let _ = scene.get("missing").await;
        assert!(scene.secrets.pause("shop", "missing") <= SHORTEST_PAUSE);
    }
    assert_eq!(scene.reads(), reads + 1, "once in ten seconds");
    advance(SHORTEST_PAUSE).await;
    let _ = scene.get("missing").await;
    assert_eq!(scene.reads(), reads + 2);
}

#[tokio::test(start_paused = true)]
async fn when_a_secret_comes_all_that_wait_for_it_are_told() {
    let scene = Scene::default();
    for name in ["a", "b"] {
        scene.apply(name, 1, Some("late"));
        assert_eq!(scene.get("late").await.concerned, []);
    }
    scene.exists.store(true, Ordering::SeqCst);
    advance(SHORTEST_PAUSE).await;
    let mut waiting = scene.get("late").await.concerned;
    waiting.sort();
    assert_eq!(waiting, [id("a"), id("b")]);
    advance(SHORTEST_PAUSE).await;
    assert_eq!(scene.get("late").await.concerned, [], "it was good before");
}

#[tokio::test(start_paused = true)]
async fn a_secret_in_use_has_its_turns_and_one_that_is_missing_has_none() {
    let minute = Duration::from_secs(60);
    let scene = Scene {
        secrets: Secrets::new(minute),
        ..Scene::default()
    };
    scene.apply("a", 1, Some("missing"));
    scene.get("missing").await.outcome.unwrap_err();
    scene.exists.store(true, Ordering::SeqCst);
    scene.apply("b", 1, Some("there"));
    scene.get("there").await.outcome.unwrap();
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(scene.secrets.due_again().await.1, "there");
    }
    let took = start.elapsed();
    assert!(minute * 9 <= took && took <= minute * 10, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn whom_a_look_concerns_is_told_when_the_secret_is_not_as_it_was() {
    let scene = Scene::default();
    let secret = ("shop".to_owned(), "rabbit".to_owned());
    scene.exists.store(true, Ordering::SeqCst);
    for name in ["a", "b"] {
        scene.apply(name, 1, Some("rabbit"));
    }
    scene.get("rabbit").await.outcome.unwrap();
    let at = |uri: &str| Ok(Endpoint::parse(uri).unwrap());
    let away = Err(ResolveError::SecretUnavailable {
        name: "rabbit".into(),
        source: Arc::new(crate::ops::api_error::ApiError(
            kube::Error::LinesCodecMaxLineLengthExceeded,
        )),
    });
    let all = vec![id("a"), id("b")];
    for (read, concerned) in [
        (at("amqp://h"), Some(Vec::new())),
        (away, None),
        (at("amqp://h"), Some(Vec::new())),
        (at("amqp://new:p@h"), Some(all.clone())),
        (
            Err(ResolveError::SecretNotFound("rabbit".into())),
            Some(all),
        ),
    ] {
        let told = scene.secrets.get_again(&secret, async { read }).await;
        let told = told.map(|mut told| {
            told.sort();
            told
        });
        assert_eq!(told, concerned);
    }
    assert!(matches!(
        scene.secrets.known(&id("a"), "rabbit"),
        Ok(Err(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_of_a_secret_that_nobody_names() {
    let scene = Scene::default();
    for number in 0..100 {
        // Each time another one, as somebody would who wants to fill the memory.
        scene.apply("a", number, Some(&format!("secret-{number}")));
        let _ = scene.get(&format!("secret-{number}")).await;
    }
    let known = |scene: &Scene| scene.secrets.inner().secrets.len();
    assert_eq!(known(&scene), 1);
    scene.apply("b", 1, Some("secret-99"));
    scene.apply("a", 100, None);
    assert_eq!(known(&scene), 1);
    scene.secrets.observe(&Event::InitDone, &[id("b")]);
    assert_eq!(known(&scene), 0);
    // A pass that is late finds the answer, and leaves nothing behind.
    assert!(scene.get("secret-99").await.outcome.is_err());
    let inner = scene.secrets.inner();
    assert!(inner.secrets.is_empty() && inner.namings.is_empty() && inner.rereads.is_empty());
}

#[test]
fn an_api_server_that_is_away_says_nothing_about_a_secret() {
    let at = Instant::now();
    let missing = ResolveError::SecretNotFound("s".into());
    let look = Look::new(Err(missing.clone()), 3, at, 0.0);
    assert_eq!(
        (look.next - at, look.failures),
        (Duration::from_secs(60), 4)
    );
    let away = ResolveError::SecretUnavailable {
        name: "s".into(),
        source: Arc::new(crate::ops::api_error::ApiError(
            kube::Error::LinesCodecMaxLineLengthExceeded,
        )),
    };
    let look = Look::new(Err(away), 3, at, 0.0);
    assert_eq!((look.next - at, look.failures), (PAUSE_WHILE_AWAY, 3));
}

#[tokio::test(start_paused = true)]
async fn a_pass_does_not_wait_for_a_secret_and_is_told_when_it_was_read() {
    let scene = Scene::default();
    for name in ["a", "b"] {
        scene.apply(name, 1, Some("late"));
    }
    let known = |name: &str| scene.secrets.known(&id(name), "late");
    let secret = ("shop".to_owned(), "late".to_owned());
    assert!(matches!((known("a"), known("b")), (Err(true), Err(false))));
    {
        let mut reading = std::pin::pin!(scene.get("late"));
        assert!(futures::poll!(&mut reading).is_pending());
        assert!(matches!(known("a"), Err(false)), "it is being read");
        reading.await.outcome.unwrap_err();
    }
    assert!(matches!(known("a"), Ok(Err(_))));
    let mut waiting = scene.secrets.take_waiting(&secret);
    waiting.sort();
    assert_eq!(waiting, [id("a"), id("b")]);
    assert_eq!(scene.secrets.take_waiting(&secret), []);
    advance(SHORTEST_PAUSE).await;
    assert!(matches!(known("a"), Err(true)));
    scene.apply("a", 2, None);
    assert_eq!(scene.secrets.take_waiting(&secret), []);
    assert!(known("a").is_err());
    scene.secrets.observe(&Event::InitDone, &[id("b")]);
    assert!(matches!(known("b"), Err(false)), "nobody names it");
}
