//! Makes the queues of one bucket what they should be, as far as that needs no transaction. Idempotent; every step can
//! be the last one before a crash.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::outcome::Phase;
use amqp::{Broker, BrokerError, Declared, Fence, LedgerRead};
use bucket::{Bucket, Ledger, QueueType, Writer};

/// RabbitMQ 4 drops a message of a quorum queue at its 21st delivery; each reading of the ledger is one.
const MOST_READINGS: u64 = 10;

/// How long a broker takes at most to give back what a dead process had in hand.
const IN_HAND: Duration = Duration::from_millis(500);

/// A resource this young may well have no ledger yet.
const YOUNG: TimeDelta = TimeDelta::seconds(60);

/// The ledger as it should be.
#[derive(Debug)]
pub(super) struct LedgerState {
    pub(super) ledger: Ledger,
    /// It has to be written before anything else happens to the bucket.
    pub(super) changed: bool,
    /// Keeps out who could write it until then through the refill queue that it names.
    pub(super) fence: Option<Fence>,
}

/// The queue of tokens as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct QueueState {
    pub(super) tokens: u64,
    /// `x-max-length` that is in force.
    pub(super) limit: Option<u64>,
}

/// Why a bucket's queues cannot be made what they should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnsureError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(
        "Queue {queue} exists with other arguments: {message}. Delete it, or give the bucket another name or queueType."
    )]
    OtherArguments { queue: String, message: String },
    #[error(
        "The ledger in queue {queue} cannot be read: {message}. Run the version of the operator that wrote it, or purge \
         the queue: refills then start anew from the creation of the resource."
    )]
    UnreadableLedger { queue: String, message: String },
    #[error(
        "The bucket was refilled through refill queue {queue} until now, and another replica still consumes that: one \
         that was cut off perhaps, and does not know of the change. Refills go on when it has ended; stop it if it \
         should not run."
    )]
    RefilledElsewhere { queue: String },
}

impl EnsureError {
    /// The phase that a bucket is in because of this.
    pub(super) fn phase(&self) -> Phase {
        let message = self.to_string();
        match self {
            Self::Broker(error) if error.needs_person() => Phase::Stalled {
                reason: error.kind(),
                message,
            },
            Self::Broker(error) => Phase::Progressing {
                reason: error.kind(),
                message,
            },
            Self::OtherArguments { .. } => Phase::Stalled {
                reason: "QueueArgumentsDiffer",
                message,
            },
            Self::RefilledElsewhere { .. } => Phase::Progressing {
                reason: "QueueInUse",
                message,
            },
            Self::UnreadableLedger { .. } => Phase::Stalled {
                reason: "UnreadableLedger",
                message,
            },
        }
    }
}

/// Whether transactions on queues of this type are carried out as a whole. A broker that does not tell its version is
/// given the benefit of the doubt.
pub(super) fn supported(
    broker: &Broker,
    kind: QueueType,
    instead: &'static str,
) -> Result<(), BrokerError> {
    match broker.version() {
        Some(version)
            if kind == QueueType::Quorum
                && version.rabbitmq().is_some_and(|series| series < (3, 13)) =>
        {
            let broker = version.to_string();
            Err(BrokerError::UnsupportedVersion { broker, instead })
        }
        _ => Ok(()),
    }
}

/// Declares and reads the ledger. A bucket that has none gets its initial tokens as owed, unless its queue was there
/// before: then it is somebody's, with the tokens that it holds. `known` is the ledger as it was when this process last
/// saw it: it is written again when somebody deleted its queue.
pub(super) async fn ledger(
    broker: &Arc<Broker>,
    bucket: &Bucket,
    writer: &Writer,
    known: Option<Ledger>,
    now: DateTime<Utc>,
) -> Result<LedgerState, EnsureError> {
    let queue = bucket.ledger_queue();
    supported(
        broker,
        bucket.queue_type,
        "create the bucket anew with queueType: classic",
    )?;
    if let Declared::Different { message } =
        broker.declare_ledger(&queue, bucket.queue_type).await?
    {
        return Err(EnsureError::OtherArguments { queue, message });
    }
    let fingerprint = bucket.timetable.fingerprint();
    let mut read = broker.read_ledger(&queue, bucket.queue_type).await?;
    let absent = |read: &LedgerRead| matches!(read, LedgerRead::None | LedgerRead::NoQueue);
    if absent(&read) && now - bucket.created > YOUNG {
        // A predecessor that has just died may have it in hand; it comes back when the broker has noticed.
        tokio::time::sleep(IN_HAND).await;
        read = broker.read_ledger(&queue, bucket.queue_type).await?;
    }
    let (mut fence, mut fenced) = (None, None);
    while let LedgerRead::Ledger { ledger, .. } = &read
        && let Some(other) = ledger.rival(bucket, writer).map(str::to_owned)
        && fenced.as_ref() != Some(&other)
    {
        fence = Some(broker.fence(&other).await.map_err(|error| match error {
            BrokerError::InUse { queue } => EnsureError::RefilledElsewhere { queue },
            error => error.into(),
        })?);
        fenced = Some(other);
        // Who held it until now may have written it meanwhile.
        read = broker.read_ledger(&queue, bucket.queue_type).await?;
    }
    let (mut ledger, deliveries) = match read {
        LedgerRead::Ledger { ledger, deliveries } => (ledger, deliveries),
        LedgerRead::Unreadable(message) => {
            return Err(EnsureError::UnreadableLedger { queue, message });
        }
        LedgerRead::None | LedgerRead::NoQueue => {
            let fresh = bucket.initial_tokens > 0 && broker.count(&bucket.queue()).await?.is_none();
            let initial = if fresh { bucket.initial_tokens } else { 0 };
            let ledger = known
                .unwrap_or_else(|| Ledger::new(&bucket.uid, bucket.created, &fingerprint, initial));
            return Ok(LedgerState {
                ledger: ledger.brought_up_to(bucket, &fingerprint, now),
                changed: true,
                fence,
            });
        }
    };
    let ours = ledger.writer.take().as_deref() == Some(writer);
    let current = ledger.clone().brought_up_to(bucket, &fingerprint, now);
    let worn = bucket.queue_type == QueueType::Quorum && deliveries >= MOST_READINGS;
    Ok(LedgerState {
        changed: worn || !ours || current != ledger,
        ledger: current,
        fence,
    })
}

/// Declares the queue of tokens, or finds out how it differs.
pub(super) async fn queue(broker: &Broker, bucket: &Bucket) -> Result<QueueState, EnsureError> {
    let queue = bucket.queue();
    match broker
        .declare_bucket(&queue, bucket.queue_type, bucket.maximum)
        .await?
    {
        Declared::Ok { tokens } => Ok(QueueState {
            tokens,
            limit: Some(bucket.maximum),
        }),
        Declared::OtherLimit { current } => {
            let tokens = broker.count(&queue).await?.unwrap_or(0);
            Ok(QueueState {
                tokens,
                limit: current,
            })
        }
        Declared::Different { message } => Err(EnsureError::OtherArguments { queue, message }),
    }
}
