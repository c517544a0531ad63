//! Leader election by a `Lease`: of several replicas one works, the others stand by.
//!
//! The lease says who should work. What keeps two replicas from both refilling is the broker's exclusive consumer; so a
//! leader that cannot reach the API server goes on, and stops as soon as it reads that another replica holds the lease.
//! (An API server that is away must not stop the refills, and nobody else can take the lease meanwhile.)

mod claim;

use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::api_error::message;
use super::identity::PROGRAM;
use super::readiness::Readiness;
use bucket::machine::Now;
use claim::{Seen, claimed, released};
use engine::{Clock, LeaseRenewer, LeaseValidity};

/// A holder that has not renewed its lease for so long has lost it.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Pause after a failed request.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// What a leader that lost the lease may take to stop. Then the process must end: nobody else could stop it.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why the election ended the program.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError<E> {
    /// The work failed.
    #[error(transparent)]
    Work(E),
    /// The lease is lost and the work does not stop.
    #[error(
        "the lease is held by {0} now and the work of this replica did not stop within {limit} s: ending the process",
        limit = STOP_WITHIN.as_secs()
    )]
    StillWorking(String),
}

/// For as long as a replica leads.
#[derive(Clone, Debug)]
pub struct Term {
    /// Cancelled when the work is to stop.
    pub stop: CancellationToken,
    /// For how long the replica knows that it leads.
    pub lease: LeaseValidity,
}

/// One replica's candidacy.
#[derive(Clone, Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    holder: String,
    readiness: Readiness,
    clock: Clock,
}

