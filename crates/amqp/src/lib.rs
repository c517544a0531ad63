//! The only code that speaks AMQP: connections, queues, ledgers, refill requests, and the transaction that refills.

mod celery;
mod connection;
mod endpoint;
mod error;
mod fence;
mod frames;
mod pool;
mod publisher;
mod queues;
mod refill_channel;
mod socket;
mod tap;
mod transaction;
mod unreadable;
mod version;
mod wire;

pub use connection::Broker;
pub use endpoint::{Endpoint, EndpointError};
pub use error::BrokerError;
pub use fence::Fence;
pub use publisher::RequestPublisher;
pub use queues::{Declared, DeleteIf, Deleted, LedgerRead};
pub use refill_channel::RefillChannel;
pub use transaction::{Delivery, Forward, REJECTED_REASON, Transaction};
pub use version::Version;
