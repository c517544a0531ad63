//! A bucket, for who takes tokens from it.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::all::{self, MOST_TOKENS};
use crate::client::Client;
use crate::line::{Ask, Line};
use crate::name::{COUNT, Name, TAKE};
use crate::take;
use crate::token::{Handover, Origin, Token};
use crate::{Error, TokenBucket};

/// A bucket at a broker. Clones are the same bucket, and wait in one line.
#[derive(Clone)]
pub struct Bucket(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) home: Arc<Home>,
    /// None: tokens are taken one by one.
    prefetch: Option<u16>,
    line: OnceLock<mpsc::UnboundedSender<Ask>>,
    waiting: AtomicUsize,
}

/// Which bucket it is.
pub(crate) struct Home {
    pub(crate) client: Client,
    pub(crate) name: Name,
}

impl Shared {
    pub(crate) fn new(client: Client, name: Name, prefetch: Option<u16>) -> Self {
        Self {
            home: Arc::new(Home { client, name }),
            prefetch,
            line: OnceLock::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Where callers wait. A task serves them, from the first one on.
    fn line(&self) -> &mpsc::UnboundedSender<Ask> {
        self.line.get_or_init(|| {
            let (asks, line) = Line::new(self.home.clone(), self.prefetch);
            self.home.client.spawn(line.run());
            asks
        })
    }
}

impl Bucket {
    /// The bucket's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.home.name.bucket()
    }

    /// The same bucket in lease mode, for high rates: while callers come, the client holds up to `prefetch` tokens, and gives them
    /// out without asking the broker for each. They are not used up: they come back into the bucket when the client ends or dies,
    /// and when nobody has asked for 5 s. Until then no other client has them, and the bucket may hold that many more than its
    /// maximum once they are back. Keep the handle: each one that this answers has a line of its own. 0 counts as 1.
    #[must_use]
    pub fn with_prefetch(&self, prefetch: u16) -> Self {
        let Home { client, name } = &*self.0.home;
        let shared = Shared::new(client.clone(), name.clone(), Some(prefetch.max(1)));
        Self(Arc::new(shared))
    }

    /// Takes a token if there is one.
    ///
    /// No token is ever there twice. A connection that breaks while the broker's answer is under way can lose the one token.
    /// Cancel-safe: what was taken for a caller that is gone goes back.
    ///
    /// # Errors
    /// [`Error::NoQueue`] when there has been no queue for 2 s; [`Error::Unreachable`] when there was no connection for 30 s
    /// ([`crate::Builder::patience`]); [`Error::AccessRefused`], [`Error::QueueUnavailable`].
    pub async fn try_acquire(&self) -> Result<Option<Token>, Error> {
        let started = Instant::now();
        let token = match self.0.prefetch {
            Some(_) => match self.ask(true).await? {
                Some(token) => Some(token),
                None => self.get().await?,
            },
            None => self.get().await?,
        };
        Ok(self.told(token, started))
    }

    /// Takes so many tokens (1 to 10,000) if there are that many, else none: what it has in hand by then goes back.
    ///
    /// # Errors
    /// Those of [`Bucket::try_acquire`], and [`Error::InvalidCount`].
    pub async fn try_acquire_many(&self, tokens: u32) -> Result<Option<Token>, Error> {
        if tokens == 1 {
            return self.try_acquire().await;
        }
        let Home { client, name } = &*self.0.home;
        all::try_all(client, vec![(name.clone(), tokens)]).await
    }

    /// Waits until there is a token, and takes it. Nothing is polled: the broker sends it, to those that wait for the bucket in the
    /// order of waiting. Where the broker lets nobody consume from the queue, it is asked again and again, at most 2 s apart.
    ///
    /// Cancel-safe: drop the future, or put a limit on it, and no token is lost.
    ///
    /// # Errors
    /// Those of [`Bucket::try_acquire`].
    pub async fn acquire(&self) -> Result<Token, Error> {
        let started = Instant::now();
        // Nobody is overtaken who waits here already.
        if self.0.prefetch.is_none() && self.0.waiting.load(Ordering::Relaxed) == 0 {
            let token = self.get().await?;
            if let Some(token) = self.told(token, started) {
                return Ok(token);
            }
        }
        match self.ask(false).await? {
            Some(token) => {
                self.observe(started);
                Ok(token)
            }
            None => Err(Error::Closed),
        }
    }

    /// The same with a deadline.
    ///
    /// # Errors
    /// Those of [`Bucket::acquire`], and [`Error::Timeout`].
    pub async fn acquire_timeout(&self, within: Duration) -> Result<Token, Error> {
        TokenBucket::acquire_timeout(self, within).await
    }

    /// Waits until so many tokens (1 to 10,000) are there at one time, and takes them. More than one are asked for again and again,
    /// at most 1 s apart, and none is held meanwhile; so who wants one may overtake.
    ///
    /// # Errors
    /// Those of [`Bucket::try_acquire_many`].
    pub async fn acquire_many(&self, tokens: u32) -> Result<Token, Error> {
        if tokens == 1 {
            return self.acquire().await;
        }
        let Home { client, name } = &*self.0.home;
        all::all(client, vec![(name.clone(), tokens)]).await
    }

    /// Counts the tokens that are there. What clients hold in lease mode is not counted.
    ///
    /// # Errors
    /// Those of [`Bucket::try_acquire`].
    pub async fn available(&self) -> Result<u32, Error> {
        let Home { client, name } = &*self.0.home;
        let count = async |link: Arc<crate::link::Link>| take::count(&link, name).await;
        let closed = &client.0.closed;
        client.attempt(name, COUNT, closed, count).await
    }

    /// One token of the queue itself.
    async fn get(&self) -> Result<Option<Token>, Error> {
        let home = self.0.home.clone();
        let client = &self.0.home.client;
        let take = |gone| async move {
            let Home { client, name } = &*home;
            let one = async |link: Arc<crate::link::Link>| take::one(&link, name).await;
            let taken = client.attempt(name, TAKE, &gone, one).await?;
            Ok(taken.then(|| Token::new(home.clone(), 1)))
        };
        client.detached(take).await
    }

    /// Gets in line. None: somebody else was before, and it was not to be waited.
    async fn ask(&self, is_try: bool) -> Result<Option<Token>, Error> {
        let (answer, answered) = oneshot::channel();
        let line = self.0.line();
        let mut waiting = Waiting::new(&self.0.waiting, line);
        if line.send(Ask::Waiter { answer, is_try }).is_err() {
            return Err(Error::Closed);
        }
        let answer = answered.await;
        waiting.is_answered = true;
        let token = answer.unwrap_or(Err(Error::Closed))?;
        Ok(token.map(Handover::accept))
    }

    fn told(&self, token: Option<Token>, started: Instant) -> Option<Token> {
        match token {
            Some(_) => self.observe(started),
            None => self.0.home.client.0.observer.empty(self.name()),
        }
        token
    }

    fn observe(&self, started: Instant) {
        let observer = &self.0.home.client.0.observer;
        observer.taken(self.name(), 1, started.elapsed());
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.name()).finish()
    }
}

impl Origin for Home {
    fn bucket(&self) -> &str {
        self.name.bucket()
    }

    fn refund(&self, tokens: u32) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
        Box::pin(self.client.refund(&self.name, tokens))
    }

    fn refund_in_background(&self, tokens: u32) {
        self.client.refund_in_background(&self.name, tokens);
    }
}

/// Somebody in line. The line is told when they go before they were answered.
struct Waiting<'a> {
    waiting: &'a AtomicUsize,
    line: &'a mpsc::UnboundedSender<Ask>,
    is_answered: bool,
}

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize, line: &'a mpsc::UnboundedSender<Ask>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self {
            waiting,
            line,
            is_answered: false,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if !self.is_answered {
            // The line is over when the client is closed.
            let _ = self.line.send(Ask::Left);
        }
    }
}

/// Refuses what cannot be asked for.
pub(crate) fn check(tokens: u32) -> Result<(), Error> {
    if (1..=MOST_TOKENS).contains(&tokens) {
        Ok(())
    } else {
        Err(Error::InvalidCount {
            tokens,
            most: MOST_TOKENS,
        })
    }
}
