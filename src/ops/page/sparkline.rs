//! The levels of an hour as a small picture: the range of each minute, over a shaded floor, under the dashed maximum.

use std::fmt::Write;

use maud::{Markup, html};

use crate::ops::hour::{MINUTES, Range};

/// Height of the picture in its own units; its width is one for each minute.
const HEIGHT: f64 = 20.0;

/// The picture. `label` says the same in words.
pub(super) fn sparkline(
    minutes: &[Option<Range>; MINUTES],
    maximum: Option<u64>,
    label: &str,
) -> Markup {
    let highest = minutes.iter().flatten().map(|range| range.high).max();
    let top = highest.max(maximum).unwrap_or(0).max(1);
    let view = format!("0 -1 {MINUTES} {}", HEIGHT + 2.0);
    let row = |tokens| format!("{:.1}", y(tokens, top));
    html! {
        svg viewBox=(view) preserveAspectRatio="none" role="img" aria-label=(label) {
            path class="low" d=(area(minutes, top, |range| (range.low, 0))) {}
            path class="range" d=(area(minutes, top, |range| (range.high, range.low))) {}
            line class="axis" x1="0" x2=(MINUTES) y1=(row(0)) y2=(row(0)) {}
            @if let Some(maximum) = maximum {
                line class="maximum" x1="0" x2=(MINUTES) y1=(row(maximum)) y2=(row(maximum)) {}
            }
        }
    }
}

/// One shape for each unbroken run of minutes, between an upper and a lower level.
fn area(
    minutes: &[Option<Range>; MINUTES],
    top: u64,
    levels: impl Fn(Range) -> (u64, u64),
) -> String {
    let mut path = String::new();
    let mut first = 0;
    while first < MINUTES {
        let run: Vec<(u64, u64)> = minutes[first..]
            .iter()
            .map_while(|range| range.map(&levels))
            .collect();
        let mut step = 'M';
        let mut point = |x: usize, level| {
            // Text in memory takes everything.
            let _ = write!(path, "{step}{x} {:.1}", y(level, top));
            step = 'L';
        };
        for (index, (upper, _)) in run.iter().enumerate() {
            point(first + index, *upper);
            point(first + index + 1, *upper);
        }
        for (index, (_, lower)) in run.iter().enumerate().rev() {
            point(first + index + 1, *lower);
            point(first + index, *lower);
        }
        if !run.is_empty() {
            path.push('Z');
        }
        first += run.len() + 1;
    }
    path
}

fn y(tokens: u64, top: u64) -> f64 {
    HEIGHT - HEIGHT * tokens as f64 / top as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(known: &[(usize, u64, u64)]) -> [Option<Range>; MINUTES] {
        let mut minutes = [None; MINUTES];
        for &(minute, low, high) in known {
            minutes[minute] = Some(Range { low, high });
        }
        minutes
    }

    #[test]
    fn a_level_is_drawn_between_the_floor_and_the_maximum() {
        let drawn = sparkline(&minutes(&[(59, 5, 10)]), Some(10), "words").into_string();
        assert!(drawn.contains("M59 0.0L60 0.0L60 10.0L59 10.0Z"), "{drawn}");
        assert!(drawn.contains(r#"aria-label="words""#));
    }

    #[test]
    fn a_gap_is_not_drawn_over() {
        let path = area(&minutes(&[(0, 0, 1), (1, 0, 1), (9, 0, 1)]), 1, |range| {
            (range.high, range.low)
        });
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert_eq!(path.matches('Z').count(), 2, "{path}");
    }

    #[test]
    fn an_hour_without_counts_is_an_empty_picture() {
        let drawn = sparkline(&minutes(&[]), None, "nothing").into_string();
        assert!(drawn.contains(r#"class="range" d="""#), "{drawn}");
        assert!(!drawn.contains("maximum"), "{drawn}");
    }

    #[test]
    fn more_tokens_than_the_maximum_stay_in_the_picture() {
        let drawn = sparkline(&minutes(&[(59, 0, 20)]), Some(10), "words").into_string();
        assert!(drawn.contains("M59 0.0"), "{drawn}");
        assert!(drawn.contains(r#"y1="10.0""#), "{drawn}");
    }
}
