//! The page at `/`: every bucket's level in the last hour, for people. It only shows, and it works without scripts.

mod hour;
mod sparkline;
mod view;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::readings::{Entry, Readings};
use bucket::{BucketId, Refill};
use engine::Phase;

use hour::MINUTES;
pub use hour::{Hour, Range};

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

/// What the address asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Wish {
    /// Part of `namespace/name`.
    find: String,
    /// From 1; text, so that nonsense is the first page and not an error.
    page: String,
}

/// A bucket as the page shows it.
#[derive(Clone, Debug)]
struct Row {
    id: BucketId,
    standing: Standing,
    tokens: Option<u64>,
    maximum: Option<u64>,
    next_refill: Option<DateTime<Utc>>,
    last_refill: Option<Refill>,
    minutes: [Option<Range>; MINUTES],
}

/// Whether refills of a bucket run. In the order in which people want to see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Stalled(&'static str),
    Working(&'static str),
    Ready,
}

/// All that is on one page.
#[derive(Debug)]
struct View {
    wish: Wish,
    /// None on a replica that stands by.
    shown: Option<Shown>,
    now: DateTime<Utc>,
}

#[derive(Debug)]
struct Shown {
    rows: Vec<Row>,
    /// Buckets that the wish is about, on all pages.
    found: usize,
    stalled: usize,
    working: usize,
    page: usize,
    pages: usize,
}

/// The page, of what is in `readings`. `leads` says whether this replica is the one that knows.
pub fn router(
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
    let mut found: Vec<(Standing, &BucketId, &Entry)> = entries
        .iter()
        .filter(|(id, _)| id.to_string().contains(&find))
        .map(|(id, entry)| (standing(entry), id, entry))
        .collect();
    found.sort_by_key(|(standing, id, _)| (*standing, *id));
    let count = |wanted: fn(&Standing) -> bool| {
        let standings = found.iter().map(|(standing, ..)| standing);
        standings.filter(|standing| wanted(standing)).count()
    };
    let pages = found.len().div_ceil(ROWS).max(1);
    let page = wish.page.parse().unwrap_or(1).clamp(1, pages);
    Shown {
        stalled: count(|standing| matches!(standing, Standing::Stalled(_))),
        working: count(|standing| matches!(standing, Standing::Working(_))),
        rows: found
            .iter()
            .skip((page - 1) * ROWS)
            .take(ROWS)
            .map(|(standing, id, entry)| row(*standing, id, entry, now))
            .collect(),
        found: found.len(),
        page,
        pages,
    }
}

fn standing(entry: &Entry) -> Standing {
    if let Some(reason) = entry.reading.stalled() {
        return Standing::Stalled(reason);
    }
    match entry.reading.state().map(|state| &state.phase) {
        Some(Phase::Ready) => Standing::Ready,
        Some(Phase::Progressing { reason, .. }) => Standing::Working(reason),
        _ => Standing::Working("Connecting"),
    }
}

fn row(standing: Standing, id: &BucketId, entry: &Entry, now: DateTime<Utc>) -> Row {
    let state = entry.reading.state();
    Row {
        id: id.clone(),
        standing,
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
            let stalled = name.starts_with("bad").then_some("NameConflict");
            readings.set(&BucketId::new("shop", &name), Reading::Refused { stalled });
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
