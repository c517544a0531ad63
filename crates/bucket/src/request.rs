//! Refill requests, and why a message is none.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// The Celery task that a refill request names.
pub const REFILL_TASK: &str = "django_celery_token_bucket.tasks.token_bucket_refill";

/// Asks for a refill of one bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct RefillRequest {
    /// Name of the bucket, as in `token_bucket_<name>`.
    pub bucket: String,
    /// Who asks.
    pub origin: Origin,
}

/// When a request may be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Celery's `eta`: not before.
    pub not_before: Option<DateTime<Utc>>,
    /// Celery's `expires`: not after.
    pub expires: Option<DateTime<Utc>>,
}

impl Window {
    /// How long it has to wait yet.
    #[must_use]
    pub fn wait(&self, now: DateTime<Utc>) -> Duration {
        let left = self.not_before.map(|eta| eta - now);
        left.and_then(|left| left.to_std().ok()).unwrap_or_default()
    }

    /// Whether it is too late.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_some_and(|expires| now > expires)
    }
}

/// Who asks for a refill.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// The scheduler of this program.
    Schedule {
        /// UID of the resource.
        uid: String,
        /// The ledger's `since` that the tick was reckoned from.
        since: DateTime<Utc>,
        /// The due time.
        tick: DateTime<Utc>,
        /// Ticks that it stands for, at least 1.
        ticks: u64,
    },
    /// Somebody else, for example a Celery app.
    Foreign {
        /// Id of the Celery task.
        id: Option<String>,
    },
}

/// Why a message of the refill queue is no refill request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Its properties or its body are more than is looked at.
    #[error("{0}")]
    Unreadable(String),
    /// There is no header `task`.
    #[error("not a Celery message of protocol 2: it has no header task")]
    NotCelery,
    /// Another task.
    #[error("it is for the Celery task {0}; only {REFILL_TASK} belongs in a refill queue")]
    OtherTask(String),
    /// The body is not `[args, kwargs, embed]` in JSON.
    #[error(
        "its body cannot be read ({0}); Celery's serializer has to be json, without compression"
    )]
    UnreadableBody(String),
    /// No bucket is named.
    #[error("it names no bucket; the task takes the name as argument, or as keyword argument name")]
    NoBucketName,
    /// Headers that only this program writes are wrong.
    #[error("its header {0} is missing or not understood")]
    BadHeader(&'static str),
}

impl Rejection {
    /// The class of the reason: one of a fixed set of names, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "Unreadable",
            Self::NotCelery => "NotCelery",
            Self::OtherTask(_) => "OtherTask",
            Self::UnreadableBody(_) => "UnreadableBody",
            Self::NoBucketName => "NoBucketName",
            Self::BadHeader(_) => "BadHeader",
        }
    }
}
