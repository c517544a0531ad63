//! What was last known of each bucket, for metrics and for the page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::hour::Hour;
use bucket::BucketId;
use engine::{BucketState, Phase};

/// What is known of a bucket.
#[derive(Clone, Debug)]
pub enum Reading {
    /// What the engine told last.
    Known(Arc<BucketState>),
    /// The engine does not have it: why.
    Refused(Box<Phase>),
}

/// What there is to show of a bucket: its reading, and its counts of the last hour if anybody looks at those.
#[derive(Debug)]
pub(super) struct BucketReading {
    pub(super) reading: Option<Reading>,
    /// Whether there shall be an alert when the bucket is empty for long.
    pub(super) alert_when_empty: bool,
    pub(super) hour: Option<Box<Hour>>,
}

/// The readings of all buckets; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// One map for all: a family for each metric would need several times as much memory with thousands of buckets.
    entries: Arc<Mutex<HashMap<BucketId, BucketReading>>>,
    hours: bool,
}

impl Readings {
    /// No bucket is known yet. With `hours`, the counts of the last hour are remembered.
    #[must_use]
    pub fn new(hours: bool) -> Self {
        Self {
            entries: Arc::default(),
            hours,
        }
    }

    pub(super) fn set(&self, id: &BucketId, reading: Reading) {
        let mut entries = self.entries();
        let entry = self.entry(&mut entries, id);
        if let (Some(hour), Some(observed)) = (
            &mut entry.hour,
            reading.state().and_then(|state| state.observed),
        ) {
            hour.note(observed.at, observed.tokens);
        }
        entry.reading = Some(reading);
    }

    pub(super) fn alert_when_empty(&self, id: &BucketId, wanted: bool) {
        let mut entries = self.entries();
        if wanted {
            self.entry(&mut entries, id).alert_when_empty = true;
        } else if let Some(entry) = entries.get_mut(id) {
            entry.alert_when_empty = false;
        }
    }

    fn entry<'e>(
        &self,
        entries: &'e mut HashMap<BucketId, BucketReading>,
        id: &BucketId,
    ) -> &'e mut BucketReading {
        entries.entry(id.clone()).or_insert_with(|| BucketReading {
            reading: None,
            alert_when_empty: false,
            hour: self.hours.then(Box::default),
        })
    }

    pub(super) fn remove(&self, id: &BucketId) {
        self.entries().remove(id);
    }

    pub(super) fn clear(&self) {
        self.entries().clear();
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, HashMap<BucketId, BucketReading>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn state(&self) -> Option<&BucketState> {
        match self {
            Self::Known(state) => Some(state),
            Self::Refused(_) => None,
        }
    }
}

impl BucketReading {
    pub(super) fn state(&self) -> Option<&BucketState> {
        self.reading.as_ref()?.state()
    }

    /// None before anything is known.
    pub(super) fn phase(&self) -> Option<&Phase> {
        self.reading.as_ref().map(|reading| match reading {
            Reading::Known(state) => &state.phase,
            Reading::Refused(phase) => phase,
        })
    }

    /// Why it needs a person, in one CamelCase word, if it does.
    pub(super) fn stalled(&self) -> Option<&'static str> {
        match self.phase() {
            Some(Phase::Stalled { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.phase() == Some(&Phase::Ready)
    }
}
