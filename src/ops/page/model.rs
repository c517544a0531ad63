//! What is on the page.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::ops::hour::{MINUTES, Range};
use bucket::{BucketId, Refill};
use engine::Phase;

/// What the address asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wish {
    /// Part of `namespace/name`.
    pub(super) find: String,
    /// From 1; text, so that nonsense is the first page and not an error.
    pub(super) page: String,
}

/// A bucket as the page shows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: BucketId,
    pub(super) phase: Phase,
    pub(super) tokens: Option<u64>,
    pub(super) maximum: Option<u64>,
    pub(super) next_refill: Option<DateTime<Utc>>,
    pub(super) last_refill: Option<Refill>,
    pub(super) minutes: [Option<Range>; MINUTES],
}

/// All that is on one page.
#[derive(Debug)]
pub(super) struct View {
    pub(super) wish: Wish,
    /// None on a replica that stands by.
    pub(super) shown: Option<Shown>,
    pub(super) now: DateTime<Utc>,
}

#[derive(Debug)]
pub(super) struct Shown {
    pub(super) rows: Vec<Row>,
    /// Buckets that the wish is about, on all pages.
    pub(super) found: usize,
    pub(super) stalled: usize,
    pub(super) working: usize,
    pub(super) page: usize,
    pub(super) pages: usize,
}
