//! token-bucket-operator: token buckets in AMQP queues, refilled on schedule, declared by Kubernetes resources.
//!
//! `broker_file` stands on [`amqp`]. `preflight` and `verify` stand on `controller`, that on the crates [`engine`] and [`api`]; `engine` on [`amqp`]; all of them
//! on [`bucket`], and that on [`schedule`]: these two are pure. Only this crate talks to an API server, and only `amqp` to a
//! broker. The crates are here under their names, for tests and benchmarks.

#![warn(unreachable_pub)]

pub mod broker_file;
pub mod controller;
pub mod ops;
pub mod preflight;
pub mod verify;

pub use amqp;
pub use api;
pub use bucket;
pub use endpoint;
pub use engine;
pub use schedule;
