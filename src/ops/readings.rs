//! What was last known of each bucket, for metrics and for the page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::page::Hour;
use bucket::BucketId;
use engine::{BucketState, Phase};

/// What is known of a bucket.
#[derive(Clone, Debug)]
pub enum Reading {
    /// What the engine told last.
    Told(Arc<BucketState>),
    /// The engine does not have it.
    Refused {
        /// Why it needs a person, in one CamelCase word, if it does.
        stalled: Option<&'static str>,
    },
}

/// A bucket's reading, and its counts of the last hour if anybody looks at those.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) reading: Reading,
    /// Whether there shall be an alert when the bucket is empty for long.
    pub(super) alert_when_empty: bool,
    pub(super) hour: Option<Box<Hour>>,
}

/// The readings of all buckets; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// One map for all: a family for each metric would need several times as much memory with thousands of buckets.
    entries: Arc<Mutex<HashMap<BucketId, Entry>>>,
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
        entry.reading = reading;
    }

    pub(super) fn alert_when_empty(&self, id: &BucketId, wanted: bool) {
        let mut entries = self.entries();
        if wanted {
            self.entry(&mut entries, id).alert_when_empty = true;
        } else if let Some(entry) = entries.get_mut(id) {
            entry.alert_when_empty = false;
        }
    }

    fn entry<'e>(&self, entries: &'e mut HashMap<BucketId, Entry>, id: &BucketId) -> &'e mut Entry {
        entries.entry(id.clone()).or_insert_with(|| Entry {
            reading: Reading::Refused { stalled: None },
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

    pub(super) fn entries(&self) -> MutexGuard<'_, HashMap<BucketId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    pub(super) fn state(&self) -> Option<&BucketState> {
        match self {
            Self::Told(state) => Some(state),
            Self::Refused { .. } => None,
        }
    }

    pub(super) fn stalled(&self) -> Option<&'static str> {
        match self {
            Self::Told(state) => match state.phase {
                Phase::Stalled { reason, .. } => Some(reason),
                _ => None,
            },
            Self::Refused { stalled } => *stalled,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state()
            .is_some_and(|state| state.phase == Phase::Ready)
    }
}
