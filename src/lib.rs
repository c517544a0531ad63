//! token-bucket-operator: token buckets in AMQP queues, refilled on schedule, declared by Kubernetes resources.
//!
//! `preflight` and `verify` stand on `controller`, that on `engine`, that on `broker`, `bucket`, `schedule` and `api`.
//! The engine and what it stands on know no Kubernetes client, and only `broker` speaks AMQP.

pub mod api;
pub mod broker;
pub mod bucket;
pub mod controller;
pub mod engine;
pub mod ops;
pub mod preflight;
pub mod schedule;
pub mod verify;
