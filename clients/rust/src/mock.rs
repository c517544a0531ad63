//! A bucket in memory, for the tests of programs that take tokens.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::bucket::check;
use crate::name::Name;
use crate::token::{Origin, Token};
use crate::{Error, TokenBucket};

/// A bucket in memory that behaves as a real one: who waits is served in order, what is given back is there again, more than
/// `maximum` are never there. Clones are the same bucket.
///
/// ```
/// # tokio_test(async {
/// use token_bucket_client::{MockBucket, TokenBucket};
///
/// let bucket = MockBucket::new("my_api_client", 1, 10)?;
/// assert!(bucket.try_acquire().await?.is_some());
/// assert!(bucket.try_acquire().await?.is_none());
/// bucket.refill(3);
/// assert_eq!(bucket.available().await?, 3);
/// # Ok::<(), token_bucket_client::Error>(()) });
/// # fn tokio_test(test: impl Future<Output = Result<(), token_bucket_client::Error>>) {
/// #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test).unwrap();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MockBucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Name,
    maximum: u32,
    tokens: Semaphore,
}

impl MockBucket {
    /// A bucket that holds so many tokens, and can hold `maximum`.
    ///
    /// # Errors
    /// [`Error::InvalidName`], as for a real one.
    pub fn new(name: &str, tokens: u32, maximum: u32) -> Result<Self, Error> {
        let bucket = Self(Arc::new(Inner {
            name: Name::parse(name)?,
            maximum,
            tokens: Semaphore::new(0),
        }));
        bucket.refill(tokens);
        Ok(bucket)
    }

    /// What a refill does: adds so many tokens, at most to the maximum.
    pub fn refill(&self, tokens: u32) {
        self.0.add(tokens);
    }
}

impl Inner {
    fn add(&self, tokens: u32) {
        let room = (self.maximum as usize).saturating_sub(self.tokens.available_permits());
        self.tokens.add_permits(room.min(tokens as usize));
    }
}

impl TokenBucket for MockBucket {
    fn name(&self) -> &str {
        self.0.name.bucket()
    }

    async fn try_acquire_many(&self, tokens: u32) -> Result<Option<Token>, Error> {
        check(tokens)?;
        Ok(self.0.tokens.try_acquire_many(tokens).ok().map(|permit| {
            permit.forget();
            Token::new(self.0.clone(), tokens)
        }))
    }

    async fn acquire_many(&self, tokens: u32) -> Result<Token, Error> {
        check(tokens)?;
        let permit = self.0.tokens.acquire_many(tokens).await;
        permit.map_err(|_| Error::Closed)?.forget();
        Ok(Token::new(self.0.clone(), tokens))
    }

    async fn available(&self) -> Result<u32, Error> {
        let tokens = self.0.tokens.available_permits();
        Ok(u32::try_from(tokens).unwrap_or(u32::MAX))
    }
}

impl Origin for Inner {
    fn bucket(&self) -> &str {
        self.name.bucket()
    }

    fn refund(&self, tokens: u32) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
        self.add(tokens);
        Box::pin(async { Ok(()) })
    }

    fn refund_in_background(&self, tokens: u32) {
        self.add(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mock_is_full_at_its_maximum_and_takes_back() {
        let bucket = MockBucket::new("x", 3, 4).unwrap();
        let token = bucket.try_acquire_many(3).await.unwrap().unwrap();
        assert!(bucket.try_acquire().await.unwrap().is_none());
        let wait = tokio::spawn({
            let bucket = bucket.clone();
            async move { bucket.acquire().await.map(|token| token.count()) }
        });
        token.refund().await.unwrap();
        assert_eq!(wait.await.unwrap(), Ok(1));
        bucket.refill(100);
        assert_eq!(bucket.available().await, Ok(4));
        assert!(bucket.try_acquire_many(0).await.is_err());
        assert!(MockBucket::new("not-a-name", 1, 1).is_err());
    }
}
