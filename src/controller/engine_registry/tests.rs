use std::time::Duration;

use engine::LeaseValidity;
use kube::runtime::reflector::ObjectRef;

use super::*;
use crate::controller::resource::Guarded;

struct Scene {
    registry: EngineRegistry,
    reports: mpsc::UnboundedReceiver<Report>,
    triggers: mpsc::UnboundedReceiver<ObjectRef<Guarded>>,
}

fn scene(most_brokers: usize) -> Scene {
    let options = Options {
        connection_name: "a test".to_owned(),
        operator: "a test".to_owned(),
        status_interval: Duration::from_secs(10),
        refill_queue_type: bucket::QueueType::Classic,
        lease: LeaseValidity::unlimited(),
    };
    let (sender, reports) = mpsc::unbounded_channel();
    let (facts, _) = mpsc::unbounded_channel();
    let mut all = ReconcileTriggers::default();
    let triggers = all.of_scope(None);
    let stop = CancellationToken::new();
    Scene {
        registry: EngineRegistry::new(options, most_brokers, sender, facts, all, stop),
        reports,
        triggers,
    }
}

/// Nobody listens at the discard port.
fn broker(vhost: u32) -> Endpoint {
    Endpoint::parse(&format!("amqp://127.0.0.1:9/{vhost}")).unwrap()
}

fn id(name: &str) -> BucketId {
    BucketId::new("shop", name)
}

#[tokio::test]
async fn a_broker_that_was_left_is_not_heard_of_again() {
    let mut scene = scene(100);
    for vhost in 0..50 {
        let name = id("a");
        scene.registry.admit(&name, &broker(vhost)).unwrap();
        scene.registry.assign(&name, &broker(vhost));
        if vhost % 2 == 0 {
            // Its first word is on the way when the bucket leaves.
            tokio::task::yield_now().await;
        } else {
            scene.reports.recv().await.unwrap();
        }
    }
    scene.registry.forget(&id("a"));
    scene.registry.drain().await;
    drop(scene.registry);
    let mut left = HashSet::new();
    while let Some(report) = scene.reports.recv().await {
        match report {
            Report::Left(broker) => assert!(left.insert(broker)),
            Report::Outcome(broker, Outcome::Connection(_)) => {
                assert!(!left.contains(&broker), "{broker}");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn whoever_was_refused_is_looked_at_again_when_a_broker_is_left() {
    let mut scene = scene(1);
    let registry = &scene.registry;
    registry.admit(&id("a"), &broker(1)).unwrap();
    registry.assign(&id("a"), &broker(1));
    assert_eq!(registry.admit(&id("b"), &broker(2)), Err(1));
    assert_eq!(registry.admit(&id("c"), &broker(3)), Err(1));
    registry.unassign(&id("b"));
    assert!(scene.triggers.try_recv().is_err());
    registry.forget(&id("a"));
    assert_eq!(scene.triggers.try_recv().unwrap().name, "b");
    assert!(scene.triggers.try_recv().is_err(), "there is room for one");
    registry.forget(&id("c"));
    let inner = registry.inner();
    assert!(inner.refused.is_empty() && inner.named.is_empty() && inner.engines.is_empty());
}

#[tokio::test]
async fn the_buckets_of_a_changed_secret_leave_together_and_nobody_else_does() {
    let mut scene = scene(100);
    let places = [
        ("a", Some("rabbit")),
        ("b", Some("rabbit")),
        ("c", Some("other")),
        ("d", None),
    ];
    for (name, secret) in places {
        scene.registry.follow(&id(name), &broker(1), secret, None);
        scene.registry.assign(&id(name), &broker(1));
    }
    let at = |registry: &EngineRegistry| {
        let at = places.map(|(name, _)| registry.broker_of(&id(name)));
        at.map(|at| at.map(|at| at.vhost().to_owned()))
    };
    let [one, two] = ["1", "2"].map(|vhost| Some(vhost.to_owned()));
    // It names another Secret now: that concerns nobody else.
    scene
        .registry
        .follow(&id("c"), &broker(2), Some("third"), None);
    scene.registry.assign(&id("c"), &broker(2));
    assert_eq!(
        at(&scene.registry),
        [one.clone(), one.clone(), two.clone(), one.clone()]
    );
    scene.triggers.try_recv().unwrap_err();
    // The Secret names another broker.
    scene
        .registry
        .follow(&id("a"), &broker(2), Some("rabbit"), None);
    scene.registry.assign(&id("a"), &broker(2));
    assert_eq!(
        at(&scene.registry),
        [two.clone(), None, two.clone(), one.clone()]
    );
    assert_eq!(scene.triggers.try_recv().unwrap().name, "b");
    scene.triggers.try_recv().unwrap_err();
    scene
        .registry
        .follow(&id("b"), &broker(2), Some("rabbit"), None);
    scene.registry.assign(&id("b"), &broker(2));
    assert_eq!(at(&scene.registry), [two.clone(), two.clone(), two, one]);
    scene.registry.drain().await;
}
