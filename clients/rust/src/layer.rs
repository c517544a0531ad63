//! A [`tower`](https://docs.rs/tower) layer: each request takes a token.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use crate::token::Handover;
use crate::{Error, Token, TokenBucket};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Acquiring = Pin<Box<dyn Future<Output = Result<Handover, Error>> + Send>>;

/// There was no token for the request, and it was not to be waited: what to answer with 429 Too Many Requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rate limit: bucket {bucket} has no token")]
pub struct RateLimited {
    /// The bucket.
    pub bucket: String,
}

/// Lets each request take a token before it goes on.
///
/// A service that waits is ready when it has a token, so `poll_ready` holds up whoever calls it: that is what tower's buffers,
/// load balancers and concurrency limits count with. A token that was taken for a request that never came is given back. What goes
/// wrong with the bucket is answered to the request, as an [`Error`] in the box; a service stays of use after it.
///
/// ```no_run
/// # async fn example() -> Result<(), token_bucket_client::Error> {
/// use std::time::Duration;
/// use token_bucket_client::{Client, RateLimitLayer};
///
/// let client = Client::connect("amqp://user:password@rabbitmq:5672/vhost").await?;
/// let bucket = client.bucket("my_api_client")?;
/// let waiting = RateLimitLayer::waiting(bucket.clone(), Some(Duration::from_secs(30)));
/// let shedding = RateLimitLayer::shedding(bucket); // answers RateLimited
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitLayer<B> {
    bucket: B,
    mode: Mode,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Waiting(Option<Duration>),
    Shedding,
}

impl<B: TokenBucket> RateLimitLayer<B> {
    /// Requests wait for a token, `within` a time if there is one; then they are answered with [`Error::Timeout`].
    #[must_use]
    pub fn waiting(bucket: B, within: Option<Duration>) -> Self {
        Self {
            bucket,
            mode: Mode::Waiting(within),
        }
    }

    /// Requests for which there is no token are answered with [`RateLimited`].
    #[must_use]
    pub fn shedding(bucket: B) -> Self {
        Self {
            bucket,
            mode: Mode::Shedding,
        }
    }
}

impl<B: TokenBucket, S> Layer<S> for RateLimitLayer<B> {
    type Service = RateLimit<B, S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            layer: self.clone(),
            state: State::Idle,
        }
    }
}

/// The service that [`RateLimitLayer`] makes.
pub struct RateLimit<B, S> {
    inner: S,
    layer: RateLimitLayer<B>,
    state: State,
}

enum State {
    Idle,
    Acquiring(Acquiring),
    /// For the next request.
    Ready(Result<Handover, Error>),
}

impl<B: Clone, S: Clone> Clone for RateLimit<B, S> {
    /// A token belongs to the one that has taken it.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
            state: State::Idle,
        }
    }
}

impl<B: TokenBucket, S> RateLimit<B, S> {
    fn acquire(&self, within: Option<Duration>) -> Acquiring {
        let bucket = self.layer.bucket.clone();
        Box::pin(async move {
            let acquired = match within {
                Some(within) => bucket.acquire_timeout(within).await,
                None => bucket.acquire().await,
            };
            acquired.map(Handover::new)
        })
    }
}

impl<B, S, Request> Service<Request> for RateLimit<B, S>
where
    B: TokenBucket,
    S: Service<Request> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    Request: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // First, so that no token is held for a service that is not ready.
        ready!(self.inner.poll_ready(context)).map_err(Into::into)?;
        let Mode::Waiting(within) = self.layer.mode else {
            return Poll::Ready(Ok(()));
        };
        loop {
            match &mut self.state {
                State::Idle => self.state = State::Acquiring(self.acquire(within)),
                State::Acquiring(acquiring) => {
                    let token = ready!(acquiring.as_mut().poll(context));
                    self.state = State::Ready(token);
                }
                State::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that is ready; the clone is not.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let state = std::mem::replace(&mut self.state, State::Idle);
        let (bucket, mode) = (self.layer.bucket.clone(), self.layer.mode);
        Box::pin(async move {
            let token: Token = match (mode, state) {
                (Mode::Waiting(_), State::Ready(token)) => token?.accept(),
                (Mode::Waiting(_), State::Acquiring(acquiring)) => acquiring.await?.accept(),
                // Called without being asked whether it is ready.
                (Mode::Waiting(_), State::Idle) => bucket.acquire().await?,
                (Mode::Shedding, _) => bucket.try_acquire().await?.ok_or_else(|| RateLimited {
                    bucket: bucket.name().to_owned(),
                })?,
            };
            drop(token);
            inner.call(request).await.map_err(Into::into)
        })
    }
}

impl<B: fmt::Debug, S> fmt::Debug for RateLimit<B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "mock"))]
mod tests;
