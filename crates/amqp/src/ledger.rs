//! A ledger as a message.

use super::error::BrokerError;
use super::transport::Batch;
use super::wire;
use bucket::{Ledger, ledger_queue_name};

/// Publishes the ledger of the bucket `name`, with the stamp of its commit. It comes back when its queue is gone.
pub(super) fn publish(
    batch: &mut Batch,
    name: &str,
    ledger: &Ledger,
    stamp: Option<&str>,
) -> Result<(), BrokerError> {
    let mut properties = wire::persistent().with_content_type("application/json".into());
    if let Some(stamp) = stamp {
        properties = properties.with_message_id(stamp.into());
    }
    let queue = wire::name(&ledger_queue_name(name))?;
    batch.publish_mandatory(queue, properties, &ledger.to_json())
}
