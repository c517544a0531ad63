//! A client of a broker, for any number of buckets.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use token_bucket_endpoint::Endpoint;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::Error;
use crate::backoff::Backoff;
use crate::bucket::{Bucket, Shared};
use crate::failure::Failure;
use crate::link::Link;
use crate::name::{Action, Name, REFUND};
use crate::observer::{Observer, Standard};
use crate::refund::{self, Sent};
use crate::slot::{Slot, Source};
use crate::token::{Handover, Token};

/// How long a queue may be missing: the operator replaces it when `maximum` is raised.
pub(crate) const MISSING_LIMIT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long a call waits for a broker that cannot be reached, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of one broker: one connection for all buckets, made again when it is lost, and a second one once a token is given back
/// (RabbitMQ holds up what has published while it is short of memory or disk space, and takes must go on). Clones are the same
/// client.
#[derive(Clone, Debug)]
pub struct Client(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    takes: Slot,
    refunds: Slot,
    broker: String,
    patience: Duration,
    pub(crate) observer: Arc<dyn Observer>,
    buckets: Mutex<HashMap<Name, Weak<Shared>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) closed: CancellationToken,
    may_refund: OnceCell<bool>,
    /// From RabbitMQ 4.2 on who may only take may not count.
    may_not_count: AtomicBool,
    runtime: Handle,
}

/// How a [`Client`] is made. See [`Client::builder`].
#[derive(Debug)]
pub struct Builder {
    name: String,
    patience: Duration,
    observer: Arc<dyn Observer>,
}

impl Builder {
    /// Shown in RabbitMQ's list of connections. Default: the name of this crate.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long a call waits for a broker that cannot be reached before it fails. Default: 30 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Who is told of takes. Default: nobody; with the feature `metrics` the recorder of the crate `metrics`.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// Connects to `amqp://user:password@host:5672/vhost` or `amqps://…`. Special characters in user and password are escaped
    /// (`/` is `%2F`).
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(self, uri: &str) -> Result<Client, Error> {
        self.open(Source::Endpoint(Endpoint::parse(uri)?)).await
    }

    /// Connects to the broker that a Secret names which is mounted as a folder, by the keys that the operator reads: `uri`, or
    /// `host`, `username`, `password`, `vhost`…, and `ca.crt`, `tls.crt`, `tls.key`. It is read for each connection, so a new
    /// password is found without a restart.
    ///
    /// # Errors
    /// As [`Client::connect`], and when the Secret cannot be used.
    pub async fn connect_with_secret(self, folder: impl Into<PathBuf>) -> Result<Client, Error> {
        self.open(Source::Folder(folder.into())).await
    }

    async fn open(self, source: Source) -> Result<Client, Error> {
        let broker = source.endpoint()?.to_string();
        let inner = Inner {
            takes: Slot::new(source.clone(), self.name.clone()),
            refunds: Slot::new(source, format!("{} (refunds)", self.name)),
            broker,
            patience: self.patience,
            observer: self.observer,
            buckets: Mutex::default(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            may_refund: OnceCell::new(),
            may_not_count: AtomicBool::new(false),
            runtime: Handle::current(),
        };
        inner.takes.first(Instant::now() + self.patience).await?;
        Ok(Client(Arc::new(inner)))
    }
}

impl Client {
    /// Connects to `amqp://user:password@host:5672/vhost` or `amqps://…`. A broker that is not there yet is waited for.
    ///
    /// # Errors
    /// [`Error::InvalidUri`] says what to write instead. [`Error::AuthenticationRefused`] and [`Error::VhostRefused`] come at
    /// once, [`Error::Unreachable`] after 30 s ([`Builder::patience`]).
    pub async fn connect(uri: &str) -> Result<Self, Error> {
        Self::builder().connect(uri).await
    }

