//! How the page looks. Everything is escaped by the template.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::model::{Row, Shown, View, Wish};
use super::sparkline::sparkline;
use crate::ops::hour::{MINUTES, Range};
use crate::ops::identity::PROGRAM;
use engine::Phase;

const STYLE: &str = include_str!("style.css");

pub(super) fn page(view: &View) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Token buckets" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "Token buckets" }
                    @match &view.shown {
                        Some(shown) => (buckets(view, shown)),
                        None => (standby()),
                    }
                }
                footer { (PROGRAM) " " (env!("CARGO_PKG_VERSION")) " · " (at(view.now)) " · " a href="metrics" { "metrics" } }
            }
        }
    }
}

fn standby() -> Markup {
    html! {
        p { "This replica stands by. The one that leads shows the buckets; its name is in the Lease:" }
        pre { code { "kubectl get lease " (PROGRAM) " -o jsonpath='{.spec.holderIdentity}'" } }
    }
}

fn buckets(view: &View, shown: &Shown) -> Markup {
    let Shown {
        rows,
        found,
        stalled,
        working,
        page,
        pages,
    } = shown;
    let ready = found - stalled - working;
    html! {
        p {
            span.good { (ready) " ready" } " · "
            span.wait[*working > 0] { (working) " being worked on" } " · "
            span.bad[*stalled > 0] { (stalled) " stalled" }
        }
        form role="search" {
            label for="find" { "Find" }
            input #find type="search" name="find" value=(view.wish.find) placeholder="namespace/name";
            button { "Show" }
            @if !view.wish.find.is_empty() { a href="?" { "Show all" } }
        }
        @if rows.is_empty() {
            (nothing(&view.wish))
        } @else {
            div.scroll role="region" aria-label="Buckets" tabindex="0" {
                table {
                    caption {
                        (found) " " (if *found == 1 { "bucket" } else { "buckets" })
                        @if *pages > 1 { ", page " (page) " of " (pages) }
                        ". Last hour: lowest to highest count of each minute, under the dashed maximum."
                    }
                    thead { tr {
                        th scope="col" { "Bucket" } th scope="col" { "Tokens" } th scope="col" { "Last hour" }
                        th scope="col" { "Next refill" } th scope="col" { "Last refill" } th scope="col" { "State" }
                    } }
                    tbody { @for row in rows { (line(row, view.now)) } }
                }
            }
            (pager(&view.wish, *page, *pages))
        }
    }
}

fn nothing(wish: &Wish) -> Markup {
    html! {
        @if wish.find.is_empty() {
            p { "There is no TokenBucket yet. Create one with kubectl apply; see its fields with kubectl explain tokenbucket.spec" }
        } @else {
            p { "No bucket has “" (wish.find) "” in its namespace/name." }
        }
    }
}

fn line(row: &Row, now: DateTime<Utc>) -> Markup {
    html! {
        tr {
            th scope="row" {
                (row.id.name()) br;
                span.soft { (row.id.namespace()) }
            }
            td.level { (level(row)) }
            td {
                (sparkline(&row.minutes, row.maximum, &in_words(&row.minutes, row.maximum)))
                @if let Some(words) = emptiness(&row.minutes) { span.soft { (words) } }
            }
            td { @match row.next_refill { Some(due) => (distance(due, now)), None => span.soft { "none" } } }
            td {
                @match &row.last_refill {
                    Some(refill) => {
                        "+" (refill.added) ", " (distance(refill.completed_time, now)) br;
                        span.soft { (format!("{:?}", refill.trigger)) }
                    }
                    None => span.soft { "none yet" },
                }
            }
            td {
                @match &row.phase {
                    Phase::Ready => span.good { "Ready" },
                    Phase::Progressing { reason, .. } => span.wait { "Working: " (reason) },
                    Phase::Stalled { reason, .. } => span.bad { "Stalled: " (reason) },
                }
            }
        }
    }
}

fn level(row: &Row) -> Markup {
    html! {
        @match (row.tokens, row.maximum) {
            (Some(tokens), Some(maximum)) => {
                (tokens) " of " (maximum)
                meter min="0" max=(maximum) value=(tokens.min(maximum)) aria-hidden="true" {}
            }
            (Some(tokens), None) => (tokens),
            (None, _) => span.soft { "not counted" },
        }
    }
}

fn pager(wish: &Wish, page: usize, pages: usize) -> Markup {
    let find: String = wish
        .find
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    html! {
        @if pages > 1 {
            nav aria-label="Pages" {
                @if page > 1 { a href=(format!("?find={find}&page={}", page - 1)) rel="prev" { "Previous" } }
                @if page < pages { a href=(format!("?find={find}&page={}", page + 1)) rel="next" { "Next" } }
            }
        }
    }
}

/// The picture in words, for those who do not see it.
fn in_words(minutes: &[Option<Range>; MINUTES], maximum: Option<u64>) -> String {
    let ranges = || minutes.iter().flatten();
    let lowest = ranges().map(|range| range.low).min();
    let highest = ranges().map(|range| range.high).max();
    match (lowest.zip(highest), maximum) {
        (None, _) => "nothing counted in the last hour".to_owned(),
        (Some((low, high)), Some(maximum)) => {
            format!("from {low} to {high} tokens in the last hour, maximum {maximum}")
        }
        (Some((low, high)), None) => format!("from {low} to {high} tokens in the last hour"),
    }
}

/// Workers that find no token wait: how often that may have been.
fn emptiness(minutes: &[Option<Range>; MINUTES]) -> Option<String> {
    let counted = minutes.iter().flatten().count();
    let empty = minutes
        .iter()
        .flatten()
        .filter(|range| range.low == 0)
        .count();
    let unit = if counted == 1 { "minute" } else { "minutes" };
    (empty > 0).then(|| format!("empty in {empty} of {counted} {unit}"))
}

/// An instant as people think of it, with the exact one for programs and on pointing at it.
fn distance(instant: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let away = instant - now;
    let size = away.abs();
    let (number, unit) = if size < TimeDelta::minutes(2) {
        (size.num_seconds(), "s")
    } else if size < TimeDelta::hours(2) {
        (size.num_minutes(), "min")
    } else if size < TimeDelta::days(2) {
        (size.num_hours(), "h")
    } else {
        (size.num_days(), "days")
    };
    let words = if away >= TimeDelta::zero() {
        format!("in {number} {unit}")
    } else {
        format!("{number} {unit} ago")
    };
    let exact = at(instant);
    html! { time datetime=(instant.format("%FT%TZ")) title=(exact) { (words) } }
}

fn at(instant: DateTime<Utc>) -> String {
    instant.format("%F %T UTC").to_string()
}
