//! The page at `/`: every bucket's level in the last hour, for people. It only shows, and it works without scripts.

mod model;
mod sparkline;
mod view;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use chrono::{DateTime, Utc};

use super::hour::MINUTES;
use super::readings::{BucketReading, Readings};
use bucket::BucketId;
use engine::Phase;
use model::{Row, Shown, View, Wish};

/// Buckets on one page.
const ROWS: usize = 100;

/// Nothing but the page itself is loaded, run or framed.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// The page, of what is in `readings`. `leads` says whether this replica is the one that knows.
pub(super) fn router(
    readings: Readings,
    leads: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> Router {
    let page = move |State(readings): State<Readings>, Query(wish): Query<Wish>| async move {
        let now = Utc::now();
        let shown = leads().then(|| show(&readings, &wish, now));
        let page = view::page(&View { wish, shown, now });
        (HEADERS, Html(page.into_string())).into_response()
    };
    Router::new().route("/", get(page)).with_state(readings)
}

fn show(readings: &Readings, wish: &Wish, now: DateTime<Utc>) -> Shown {
    let entries = readings.entries();
    let find = wish.find.trim().to_lowercase();
    let unknown = Phase::progressing("Connecting", "");
    let mut found: Vec<(&Phase, &BucketId, &BucketReading)> = entries
        .iter()
        .filter(|(id, _)| id.to_string().contains(&find))
        .map(|(id, entry)| (entry.phase().unwrap_or(&unknown), id, entry))
        .collect();
    found.sort_by_key(|(phase, id, _)| (urgency(phase), *id));
    let count = |wanted: fn(&Phase) -> bool| {
        let phases = found.iter().map(|(phase, ..)| phase);
        phases.filter(|phase| wanted(phase)).count()
    };
    let pages = found.len().div_ceil(ROWS).max(1);
    let page = wish.page.parse().unwrap_or(1).clamp(1, pages);
    Shown {
        stalled: count(|phase| matches!(phase, Phase::Stalled { .. })),
        working: count(|phase| matches!(phase, Phase::Progressing { .. })),
        rows: found
            .iter()
            .skip((page - 1) * ROWS)
            .take(ROWS)
            .map(|(phase, id, entry)| row(phase, id, entry, now))
            .collect(),
        found: found.len(),
        page,
        pages,
    }
}

/// The order in which people want to see buckets.
fn urgency(phase: &Phase) -> (u8, &'static str) {
    match phase {
        Phase::Stalled { reason, .. } => (0, reason),
        Phase::Progressing { reason, .. } => (1, reason),
        Phase::Ready => (2, ""),
    }
}

fn row(phase: &Phase, id: &BucketId, entry: &BucketReading, now: DateTime<Utc>) -> Row {
    let state = entry.state();
    Row {
        id: id.clone(),
        phase: phase.clone(),
        tokens: state.and_then(|state| Some(state.observed?.tokens)),
        maximum: state.and_then(|state| state.limit),
        next_refill: state.and_then(|state| state.next_refill),
        last_refill: state.and_then(|state| state.last_refill.clone()),
        minutes: entry
            .hour
            .as_ref()
            .map_or([None; MINUTES], |hour| hour.minutes(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Reading;

    fn readings(names: impl IntoIterator<Item = String>) -> Readings {
        let readings = Readings::new(true);
        for name in names {
            let phase = match name.starts_with("bad") {
                true => Phase::stalled("NameConflict", "mend it"),
                false => Phase::progressing("SecretNotFound", "create it"),
            };
            let reading = Reading::Refused(phase.into());
            readings.set(&BucketId::new("shop", &name), reading);
        }
        readings
    }

    fn text(readings: &Readings, find: &str, page: &str) -> String {
        let wish = Wish {
            find: find.into(),
            page: page.into(),
        };
        let now = Utc::now();
        let shown = Some(show(readings, &wish, now));
        view::page(&View { wish, shown, now }).into_string()
    }

    #[test]
    fn what_needs_a_person_comes_first() {
        let shown = text(&readings(["a".into(), "bad".into()]), "", "");
        assert!(shown.find(">bad<") < shown.find(">a<"), "{shown}");
        assert!(shown.contains("1 stalled"), "{shown}");
    }

    #[test]
    fn many_buckets_are_several_pages_with_links_that_keep_the_search() {
        let many = readings((0..250).map(|number| format!("b-{number:03}")));
        let first = text(&many, "B-", "nonsense");
        assert!(first.contains("250 buckets, page 1 of 3"), "{first}");
        assert!(first.contains(r#"href="?find=%42%2D&amp;page=2" rel="next""#));
        assert!(first.contains(">b-099<") && !first.contains(">b-100<"));
        let last = text(&many, "", "99");
        assert!(last.contains("page 3 of 3") && last.contains(">b-249<"));
        assert!(!last.contains(r#"rel="next""#));
    }

    #[test]
    fn what_is_searched_for_cannot_become_part_of_the_page() {
        let shown = text(&readings([]), r#""><script>alert(1)</script>"#, "");
        assert!(!shown.contains("<script"), "{shown}");
        assert!(shown.contains("No bucket has"), "{shown}");
    }
}
