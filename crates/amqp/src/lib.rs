//! The only code that speaks AMQP: connections, queues, ledgers, refill requests, and the transaction that refills.

mod allowance;
mod celery;
mod channel;
mod claims;
mod connection;
mod consumer;
mod delivery;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod ledger;
mod parked;
mod place;
mod pool;
mod properties;
mod publisher;
mod queues;
mod remove;
mod reservation;
mod stamps;
mod transactions;
mod transport;
mod version;
mod wire;
mod write_ledger;

pub use allowance::LEAST_CHANNELS;
pub use connection::Broker;
pub use consumer::RefillConsumer;
pub use delivery::{Delivery, Forward, REJECTED_REASON};
pub use endpoint::Endpoint;
pub use error::BrokerError;
pub use place::Place;
pub use publisher::RequestPublisher;
pub use queues::{Declared, DeleteIf, Deleted};
pub use remove::Leaving;
pub use transactions::TransactionChannel;
pub use version::Version;