    /// To set more than the broker's address.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            name: env!("CARGO_PKG_NAME").to_owned(),
            patience: PATIENCE,
            observer: Arc::new(Standard),
        }
    }

    /// The bucket with this name: `spec.name` of its TokenBucket. Nothing is asked of the broker. All who ask for the same name
    /// wait in one line.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn bucket(&self, name: &str) -> Result<Bucket, Error> {
        let name = Name::parse(name)?;
        let mut buckets = self
            .0
            .buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = buckets.get(&name).and_then(Weak::upgrade) {
            return Ok(Bucket(shared));
        }
        let shared = Arc::new(Shared::new(self.clone(), name.clone(), None));
        buckets.retain(|_, shared| shared.strong_count() > 0);
        buckets.insert(name, Arc::downgrade(&shared));
        Ok(Bucket(shared))
    }

    /// Ends the connections, when all tokens are given back that are on their way. Calls that wait end with [`Error::Closed`].
    pub async fn close(&self) {
        self.0.closed.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.takes.close().await;
        self.0.refunds.close().await;
    }

    pub(crate) fn may_count(&self) -> bool {
        !self.0.may_not_count.load(Ordering::Relaxed)
    }

    pub(crate) fn may_not_count(&self) {
        self.0.may_not_count.store(true, Ordering::Relaxed);
    }

    pub(crate) fn patience(&self) -> Duration {
        self.0.patience
    }

    pub(crate) fn broker(&self) -> &str {
        &self.0.broker
    }

    /// The connection for takes.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, Error> {
        self.0.takes.link(Instant::now() + self.0.patience).await
    }

    /// Does something at the broker, again while it may help: a queue that is missing for a moment, a lost connection. It ends
    /// between two attempts when nobody waits for it any more.
    pub(crate) async fn attempt<T, F>(
        &self,
        bucket: &Name,
        action: Action,
        gone: &CancellationToken,
        mut verb: impl FnMut(Arc<Link>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut retry = Retry::new(self.0.patience);
        loop {
            let link = self.0.takes.link(retry.until);
            let link = gone
                .run_until_cancelled(link)
                .await
                .ok_or(Error::Closed)??;
            let failure = match verb(link).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let again = gone.run_until_cancelled(retry.after(failure)).await;
            again
                .ok_or(Error::Closed)?
                .map_err(|failure| bucket.error(failure, action, self.broker()))?;
        }
    }

    /// Runs a take to its end also when the caller goes away. What it has taken goes to the caller, or back into the bucket.
    pub(crate) async fn detached<F>(
        &self,
        take: impl FnOnce(CancellationToken) -> F,
    ) -> Result<Option<Token>, Error>
    where
        F: Future<Output = Result<Option<Token>, Error>> + Send + 'static,
    {
        if self.0.closed.is_cancelled() {
            return Err(Error::Closed);
        }
        let (answer, answered) = oneshot::channel();
        let gone = self.0.closed.child_token();
        let _caller = gone.clone().drop_guard();
        let take = take(gone);
        self.spawn(async move {
            let taken = take.await;
            let _ = answer.send(taken.map(|token| token.map(Handover::new)));
        });
        let taken = answered.await.unwrap_or(Err(Error::Closed))?;
        Ok(taken.map(Handover::accept))
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn_on(task, &self.0.runtime);
    }

    /// Whether the broker lets this user put tokens into buckets. It is asked once.
    pub(crate) async fn may_refund(&self) -> bool {
        let ask = async || {
            let until = Instant::now() + self.0.patience;
            let link = self.0.refunds.link(until).await.map_err(drop)?;
            match refund::is_allowed(&link).await {
                Ok(()) => Ok(true),
                Err(Failure::Refused(_)) => Ok(false),
                Err(_) => Err(()),
            }
        };
        let may_refund = self.0.may_refund.get_or_try_init(ask).await;
        may_refund.is_ok_and(|may_refund| *may_refund)
    }

    /// Puts tokens into a bucket.
    pub(crate) async fn refund(&self, bucket: &Name, tokens: u32) -> Result<(), Error> {
        let mut retry = Retry::new(self.0.patience);
        let mut left = tokens;
        loop {
            let link = self.0.refunds.link(retry.until).await?;
            let failure = match refund::tokens(&link, bucket, left).await {
                Ok(Sent::All) => {
                    self.0.observer.refunded(bucket.bucket(), tokens);
                    return Ok(());
                }
                Ok(Sent::Returned(returned)) => {
                    left = returned;
                    Failure::NoQueue
                }
                Ok(Sent::Refused) => {
                    return Err(Error::RefundRefused {
                        bucket: bucket.bucket().to_owned(),
                        queue: bucket.queue().to_owned(),
                    });
                }
                Ok(Sent::Unknown(reason)) => {
                    return Err(Error::RefundUnknown {
                        bucket: bucket.bucket().to_owned(),
                        reason,
                    });
                }
                Err(failure) => failure,
            };
            let broker = self.broker();
            let again = retry.after(failure).await;
            again.map_err(|failure| bucket.error(failure, REFUND, broker))?;
        }
    }

    /// The same for a token that nobody waits for any more.
    pub(crate) fn refund_in_background(&self, bucket: &Name, tokens: u32) {
        if tokens == 0 {
            return;
        }
        let (client, bucket) = (self.clone(), bucket.clone());
        self.spawn(async move {
            if let Err(error) = client.refund(&bucket, tokens).await {
                warn!(?bucket, tokens, %error, "tokens that nobody used are lost");
            }
        });
    }
}

/// When something is tried again that did not work.
pub(crate) struct Retry {
    until: Instant,
    missing_until: Option<Instant>,
    backoff: Backoff,
}

impl Retry {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            until: Instant::now() + patience,
            missing_until: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// Waits before the next attempt, or answers that there is none.
    pub(crate) async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        let now = Instant::now();
        let until = match failure {
            Failure::NoQueue => *self.missing_until.get_or_insert(now + MISSING_LIMIT),
            Failure::Unavailable(_) | Failure::Lost(_) | Failure::Channel(_) => self.until,
            Failure::Refused(_) => now,
        };
        let next = now + self.backoff.next();
        if next > until {
            return Err(failure);
        }
        sleep(next - now).await;
        Ok(())
    }
}
