//! How many channels a connection may have, and who has to wait while all of them are in use. Whoever waits for a channel
//! may have one already: so of the few that there are, some are only for those who have none, or want one for a single verb.
//! Then somebody can always go on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::Channel;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, sleep};

use super::error::BrokerError;

/// With fewer it does not go: one refill queue is consumed, one ledger waited for, some buckets refilled, one channel is for
/// single verbs, and one may be closed that the broker counts still.
pub const LEAST_CHANNELS: usize = 5;
/// With fewer, none is kept for later.
const PLENTY: usize = 100;
/// Those for single verbs, where there are many.
const FOR_VERBS: usize = 33;
/// The broker counts a channel for a moment longer than it is open: one that it has closed over an error is not closed before we
/// have agreed.
const AFTER_CLOSE: Duration = Duration::from_millis(5);
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// What was opened before the broker refused one more is known of after this.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It is given back without a need for another one.
    Verb,
    /// Another one may be needed meanwhile.
    Steps,
    /// The same, and it may last for minutes.
    Wait,
    /// It lasts as long as the connection.
    Consumer,
}

/// The channels of one connection.
pub(super) struct Allowance {
    most: usize,
    open: AtomicUsize,
    /// One at a time, where there are few.
    opening: Mutex<()>,
    consumers: Arc<Semaphore>,
    /// Those, and others that last.
    lasting: Arc<Semaphore>,
    /// Those, and others during which one more may be needed.
    held: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// The right to have a channel.
pub(super) struct Permit {
    allowance: Arc<Allowance>,
    is_open: bool,
    _permits: [Option<OwnedSemaphorePermit>; 4],
}

impl Allowance {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let (spare, for_verbs) = match most < PLENTY {
            true => (1, 1),
            false => (0, FOR_VERBS),
        };
        let semaphore = |less| Arc::new(Semaphore::new(most.saturating_sub(spare + less)));
        Arc::new(Self {
            most,
            open: AtomicUsize::new(0),
            opening: Mutex::default(),
            consumers: semaphore(for_verbs + 2),
            lasting: semaphore(for_verbs + 1),
            held: semaphore(for_verbs),
            all: semaphore(0),
        })
    }

    /// Whether there are so few that none can be kept for later, or be left to a queue that does not answer.
    pub(super) fn is_scarce(&self) -> bool {
        self.most < PLENTY
    }

    /// Waits until there is a channel to have.
    ///
    /// # Errors
    /// [`BrokerError::Limit`] when others consume for as long as they like.
    pub(super) async fn permit(self: &Arc<Self>, what: Use) -> Result<Permit, BrokerError> {
        // In this order: who waits for the next has what the others of its kind wait for.
        let consumer = match what {
            Use::Consumer => Some(self.consumers.clone().try_acquire_owned().map_err(|_| {
                let message = format!(
                    "there are {} channels, which is too few to consume one more refill queue",
                    self.most
                );
                BrokerError::Limit { message }
            })?),
            _ => None,
        };
        let lasting = match what {
            Use::Consumer | Use::Wait => acquired(&self.lasting).await,
            _ => None,
        };
        let held = match what {
            Use::Verb => None,
            _ => acquired(&self.held).await,
        };
        let all = acquired(&self.all).await;
        Ok(Permit {
            allowance: Arc::clone(self),
            is_open: false,
            _permits: [consumer, lasting, held, all],
        })
    }

    /// The broker has ended the connection because one more channel was one too many.
    pub(super) async fn refused(&self, message: String) -> BrokerError {
        sleep(AFTER_REFUSAL).await;
        let open = self.open.load(Ordering::SeqCst);
        let most = match limit_of_user(&message) {
            // Somebody else may be the same user, but that shows the next time.
            Some(most) if most < self.most => most,
            _ => open.min(self.most.saturating_sub(1)),
        };
        BrokerError::ChannelLimit { most, message }
    }
}

/// The semaphores are never closed.
async fn acquired(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    semaphore.clone().acquire_owned().await.ok()
}

/// What RabbitMQ says that the channels of a user are limited to.
fn limit_of_user(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once("allowed user limit of (")?;
    rest.split_once(')')?.0.parse().ok()
}

