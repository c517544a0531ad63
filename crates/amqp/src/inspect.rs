//! How the queues of a bucket are.

use futures::future::join;

use super::connection::Broker;
use super::error::BrokerError;
use super::queues::Declared;
use super::wire;
use bucket::Bucket;
use bucket::QueueType;
use bucket::machine::{Inspection, QueueState};

impl Broker {
    /// Finds out how the queues of a bucket are. Where its ledger has a queue, the bucket's is declared if need be; where
    /// it has none nothing is declared. A bucket's queue that `was_there` is told when it is missing.
    ///
    /// # Errors
    /// [`BrokerError::UnsupportedVersion`]; [`BrokerError::InUse`] while somebody is writing a first ledger; or when the
    /// broker or the connection does not let it.
    pub async fn inspect(
        &self,
        bucket: &Bucket,
        was_there: bool,
    ) -> Result<Inspection, BrokerError> {
        let (kind, queue, ledger_queue) =
            (bucket.queue_type, bucket.queue(), bucket.ledger_queue());
        self.supports_buckets(kind)?;
        let _claim = self.claims().claim(&ledger_queue)?;
        if self.count(&ledger_queue).await?.is_none() {
            let bucket_exists = self.count(&queue).await?.is_some();
            return Ok(Inspection::NoLedger { bucket_exists });
        }
        let is_missing = was_there && self.count(&queue).await?.is_none();
        let (ledger, tokens) = join(
            self.declare_ledger(&ledger_queue, kind),
            self.declare_bucket(&queue, kind, bucket.maximum),
        )
        .await;
        if let Declared::Different { message } = ledger? {
            return Ok(Inspection::OtherArguments {
                queue: ledger_queue,
                message,
                tokens: None,
            });
        }
        let state = match tokens? {
            Declared::Ok { tokens } => QueueState {
                tokens,
                limit: Some(bucket.maximum),
            },
            Declared::OtherLimit { current } => QueueState {
                tokens: self.count(&queue).await?.unwrap_or(0),
                limit: current,
            },
            Declared::Different { message } => {
                let tokens = match wire::other_argument(&message) {
                    // Nobody knows what it is.
                    None | Some("x-queue-type") => None,
                    // Gone meanwhile is as good as empty.
                    Some(_) => Some(self.count(&queue).await?.unwrap_or(0)),
                };
                return Ok(Inspection::OtherArguments {
                    queue,
                    message,
                    tokens,
                });
            }
        };
        Ok(if is_missing {
            Inspection::Restored(state)
        } else {
            Inspection::Queues(state)
        })
    }

    /// Whether a bucket may have queues of this type.
    ///
    /// # Errors
    /// [`BrokerError::UnsupportedVersion`].
    pub fn supports_buckets(&self, kind: QueueType) -> Result<(), BrokerError> {
        self.supports(kind, "create the bucket anew with queueType: classic")
    }

    /// Whether transactions on queues of this type are carried out as a whole. A broker that does not tell its version is
    /// given the benefit of the doubt.
    pub(super) fn supports(
        &self,
        kind: QueueType,
        instead: &'static str,
    ) -> Result<(), BrokerError> {
        match self.version() {
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
}
