use bucket::DeletionPolicy;
use bucket::fixture::bucket;
use futures::FutureExt;

use super::*;

fn named(name: &str) -> Arc<Bucket> {
    let id = BucketId::new("shop", name);
    Arc::new(Bucket { id, ..bucket() })
}

fn removal(name: &str) -> Removal {
    let bucket = named(name);
    Removal {
        id: bucket.id.clone(),
        uid: bucket.uid.clone(),
        name: bucket.name.clone(),
        refill_queue: bucket.refill_queue.as_str().into(),
        policy: DeletionPolicy::Delete,
        moves: false,
        established: false,
    }
}

/// All that is to be taken up, in words.
fn taken(desired: &Desired) -> Vec<String> {
    let changes = std::iter::from_fn(|| desired.take());
    changes
        .map(|change| match change {
            Change::Apply(bucket, revision, _) => format!("{} {revision}", bucket.id.name()),
            Change::Release(id) => format!("{} released", id.name()),
            Change::Remove(removal, _) => format!("{} removed", removal.id.name()),
        })
        .collect()
}

#[test]
fn of_many_edits_the_newest_is_taken_up() {
    let desired = Desired::default();
    for revision in 0..1_000 {
        desired.apply(named("a"), revision, None);
    }
    assert_eq!(desired.pending().order.len(), 1);
    assert_eq!(taken(&desired), ["a 999"]);
    desired.apply(named("a"), 1_000, None);
    desired.release(&named("a").id);
    assert_eq!(taken(&desired), ["a released"]);
    assert!(desired.pending().buckets.is_empty());
}

#[test]
fn a_bucket_that_gives_way_goes_first() {
    let desired = Desired::default();
    desired.apply(named("rival"), 1, None);
    desired.release(&named("rival").id);
    desired.apply(named("a"), 1, None);
    assert_eq!(taken(&desired), ["rival released", "a 1"]);
}

#[test]
fn a_removal_outlives_its_successor() {
    let desired = Desired::default();
    desired.apply(named("a"), 1, None);
    let _wait = desired.remove(removal("a"));
    desired.apply(named("a"), 2, None);
    assert_eq!(taken(&desired), ["a removed", "a 2"]);
}

#[test]
fn who_has_given_up_a_removal_is_forgotten() {
    let desired = Desired::default();
    for _ in 0..10 {
        drop(desired.remove(removal("a")));
    }
    let _wait = desired.remove(removal("a"));
    assert_eq!(taken(&desired), ["a removed"]);
}

#[test]
fn an_engine_that_has_ended_answers_no_removal() {
    let desired = Desired::default();
    let before = desired.remove(removal("a"));
    drop(desired.close_on_drop());
    for wait in [before, desired.remove(removal("a"))] {
        assert!(wait.now_or_never().is_some_and(|answer| answer.is_err()));
    }
    assert!(desired.pending().buckets.is_empty());
}

#[tokio::test]
async fn a_change_wakes_who_waits_for_it() {
    let desired = Desired::default();
    let waiting = desired.next();
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    desired.release(&named("a").id);
    assert!(matches!(waiting.await, Change::Release(_)));
}

#[test]
fn an_edit_keeps_what_is_known_of_its_resource() {
    let desired = Desired::default();
    let known = || {
        let issued = 7;
        Some(Known {
            issued,
            ..Known::default()
        })
    };
    let told = || match desired.take() {
        Some(Change::Apply(_, revision, known)) => (revision, known),
        change => panic!("{change:?}"),
    };
    desired.apply(named("a"), 1, known());
    desired.apply(named("a"), 2, None);
    assert_eq!(told(), (2, known()));
    // Of another resource with that name nothing is known.
    desired.apply(named("a"), 1, known());
    let uid = "another".into();
    let anew = Bucket {
        uid,
        ..Bucket::clone(&named("a"))
    };
    desired.apply(Arc::new(anew), 1, None);
    assert_eq!(told(), (1, None));
}
