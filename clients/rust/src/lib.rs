//! Takes tokens from the buckets of token-bucket-operator.

mod all;
mod bucket;
mod client;
mod error;
mod failure;
mod line;
mod link;
mod name;
mod observer;
mod refund;
mod slot;
mod take;
mod token;

pub use bucket::Bucket;
pub use client::{Builder, Client};
pub use endpoint::{EndpointError, SecretError};
pub use error::Error;
pub use observer::Observer;
pub use token::Token;
