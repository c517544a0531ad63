//! What can go wrong when a resource is reconciled, and is tried again by itself. (What a person must mend is no such error:
//! it becomes the status.)

use kube::runtime::finalizer;

use super::public::{self, Whose};
use super::resolve::ResolveError;
use crate::ops::api_error::{ApiError, has_code};
use engine::RemoveError;

/// Why a resource was not reconciled.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The finalizer could not be added or removed.
    #[error("cannot write the finalizer: {0}")]
    Finalizer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The resource changed or went while the finalizer was written.
    #[error("the resource has changed meanwhile")]
    Changed,
    /// The broker of the bucket is not known.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The queues could not be removed.
    #[error("cannot remove the queues: {0}")]
    Remove(#[from] RemoveError),
    /// The queues are being removed.
    #[error("the queues are being removed")]
    Removing,
    /// Somebody did not answer.
    #[error("it took too long: the broker or the API server does not answer")]
    Timeout,
}

impl Error {
    /// The name of the error: the label of the metric.
    #[must_use]
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Finalizer(_) => "Finalizer",
            Self::Changed => "Changed",
            Self::Resolve(error) => error.reason(),
            Self::Remove(error) => error.reason(),
            Self::Removing => "Removing",
            Self::Timeout => "Timeout",
        }
    }

    /// What people may read of it, of a bucket whose broker that is.
    #[must_use]
    pub(super) fn public(&self, whose: Whose<'_>) -> String {
        match self {
            Self::Remove(RemoveError::Broker(failure)) => {
                let why = public::text(failure.reason, &failure.message, whose);
                format!("cannot remove the queues: {why}")
            }
            error => error.to_string(),
        }
    }

    /// Whether something else has to come back first, which is known and told elsewhere.
    #[must_use]
    pub(super) fn is_expected(&self) -> bool {
        matches!(
            self,
            Self::Changed | Self::Remove(RemoveError::NotConnected)
        )
    }

    /// Whether waiting is no use.
    #[must_use]
    pub(super) fn will_not_pass(&self) -> bool {
        match self {
            Self::Resolve(error) => !matches!(error, ResolveError::SecretUnavailable { .. }),
            Self::Finalizer(_)
            | Self::Changed
            | Self::Remove(_)
            | Self::Removing
            | Self::Timeout => false,
        }
    }
}

impl From<finalizer::Error<Self>> for Error {
    fn from(error: finalizer::Error<Self>) -> Self {
        match error {
            finalizer::Error::ApplyFailed(error) | finalizer::Error::CleanupFailed(error) => error,
            finalizer::Error::AddFinalizer(error) | finalizer::Error::RemoveFinalizer(error) => {
                // 422: the patch names the finalizers that it expects.
                if [404, 409, 422].iter().any(|code| has_code(&error, *code)) {
                    Self::Changed
                } else {
                    Self::Finalizer(ApiError(error).into())
                }
            }
            error => Self::Finalizer(error.to_string().into()),
        }
    }
}
