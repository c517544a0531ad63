//! What a bucket can do, whatever is behind it.

use std::time::Duration;

use tokio::time::timeout;

use crate::{Bucket, Error, Token};

/// A bucket to take tokens from: a real [`Bucket`], or with the feature `mock` one in memory, for the tests of a program that is
/// generic over this.
pub trait TokenBucket: Clone + Send + Sync + 'static {
    /// The bucket's name.
    fn name(&self) -> &str;

    /// Takes so many tokens if there are that many, else none.
    ///
    /// # Errors
    /// See [`Bucket::try_acquire_many`].
    fn try_acquire_many(
        &self,
        tokens: u32,
    ) -> impl Future<Output = Result<Option<Token>, Error>> + Send;

    /// Waits until so many tokens are there, and takes them. Cancel-safe.
    ///
    /// # Errors
    /// See [`Bucket::acquire_many`].
    fn acquire_many(&self, tokens: u32) -> impl Future<Output = Result<Token, Error>> + Send;

    /// Counts the tokens that are there.
    ///
    /// # Errors
    /// See [`Bucket::available`].
    fn available(&self) -> impl Future<Output = Result<u32, Error>> + Send;

    /// Takes a token if there is one.
    ///
    /// # Errors
    /// See [`Bucket::try_acquire`].
    fn try_acquire(&self) -> impl Future<Output = Result<Option<Token>, Error>> + Send {
        self.try_acquire_many(1)
    }

    /// Waits until there is a token, and takes it. Cancel-safe.
    ///
    /// # Errors
    /// See [`Bucket::acquire`].
    fn acquire(&self) -> impl Future<Output = Result<Token, Error>> + Send {
        self.acquire_many(1)
    }

    /// The same with a deadline.
    ///
    /// # Errors
    /// See [`Bucket::acquire_timeout`].
    fn acquire_timeout(
        &self,
        within: Duration,
    ) -> impl Future<Output = Result<Token, Error>> + Send {
        async move {
            let acquired = timeout(within, self.acquire()).await;
            acquired.unwrap_or_else(|_| {
                Err(Error::Timeout {
                    bucket: self.name().to_owned(),
                    within,
                })
            })
        }
    }
}

impl TokenBucket for Bucket {
    fn name(&self) -> &str {
        Self::name(self)
    }

    fn try_acquire_many(
        &self,
        tokens: u32,
    ) -> impl Future<Output = Result<Option<Token>, Error>> + Send {
        Self::try_acquire_many(self, tokens)
    }

    fn acquire_many(&self, tokens: u32) -> impl Future<Output = Result<Token, Error>> + Send {
        Self::acquire_many(self, tokens)
    }

    fn available(&self) -> impl Future<Output = Result<u32, Error>> + Send {
        Self::available(self)
    }
}