impl Candidate {
    /// A candidate for the lease in `namespace`. `readiness` is set once it stands by.
    #[must_use]
    pub fn new(client: Client, namespace: &str, holder: String, readiness: Readiness) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            holder,
            readiness,
            clock: Clock::start(),
        }
    }

    /// Works whenever this replica holds the lease, until `stop` or until the work ends by itself. The work ends when
    /// its token is cancelled; it has time to finish what it is at.
    ///
    /// # Errors
    /// The work's own, or that it goes on although the lease is lost.
    pub async fn lead<E, Work>(
        &self,
        stop: &CancellationToken,
        work: impl Fn(Term) -> Work,
    ) -> Result<(), ElectionError<E>>
    where
        Work: Future<Output = Result<(), E>>,
    {
        loop {
            let (lease, since) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                taken = self.acquire() => taken,
            };
            info!(holder = self.holder, "this replica leads");
            let (renewer, validity) = LeaseValidity::granted(self.clock, since, LEASE_DURATION);
            let term = stop.child_token();
            let mut running = pin!(work(Term {
                stop: term.clone(),
                lease: validity,
            }));
            let mut held = Some(lease);
            let successor = tokio::select! {
                result = &mut running => {
                    self.release(held).await;
                    return result.map_err(ElectionError::Work);
                }
                successor = self.hold(&mut held, &renewer) => successor,
            };
            warn!(
                holder = successor,
                "lost the lease: stopping, and standing by again"
            );
            term.cancel();
            match timeout(STOP_WITHIN, running).await {
                Ok(result) => result.map_err(ElectionError::Work)?,
                Err(_) => return Err(ElectionError::StillWorking(successor)),
            }
        }
    }

    /// Waits until the lease is free, and takes it. The time is that of the request.
    async fn acquire(&self) -> (Lease, Now) {
        let mut changes = pin!(self.changes());
        let mut seen = Seen::nothing(Instant::now());
        let mut announced = None;
        loop {
            let now = self.clock.now();
            let pause = match seen.free_after(&self.holder, Instant::now()) {
                Duration::ZERO => match self.take(&mut seen).await {
                    Ok(Some(lease)) => return (lease, now),
                    Ok(None) => Duration::ZERO,
                    Err(error) => {
                        warn!(
                            error = message(&error),
                            "cannot take the lease {PROGRAM}: trying again"
                        );
                        RETRY_AFTER
                    }
                },
                pause => pause,
            };
            let holder = seen.holder();
            if pause > Duration::ZERO && holder.is_some() {
                self.readiness.set(true);
                if announced.as_deref() != holder {
                    info!(holder, "standing by");
                    announced = holder.map(str::to_owned);
                }
            }
            tokio::select! {
                Some(change) = changes.next() => {
                    if let Ok(lease) = change {
                        seen.update(lease, Instant::now());
                    }
                }
                () = sleep(pause) => {}
            }
        }
    }

    fn changes(&self) -> impl Stream<Item = watcher::Result<Option<Lease>>> + use<> {
        watcher::watch_object(self.leases.clone(), PROGRAM).default_backoff()
    }

    /// Takes the lease unless it is held by what the API server says now, which may be newer than what was watched.
    async fn take(&self, seen: &mut Seen) -> kube::Result<Option<Lease>> {
        let current = within(self.leases.get_opt(PROGRAM)).await?;
        seen.update(current, Instant::now());
        if seen.free_after(&self.holder, Instant::now()) > Duration::ZERO {
            return Ok(None);
        }
        match self
            .write(claimed(seen.lease(), PROGRAM, &self.holder, LEASE_DURATION))
            .await
        {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews the lease until somebody else holds the lease, and says who.
    async fn hold(&self, held: &mut Option<Lease>, renewer: &LeaseRenewer) -> String {
        let mut pause = RENEW_EVERY;
        let mut failing = false;
        loop {
            sleep(pause).await;
            let now = self.clock.now();
            let renewed = match held.as_ref() {
                Some(lease) => {
                    self.write(claimed(Some(lease), PROGRAM, &self.holder, LEASE_DURATION))
                        .await
                }
                None => match self.reclaim().await {
                    Ok(Ok(lease)) => Ok(lease),
                    Ok(Err(successor)) => return successor,
                    Err(error) => Err(error),
                },
            };
            (*held, pause) = match renewed {
                Ok(lease) => {
                    failing = false;
                    renewer.renew(now, LEASE_DURATION);
                    (Some(lease), RENEW_EVERY)
                }
                // Changed or deleted behind our back: look who holds it.
                Err(error) if is_conflict(&error) => (None, Duration::ZERO),
                Err(error) => {
                    // A stopped leader's connections are broken: only a second failure means that nobody answers.
                    let unreachable = failing || renewer.is_valid_at(now);
                    if unreachable {
                        renewer.renew(now, LEASE_DURATION);
                    }
                    if !failing {
                        warn!(
                            error = message(&error),
                            "cannot renew the lease: going on while nobody else holds it"
                        );
                    }
                    failing = true;
                    let pause = if unreachable {
                        RETRY_AFTER
                    } else {
                        Duration::ZERO
                    };
                    (held.take(), pause)
                }
            };
        }
    }

    /// Renews a lease that somebody wrote to or deleted; or says who holds it now.
    async fn reclaim(&self) -> kube::Result<Result<Lease, String>> {
        let current = within(self.leases.get_opt(PROGRAM)).await?;
        let holder = current
            .as_ref()
            .and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref());
        match holder {
            Some(other) if !other.is_empty() && other != self.holder => Ok(Err(other.to_owned())),
            _ => self
                .write(claimed(
                    current.as_ref(),
                    PROGRAM,
                    &self.holder,
                    LEASE_DURATION,
                ))
                .await
                .map(Ok),
        }
    }

    /// Frees the lease, so that a standby need not wait until it expires.
    async fn release(&self, held: Option<Lease>) {
        let Some(lease) = held else { return };
        match self.write(released(lease)).await {
            Ok(_) => info!("released the lease"),
            Err(error) => {
                warn!(
                    error = message(&error),
                    "cannot release the lease: the next leader waits until it expires"
                )
            }
        }
    }

    /// Creates the lease, or replaces exactly the version that `lease` was made from.
    async fn write(&self, lease: Lease) -> kube::Result<Lease> {
        let params = PostParams {
            field_manager: Some(PROGRAM.to_owned()),
            ..PostParams::default()
        };
        if lease.metadata.resource_version.is_some() {
            within(self.leases.replace(PROGRAM, &params, &lease)).await
        } else {
            within(self.leases.create(&params, &lease)).await
        }
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result,
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    }
}

/// Somebody else was quicker, or the lease is gone.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}
