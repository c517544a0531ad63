//! token-bucket-operator: token buckets in AMQP queues, refilled on schedule, declared by Kubernetes resources.
//!
//! Dependencies between the modules point downwards in this list; nothing below `controller` knows a
//! Kubernetes client, and only `broker` speaks AMQP.

pub mod api;
pub mod broker;
pub mod bucket;
pub mod controller;
pub mod engine;
pub mod ops;
pub mod schedule;
pub mod verify;