impl Permit {
    /// While few can be opened, it is known how many are open when the broker refuses one.
    pub(super) async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.allowance.is_scarce() {
            true => Some(self.allowance.opening.lock().await),
            false => None,
        }
    }

    /// There is a channel now.
    fn open(&mut self) {
        self.is_open = true;
        self.allowance.open.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_open {
            self.allowance.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A channel that is allowed, for as long as it is open.
pub(super) struct OwnChannel {
    channel: Channel,
    permit: Option<Permit>,
}

impl OwnChannel {
    pub(super) fn new(channel: Channel, mut permit: Permit) -> Self {
        permit.open();
        let permit = Some(permit);
        Self { channel, permit }
    }

    /// Whether there are few, so that it is not kept for later.
    pub(super) fn is_scarce(&self) -> bool {
        let permit = self.permit.as_ref();
        permit.is_some_and(|permit| permit.allowance.is_scarce())
    }

    /// The channel with its right; what is left is nobody's.
    pub(super) fn take(&mut self) -> Self {
        Self {
            channel: self.channel.clone(),
            permit: self.permit.take(),
        }
    }
}

impl std::ops::Deref for OwnChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for OwnChannel {
    /// Where there are few, the next one has to wait until the broker counts this one no more.
    fn drop(&mut self) {
        let few = |permit: &mut Permit| permit.allowance.is_scarce();
        let (Some(permit), Ok(runtime)) = (self.permit.take_if(few), Handle::try_current()) else {
            return;
        };
        let channel = self.channel.clone();
        runtime.spawn(async move {
            if channel.status().connected() {
                // One that cannot be closed is gone already, with its connection or over an error.
                let _ = channel.close(200, "OK".into()).await;
                sleep(AFTER_CLOSE).await;
            } else {
                sleep(AFTER_ERROR).await;
            }
            drop(permit);
        });
    }
}

impl fmt::Debug for OwnChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.id().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn permit(allowance: &Arc<Allowance>, what: Use) -> Option<Permit> {
        let permit = allowance.permit(what).now_or_never();
        permit.and_then(Result::ok)
    }

    #[test]
    fn with_the_fewest_channels_somebody_can_always_go_on() {
        let few = Allowance::new(LEAST_CHANNELS);
        let _consumer = permit(&few, Use::Consumer).expect("one refill queue");
        let second = few.permit(Use::Consumer).now_or_never();
        assert!(matches!(second, Some(Err(BrokerError::Limit { .. }))));
        let _wait = permit(&few, Use::Wait).expect("one wait");
        assert!(permit(&few, Use::Wait).is_none());
        let steps = permit(&few, Use::Steps).expect("it waits for no wait");
        assert!(permit(&few, Use::Steps).is_none());
        let verb = permit(&few, Use::Verb).expect("what is needed meanwhile");
        assert!(permit(&few, Use::Verb).is_none());
        drop((steps, verb));
        assert!(permit(&few, Use::Steps).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_tells_how_many_there_may_be() {
        let most = async |allowance: &Allowance, message: &str| {
            let BrokerError::ChannelLimit { most, .. } = allowance.refused(message.into()).await
            else {
                panic!("another error");
            };
            most
        };
        let user = "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of (7)";
        let node = "NOT_ALLOWED - number of channels opened on node 'n' has reached the maximum allowed limit of (900)";
        let many = Allowance::new(2_047);
        assert_eq!(most(&many, user).await, 7);
        let mut permits = Vec::new();
        for _ in 0..6 {
            permits.push(many.permit(Use::Verb).await.expect("there are many"));
        }
        permits.iter_mut().for_each(Permit::open);
        assert_eq!(most(&many, node).await, 6);
        // Others of that user have some of them.
        let seven = Allowance::new(7);
        let mut permit = seven.permit(Use::Verb).await.expect("there are some");
        permit.open();
        assert_eq!(most(&seven, user).await, 1);
        assert_eq!(seven.open.load(Ordering::SeqCst), 1);
        drop(permit);
        assert_eq!(seven.open.load(Ordering::SeqCst), 0);
    }
}
