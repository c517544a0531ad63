//! Several tokens at once, of one bucket or of many: all or none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::backoff::Backoff;
use crate::bucket::{Home, check};
use crate::client::Client;
use crate::failure::Failure;
use crate::link::Link;
use crate::name::{Name, TAKE};
use crate::take;
use crate::token::{Origin, Token};

/// Tokens of one bucket at one time.
pub(crate) const MOST_TOKENS: u32 = 10_000;
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Client {
    /// Takes so many tokens of each of these buckets if all are there, else none: for several limits of one API, per second *and* per
    /// day. A bucket that is named twice counts twice.
    ///
    /// # Errors
    /// Those of [`Bucket::try_acquire_many`](crate::Bucket::try_acquire_many), [`Error::InvalidName`].
    pub async fn try_acquire_all<'a>(
        &self,
        wanted: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Result<Option<Token>, Error> {
        try_all(self, named(wanted)?).await
    }

    /// Waits until all are there at one time, and takes them. It is asked again and again, at most 1 s apart; nothing is held
    /// meanwhile, so two callers never wait for each other. Cancel-safe.
    ///
    /// # Errors
    /// Those of [`Client::try_acquire_all`].
    pub async fn acquire_all<'a>(
        &self,
        wanted: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Result<Token, Error> {
        all(self, named(wanted)?).await
    }
}

fn named<'a>(wanted: impl IntoIterator<Item = (&'a str, u32)>) -> Result<Vec<(Name, u32)>, Error> {
    let mut tokens: BTreeMap<Name, u32> = BTreeMap::new();
    for (name, count) in wanted {
        let sum = tokens.entry(Name::parse(name)?).or_default();
        *sum = sum.saturating_add(count);
    }
    // In one order for all callers.
    Ok(tokens.into_iter().collect())
}

/// Waits for all.
pub(crate) async fn all(client: &Client, wanted: Vec<(Name, u32)>) -> Result<Token, Error> {
    let started = Instant::now();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        if let Some(token) = attempt(client, &wanted, started).await? {
            return Ok(token);
        }
        sleep(backoff.next()).await;
    }
}

/// Takes all that are wanted, or none.
pub(crate) async fn try_all(
    client: &Client,
    wanted: Vec<(Name, u32)>,
) -> Result<Option<Token>, Error> {
    attempt(client, &wanted, Instant::now()).await
}

async fn attempt(
    client: &Client,
    wanted: &[(Name, u32)],
    started: Instant,
) -> Result<Option<Token>, Error> {
    for (_, tokens) in wanted {
        check(*tokens)?;
    }
    let Some((first, _)) = wanted.first() else {
        return Ok(Some(Token::of(Vec::new())));
    };
    let (first, its_client, wanted) = (first.clone(), client.clone(), Arc::from(wanted));
    let take = |gone: CancellationToken| async move {
        let wanted: Arc<[(Name, u32)]> = wanted;
        let take = async |link: Arc<Link>| take_all(&its_client, &link, &wanted).await;
        let short = its_client.attempt(&first, TAKE, &gone, take).await?;
        let observer = &its_client.0.observer;
        if let Some(short) = short {
            observer.empty(wanted[short].0.bucket());
            return Ok(None);
        }
        let mut parts: Vec<(Arc<dyn Origin>, u32)> = Vec::new();
        for (name, tokens) in &*wanted {
            observer.taken(name.bucket(), *tokens, started.elapsed());
            let home = Home {
                client: its_client.clone(),
                name: name.clone(),
            };
            parts.push((Arc::new(home), *tokens));
        }
        Ok(Some(Token::of(parts)))
    };
    client.detached(take).await
}

/// None: they are taken. Else which bucket is short.
async fn take_all(
    client: &Client,
    link: &Link,
    wanted: &[(Name, u32)],
) -> Result<Option<usize>, Failure> {
    // Asked first, so that what is taken in vain is the exception.
    if let Some(short) = counted_short(client, link, wanted).await? {
        return Ok(Some(short));
    }
    let channel = link.lease().await?;
    let mut held = Vec::new();
    let short = match take::hold(link, &channel, wanted, &mut held).await {
        Ok(short) => short,
        Err((at, Failure::NoQueue)) => {
            // The queue was deleted while some of its tokens were held: they went with it, and nobody has counted them.
            let (name, _) = &wanted[at];
            let gone = held.last().map_or(0, Vec::len);
            client.refund_in_background(name, u32::try_from(gone).unwrap_or(u32::MAX));
            return Err(Failure::NoQueue);
        }
        Err((_, failure)) => return Err(failure),
    };
    if let Some(&last) = held.iter().flatten().next_back() {
        if short.is_some() {
            let held = wanted.iter().zip(&held);
            let held = held.map(|((name, _), held)| (name, held.len()));
            give_back(client, link, &channel, last, held).await?;
        } else {
            take::take_up_to(link, &channel, last, 0).await?;
        }
    }
    channel.put_back();
    Ok(short)
}

/// The first bucket that has not enough, as far as counting is allowed.
async fn counted_short(
    client: &Client,
    link: &Link,
    wanted: &[(Name, u32)],
) -> Result<Option<usize>, Failure> {
    for (at, (name, tokens)) in wanted.iter().enumerate() {
        if !client.may_count() {
            break;
        }
        match take::count(link, name).await {
            Ok(count) if count < *tokens => return Ok(Some(at)),
            Ok(_) => {}
            Err(Failure::Refused(_)) => client.may_not_count(),
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// Gives back everything that is held on a channel, up to this tag. It is taken first and then put into the buckets anew: what is
/// simply given back is lost where the queue was replaced meanwhile, and a quorum queue of RabbitMQ 4 drops what was given back too
/// often. Who may not put anything into a bucket has no choice.
pub(crate) async fn give_back<'a>(
    client: &Client,
    link: &Link,
    channel: &lapin::Channel,
    tag: u64,
    held: impl IntoIterator<Item = (&'a Name, usize)>,
) -> Result<(), Failure> {
    if !client.may_refund().await {
        return take::give_back_up_to(link, channel, tag).await;
    }
    take::take_up_to(link, channel, tag, 0).await?;
    for (bucket, tokens) in held {
        client.refund_in_background(bucket, u32::try_from(tokens).unwrap_or(u32::MAX));
    }
    Ok(())
}
