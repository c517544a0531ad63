//! Where callers wait for the tokens of a bucket. A task consumes from its queue while somebody does.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, try_join};
use futures::stream::{FuturesOrdered, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::all::give_back;
use crate::backoff::Backoff;
use crate::bucket::Home;
use crate::client::Retry;
use crate::failure::Failure;
use crate::link::Link;
use crate::name::TAKE;
use crate::take;
use crate::token::{Handover, Token};

/// Acknowledgements under way: whoever comes in the meantime need not wait for the next answer.
const MOST_COMMITS: usize = 4;
/// How long tokens are held in lease mode while nobody asks for one.
const IDLE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

type Answer = oneshot::Sender<Result<Option<Handover>, Error>>;

/// What the line is told.
pub(crate) enum Ask {
    /// Somebody wants a token, or one that is in hand.
    Waiter { answer: Answer, is_try: bool },
    /// Somebody has gone.
    Left,
}

struct Waiter {
    answer: Answer,
    is_try: bool,
}

/// Those who wait, and what is there for them.
pub(crate) struct Line {
    home: Arc<Home>,
    prefetch: Option<u16>,
    asks: mpsc::UnboundedReceiver<Ask>,
    /// No more will ask.
    is_over: bool,
    waiters: VecDeque<Waiter>,
    /// Somebody wanted a token who did not wait.
    is_wanted: bool,
    /// Tokens that the broker has let go of, and nobody has yet.
    taken: usize,
    /// Tokens that were held when the broker ended the consumer. If the queue was deleted they are ours.
    orphans: usize,
    /// For the next consumer: one that nothing is held on.
    channel: Option<(Arc<Link>, Channel)>,
    closed: CancellationToken,
}

/// Why consuming has ended.
enum Ended {
    NoDemand,
    /// By the broker; or it was ended, and somebody has come meanwhile.
    Again,
}

impl Line {
    pub(crate) fn new(
        home: Arc<Home>,
        prefetch: Option<u16>,
    ) -> (mpsc::UnboundedSender<Ask>, Self) {
        let (sender, asks) = mpsc::unbounded_channel();
        let closed = home.client.0.closed.clone();
        let line = Self {
            home,
            prefetch,
            asks,
            is_over: false,
            waiters: VecDeque::new(),
            is_wanted: false,
            taken: 0,
            orphans: 0,
            channel: None,
            closed,
        };
        (sender, line)
    }

    pub(crate) async fn run(mut self) {
        while self.demand().await {
            if let Err(error) = self.serve().await {
                self.fail(&error);
            }
        }
        self.fail(&Error::Closed);
        self.return_taken();
    }

    /// Waits until somebody wants a token. False: nobody will.
    async fn demand(&mut self) -> bool {
        loop {
            self.prune();
            if !self.waiters.is_empty() || std::mem::take(&mut self.is_wanted) {
                return true;
            }
            self.return_taken();
            if self.is_over {
                return false;
            }
            tokio::select! {
                ask = self.asks.recv() => self.enter(ask, 0),
                () = self.closed.cancelled() => return false,
            }
        }
    }

    /// Serves all who wait, until nobody does.
    async fn serve(&mut self) -> Result<(), Error> {
        let home = self.home.clone();
        let mut retry = Retry::new(home.client.patience());
        loop {
            let closed = self.closed.clone();
            let link = closed.run_until_cancelled(home.client.link()).await;
            let link = link.ok_or(Error::Closed)??;
            let failure = match self.consume(&link).await {
                Ok(Ended::NoDemand) => return Ok(()),
                Ok(Ended::Again) => {
                    retry = Retry::new(home.client.patience());
                    continue;
                }
                Err(failure) => failure,
            };
            self.adopt_orphans(matches!(failure, Failure::NoQueue));
            self.answer_tries();
            if matches!(failure, Failure::Refused(_)) {
                return self.poll().await;
            }
            let again = closed.run_until_cancelled(retry.after(failure)).await;
            let again = again.ok_or(Error::Closed)?;
            again.map_err(|failure| home.name.error(failure, TAKE, home.client.broker()))?;
            self.prune();
        }
    }

    async fn consume(&mut self, link: &Arc<Link>) -> Result<Ended, Failure> {
        let reusable = self.channel.take().filter(|(its_link, channel)| {
            Arc::ptr_eq(its_link, link) && channel.status().connected()
        });
        let prefetch = self.prefetch.unwrap_or(1);
        let channel = match reusable {
            Some((_, channel)) => channel,
            None => {
                let channel = link.channel().await?;
                let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
                link.answer(qos).await?;
                channel
            }
        };
        let consume = channel.basic_consume(
            self.home.name.wire(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = link.answer(consume).await?;
        self.adopt_orphans(true);
        let mut consuming = Consuming {
            link: link.clone(),
            channel,
            consumer,
            has_ended: false,
            held: VecDeque::new(),
            commits: FuturesOrdered::new(),
            committing: 0,
            is_last: false,
        };
        let ended = self.follow(&mut consuming).await;
        if let Ok((_, true)) = ended {
            self.channel = Some((link.clone(), consuming.channel));
        }
        ended.map(|(ended, _)| ended)
    }

    /// Hands out what comes. True: the channel can be used again.
    async fn follow(&mut self, consuming: &mut Consuming) -> Result<(Ended, bool), Failure> {
        let mut idle_at = Instant::now() + IDLE;
        loop {
            self.prune();
            self.hand_out();
            let unserved = self.waiters.len().saturating_sub(consuming.committing);
            let wanted = unserved.min(consuming.held.len());
            if wanted > 0 && !consuming.is_last && consuming.commits.len() < MOST_COMMITS {
                let is_last = self.prefetch.is_none() && wanted == unserved;
                consuming.start(wanted, self.prefetch.unwrap_or(1), is_last);
            } else if consuming.has_ended && consuming.commits.is_empty() {
                return self.ended(consuming).await.map(|ended| (ended, false));
            }
            let is_idle = self.waiters.is_empty() && consuming.commits.is_empty();
            let is_late = || Instant::now() >= idle_at || self.closed.is_cancelled();
            if is_idle && (self.prefetch.is_none() || self.is_over || is_late()) {
                consuming.stop(&self.home).await?;
                return Ok((Ended::NoDemand, false));
            }
            tokio::select! {
                ask = self.asks.recv(), if !self.is_over => {
                    if matches!(ask, Some(Ask::Waiter { .. })) {
                        idle_at = Instant::now() + IDLE;
                    }
                    let in_hand = consuming.held.len() + consuming.committing;
                    self.enter(ask, in_hand);
                    while let Ok(ask) = self.asks.try_recv() {
                        self.enter(Some(ask), in_hand);
                    }
                }
                event = consuming.next() => match event {
                    Event::Held => {}
                    Event::Ended => consuming.has_ended = true,
                    Event::Taken(tokens) => {
                        self.taken += tokens?;
                        self.hand_out();
                        if consuming.is_last && consuming.commits.is_empty() {
                            let ended = if self.waiters.is_empty() {
                                Ended::NoDemand
                            } else {
                                Ended::Again
                            };
                            return Ok((ended, true));
                        }
                    }
                },
                () = sleep_until(idle_at), if is_idle => {}
                () = self.closed.cancelled(), if !self.waiters.is_empty() => self.fail(&Error::Closed),
            }
        }
    }

    /// The broker has ended the consumer: the queue was deleted, or is not available. What is held is taken, so that it does not
    /// come back; whose it is says the next consumer.
    async fn ended(&mut self, consuming: &mut Consuming) -> Result<Ended, Failure> {
        let Consuming {
            link,
            channel,
            held,
            ..
        } = consuming;
        if !channel.status().connected() {
            return Err(Failure::Channel("the broker closed it".to_owned()));
        }
        if let Some(&last) = held.back() {
            take::take_up_to(link, channel, last, self.prefetch.unwrap_or(1)).await?;
            self.orphans = held.len();
        }
        link.close_channel(channel).await;
        Ok(Ended::Again)
    }

    /// What was held of a queue that was deleted was counted by nobody.
    fn adopt_orphans(&mut self, are_ours: bool) {
        let orphans = std::mem::take(&mut self.orphans);
        if are_ours {
            self.taken += orphans;
        }
    }

    /// Asks again and again.
    async fn poll(&mut self) -> Result<(), Error> {
        let home = self.home.clone();
        let first = || Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut backoff = first();
        loop {
            self.prune();
            self.hand_out();
            if self.waiters.is_empty() {
                return Ok(());
            }
            let one = async |link: Arc<Link>| take::one(&link, &home.name).await;
            if home
                .client
                .attempt(&home.name, TAKE, &self.closed, one)
                .await?
            {
                self.taken += 1;
                backoff = first();
                continue;
            }
            let mut waited = std::pin::pin!(sleep(backoff.next()));
            loop {
                tokio::select! {
                    () = &mut waited => break,
                    ask = self.asks.recv(), if !self.is_over => self.enter(ask, 0),
                    () = self.closed.cancelled() => return Err(Error::Closed),
                }
            }
        }
    }

    /// Takes in what the line is told while so many tokens are in hand.
    fn enter(&mut self, ask: Option<Ask>, in_hand: usize) {
        match ask {
            // Whoever does not want to wait stays only if there is a token for them.
            Some(Ask::Waiter {
                answer,
                is_try: true,
            }) if in_hand + self.taken <= self.waiters.len() => {
                self.is_wanted = true;
                let _ = answer.send(Ok(None));
            }
            Some(Ask::Waiter { answer, is_try }) => {
                self.waiters.push_back(Waiter { answer, is_try });
            }
            Some(Ask::Left) => {}
            None => self.is_over = true,
        }
    }

    fn prune(&mut self) {
        self.waiters.retain(|waiter| !waiter.answer.is_closed());
    }

    /// Gives what is there to those who wait.
    fn hand_out(&mut self) {
        while self.taken > 0 {
            let Some(waiter) = self.waiters.pop_front() else {
                return;
            };
            let token = Handover::new(Token::new(self.home.clone(), 1));
            match waiter.answer.send(Ok(Some(token))) {
                Ok(()) => self.taken -= 1,
                // Gone in this moment: the next one gets it.
                Err(Ok(Some(token))) => drop(token.accept()),
                Err(_) => {}
            }
        }
    }

    /// Nobody wants them.
    fn return_taken(&mut self) {
        let tokens = u32::try_from(std::mem::take(&mut self.taken)).unwrap_or(u32::MAX);
        let Home { client, name } = &*self.home;
        client.refund_in_background(name, tokens);
    }

    fn answer_tries(&mut self) {
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            if waiter.is_try {
                let _ = waiter.answer.send(Ok(None));
            } else {
                self.waiters.push_back(waiter);
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.answer.send(Err(error.clone()));
        }
    }
}

/// What happens to a consumer.
enum Event {
    /// Tokens came.
    Held,
    Ended,
    /// So many are taken.
    Taken(Result<usize, Failure>),
}

/// A consumer of the queue.
struct Consuming {
    link: Arc<Link>,
    channel: Channel,
    consumer: Consumer,
    has_ended: bool,
    /// Delivery tags of what the broker has given out, and is not being taken, in order.
    held: VecDeque<u64>,
    /// Acknowledgements under way, each with its number of tokens.
    commits: FuturesOrdered<BoxFuture<'static, Result<usize, Failure>>>,
    /// Tokens in them.
    committing: usize,
    /// The consumer ends with them.
    is_last: bool,
}

impl Consuming {
    /// What happens next. Cancel-safe.
    async fn next(&mut self) -> Event {
        tokio::select! {
            delivery = self.consumer.next(), if !self.has_ended => {
                let mut delivery = delivery;
                // All that are there already.
                loop {
                    let Some(Ok(token)) = &delivery else {
                        return Event::Ended;
                    };
                    self.held.push_back(token.delivery_tag);
                    match self.consumer.next().now_or_never() {
                        Some(next) => delivery = next,
                        None => return Event::Held,
                    }
                }
            }
            Some(taken) = self.commits.next() => {
                if let Ok(tokens) = taken {
                    self.committing -= tokens;
                }
                Event::Taken(taken)
            }
            else => pending().await,
        }
    }

    /// Takes the first ones. The last time the broker is told first that no more are wanted: it handles what comes on a channel in
    /// order, and so sends none that would have to go back.
    fn start(&mut self, tokens: usize, prefetch: u16, is_last: bool) {
        let (link, channel) = (self.link.clone(), self.channel.clone());
        let Some(last) = self.held.drain(..tokens).next_back() else {
            return;
        };
        let (tag, consumer) = (last, self.consumer.tag());
        (self.is_last, self.committing) = (is_last, self.committing + tokens);
        let commit = async move {
            let cancel = async {
                if is_last {
                    let cancel = channel.basic_cancel(consumer, BasicCancelOptions::default());
                    link.answer(cancel).await?;
                }
                Ok(())
            };
            let take = take::take_up_to(&link, &channel, tag, prefetch);
            try_join(cancel, take).await.map(|_| tokens)
        };
        self.commits.push_back(Box::pin(commit));
    }

    /// Wants no more, and gives back what is held. What may be on its way comes back with the end of the channel.
    async fn stop(&mut self, home: &Home) -> Result<(), Failure> {
        let Self { link, channel, .. } = self;
        let cancel = channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        link.answer(cancel).await?;
        if let Some(&last) = self.held.back() {
            let held = [(&home.name, self.held.len())];
            give_back(&home.client, link, channel, last, held).await?;
        }
        link.close_channel(channel).await;
        Ok(())
    }
}
