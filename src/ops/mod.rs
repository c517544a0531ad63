//! What every service needs, whatever it does: logs, metrics, probes, a page to look at, signals, leader election.

mod access;
pub mod admin;
pub(crate) mod api_error;
pub mod api_proxy;
pub mod api_requests;
pub mod election;
mod exposition;
mod hour;
mod http;
pub(crate) mod identity;
mod metrics;
mod page;
mod readiness;
mod readings;
pub mod signals;
pub mod telemetry;

pub use access::Access;
pub use identity::Identity;
pub use metrics::Metrics;
pub use readiness::Readiness;
pub use readings::{Reading, Readings};
