//! A ledger as a message.

use super::error::BrokerError;
use super::frames::Frames;
use super::wire;
use bucket::{Ledger, ledger_queue_name};

/// Publishes the ledger of the bucket `name`, with the stamp of its commit. It comes back when its queue is gone.
pub(super) fn publish(
    frames: &mut Frames,
    name: &str,
    ledger: &Ledger,
    stamp: Option<&str>,
) -> Result<(), BrokerError> {
    let mut properties = wire::persistent().with_content_type("application/json".into());
    if let Some(stamp) = stamp {
        properties = properties.with_message_id(stamp.into());
    }
    let queue = wire::name(&ledger_queue_name(name))?;
    frames.publish_mandatory(queue, properties, &ledger.to_json())
}
