use serde_json::json;

use super::*;

fn object(name: &str, uid: &str, created: &str, bucket: &str) -> Guarded {
    serde_json::from_value(json!({
        "apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "creationTimestamp": created},
        "spec": {"name": bucket, "schedule": "@hourly", "amount": 1, "maximum": 1},
    }))
    .unwrap()
}

fn id(name: &str) -> BucketId {
    BucketId::new("shop", name)
}

fn at(host: &str) -> Endpoint {
    Endpoint::parse(&format!("amqp://{host}")).unwrap()
}

fn home(host: &str) -> Home {
    Home {
        endpoint: at(host),
        place: amqp::Place::of(&at(host), Some(host)),
    }
}

fn asked(index: &mut Index, name: &str) -> Verdict {
    index.ask(&id(name), &at("a"), |_| None).0
}

fn rivals(index: &Index, name: &str) -> Vec<String> {
    let rivals = index.rivals(&id(name), |_| false);
    rivals.iter().map(ToString::to_string).collect()
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

fn index(objects: &[Guarded]) -> Index {
    let mut index = Index::default();
    for object in objects {
        index.observe(None, &Event::Apply(object.clone()));
    }
    index
}

#[test]
fn the_older_resource_has_the_better_claim_whatever_is_seen_first() {
    let (old, young) = (
        object("old", "u2", EARLY, "same"),
        object("young", "u1", LATE, "same"),
    );
    for objects in [[old.clone(), young.clone()], [young, old]] {
        let mut index = index(&objects);
        asked(&mut index, "young");
        let verdict = Verdict::Holds(Some(id("young")));
        assert_eq!(asked(&mut index, "old"), verdict);
        assert_eq!(index.awaited_by(&id("young")), Some(id("old")));
    }
}

#[test]
fn of_two_resources_of_the_same_second_the_smaller_uid_has_the_better_claim() {
    let mut index = index(&[
        object("a", "u2", EARLY, "same"),
        object("b", "u1", EARLY, "same"),
    ]);
    assert_eq!(asked(&mut index, "b"), Verdict::Holds(None));
    assert_eq!(asked(&mut index, "a"), Verdict::Waits(id("b")));
}

#[test]
fn whoever_was_alone_and_has_the_ledger_keeps_the_queue() {
    for owns in [false, true] {
        let mut index = index(&[
            object("old", "u2", EARLY, "same"),
            object("young", "u1", LATE, "same"),
        ]);
        let endpoint = at("a");
        let assigned = |other: &BucketId| {
            let endpoint = endpoint.clone();
            (*other == id("young")).then_some(Assignment { endpoint, owns })
        };
        let (verdict, _) = index.ask(&id("old"), &endpoint, assigned);
        let expected = match owns {
            true => Verdict::Waits(id("young")),
            false => Verdict::Holds(Some(id("young"))),
        };
        assert_eq!(verdict, expected);
    }
}

#[test]
fn a_bucket_is_established_once_its_ledger_or_its_status_says_so() {
    let mut index = index(&[object("a", "u1", EARLY, "one")]);
    index.owned(&id("a"), home("a"), "u2");
    assert_eq!(index.home(&id("a")), None);
    assert!(!index.is_established(&id("a")));
    index.owned(&id("a"), home("a"), "u1");
    assert_eq!(index.home(&id("a")).as_deref(), Some(&home("a")));
    assert!(index.is_established(&id("a")));
}

#[test]
fn rivals_are_those_that_may_be_at_the_same_broker() {
    let index = index(&[
        object("a", "u1", EARLY, "same"),
        object("b", "u2", EARLY, "same"),
        object("c", "u3", EARLY, "same"),
        object("d", "u4", EARLY, "other"),
    ]);
    assert_eq!(rivals(&index, "a"), ["u2", "u3"]);
    let elsewhere = index.rivals(&id("a"), |other| *other == id("b"));
    assert_eq!(*elsewhere, ["u3".into()]);
}

#[test]
fn the_status_of_a_resource_is_handed_over_once() {
    let mut shown = object("a", "u1", EARLY, "one");
    let status = TokenBucketStatus {
        available_tokens: Some(7),
        ..TokenBucketStatus::default()
    };
    shown.0.as_mut().unwrap().status = Some(Box::new(status.clone()));
    let mut index = index(&[shown.clone()]);
    assert_eq!(index.take_published(&id("a")), Some(Box::new(status)));
    index.observe(None, &Event::Apply(shown));
    assert_eq!(index.take_published(&id("a")), None);
}

#[test]
fn what_a_status_says_of_the_ledger_is_handed_over_once_and_only_for_its_bucket() {
    let with_status = |queue: &str| {
        let mut shown = object("a", "u1", EARLY, "one");
        let status = json!({"queueName": queue, "tokensIssued": 9, "lastHandledRefillRequest": "now",
            "lastRefill": {"scheduledTime": LATE, "completedTime": LATE, "added": 3, "trigger": "Schedule"}});
        shown.0.as_mut().unwrap().status = serde_json::from_value(status).unwrap();
        shown
    };
    let mut same = index(&[with_status("token_bucket_one")]);
    let known = same.take_known(&id("a")).unwrap();
    assert_eq!((known.tick, known.issued), (LATE.parse().ok(), 9));
    assert_eq!(known.manual.as_deref(), Some("now"));
    assert_eq!(same.take_known(&id("a")), None);
    let mut renamed = index(&[with_status("token_bucket_other")]);
    assert_eq!(renamed.take_known(&id("a")), None);
}

#[test]
fn a_version_is_news_when_its_fingerprint_is_new_or_the_resource_is() {
    let shown = object("a", "u1", EARLY, "one");
    let mut index = index(std::slice::from_ref(&shown));
    assert!(index.is_news(&shown, 7));
    assert!(!index.is_news(&shown, 7));
    assert!(index.is_news(&shown, 8));
    index.observe(None, &Event::Apply(shown.clone()));
    assert!(!index.is_news(&shown, 8));
    let successor = object("a", "u2", LATE, "one");
    index.observe(None, &Event::Apply(successor.clone()));
    assert!(index.is_news(&successor, 8));
}

#[test]
fn a_resource_without_rivals_has_none() {
    let mut index = index(&[
        object("a", "u1", EARLY, "one"),
        object("b", "u2", EARLY, "other"),
    ]);
    assert_eq!(rivals(&index, "a"), [""; 0]);
    assert_eq!(asked(&mut index, "a"), Verdict::Holds(None));
    assert!(index.conflicts.is_empty());
}

#[test]
fn whoever_comes_concerns_nobody_and_whoever_goes_the_next_one() {
    let (old, young) = (
        object("old", "u2", EARLY, "same"),
        object("young", "u1", LATE, "same"),
    );
    let mut index = index(&[young]);
    assert_eq!(
        index.observe(None, &Event::Apply(old.clone())),
        Changes::default(),
    );
    asked(&mut index, "old");
    asked(&mut index, "young");
    assert_eq!(
        index.observe(None, &Event::Delete(old)),
        Changes {
            gone: vec![id("old")],
            concerned: vec![id("young")]
        }
    );
    assert!(index.conflicts.is_empty());
}

#[test]
fn what_a_new_list_does_not_show_is_gone() {
    let (kept, lost) = (
        object("kept", "u1", EARLY, "one"),
        object("lost", "u2", EARLY, "other"),
    );
    let mut index = index(&[kept.clone(), lost]);
    index.observe(None, &Event::Init);
    index.observe(None, &Event::InitApply(kept));
    assert_eq!(index.observe(None, &Event::InitDone).gone, [id("lost")]);
}

#[test]
fn the_list_of_one_namespace_says_nothing_about_others() {
    let mut index = index(&[object("a", "u1", EARLY, "one")]);
    index.observe(Some("other"), &Event::Init);
    assert_eq!(
        index.observe(Some("other"), &Event::InitDone),
        Changes::default()
    );
}

#[test]
fn the_late_end_of_an_earlier_resource_does_not_touch_its_successor() {
    let mut index = index(&[object("a", "u2", LATE, "one")]);
    let earlier = object("a", "u1", EARLY, "one");
    assert_eq!(
        index.observe(None, &Event::Delete(earlier)),
        Changes::default()
    );
    assert!(index.holds(&id("a"), Some("u2")));
}

#[test]
fn a_resource_that_cannot_be_read_is_known_and_claims_nothing() {
    let malformed: Guarded = serde_json::from_value(json!({
        "apiVersion": "tokenbucket.dev/v1alpha1", "kind": "TokenBucket",
        "metadata": {"name": "bad", "namespace": "shop", "uid": "u0", "creationTimestamp": EARLY},
        "spec": {"name": "same", "schedule": 7},
    }))
    .unwrap();
    assert!(malformed.0.is_err());
    let index = index(&[malformed, object("good", "u1", LATE, "same")]);
    assert!(index.holds(&id("bad"), Some("u0")));
    assert_eq!(rivals(&index, "good"), [""; 0]);
}
