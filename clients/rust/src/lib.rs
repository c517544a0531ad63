//! Takes tokens from the buckets of [token-bucket-operator]: a rate limit that many workers share, over AMQP 0-9-1 (RabbitMQ).
//!
//! The operator fills a bucket on a schedule, for example with 1,000 tokens an hour. A program takes a token before each call to the
//! API that is limited; there are never more calls than tokens, whatever crashes.
//!
//! ```no_run
//! # async fn call_the_api() {}
//! # async fn example() -> Result<(), token_bucket_client::Error> {
//! use token_bucket_client::Client;
//!
//! let client = Client::connect("amqp://user:password@rabbitmq:5672/vhost").await?;
//! let bucket = client.bucket("my_api_client")?;
//!
//! // Take one if there is one:
//! if let Some(token) = bucket.try_acquire().await? {
//!     call_the_api().await;
//! }
//!
//! // Or wait for one, in the order of waiting:
//! let token = bucket.acquire().await?;
//! call_the_api().await;
//! # Ok(()) }
//! ```
//!
//! | to | use |
//! |---|---|
//! | take one if there is one | [`Bucket::try_acquire`] |
//! | wait for one, with a deadline | [`Bucket::acquire`], [`Bucket::acquire_timeout`] |
//! | take several, all or none | [`Bucket::try_acquire_many`], [`Bucket::acquire_many`] |
//! | keep to several limits, per second *and* per day | [`Client::try_acquire_all`], [`Client::acquire_all`] |
//! | give one back that was not used | [`Token::refund`] |
//! | take very many | [`Bucket::with_prefetch`] |
//! | limit a [tower] service | `RateLimitLayer` (feature `tower`) |
//! | know when the next refill is | `Schedule` (feature `schedule`) |
//! | count takes and waits | [`Observer`], or the feature `metrics` |
//! | test without a broker | `MockBucket` (feature `mock`), [`TokenBucket`] |
//!
//! # What is guaranteed
//!
//! - **No token is there twice.** It is the caller's when the broker has let go of it, and not before. A client that dies leaves
//!   what it held to the bucket.
//! - **All calls are cancel-safe.** A future can be dropped at any time; what was taken for it goes back. (A program that is
//!   killed in that moment loses it.)
//! - **A connection that breaks** is made again, and calls go on. The token whose answer was under way is lost, since nobody can know
//!   whether it was taken: one for each caller that does not wait, what was asked for at one time for each of the others.
//! - **A queue that is missing** for a moment, as while the operator raises `maximum`, is asked for again for 2 s. What a client holds
//!   stays its own. A token that is given back in the very moment in which the queue is deleted is lost, as RabbitMQ confirms it.
//! - A broker that is killed hard (not closed) may bring tokens back that were taken just before, as with all messages of RabbitMQ
//!   that its disk had not seen go.
//!
//! [token-bucket-operator]: https://crates.io/crates/token-bucket-client
//! [tower]: https://docs.rs/tower

#![warn(unreachable_pub)]

mod all;
mod backoff;
mod bucket;
mod client;
mod error;
mod failure;
mod interface;
#[cfg(feature = "tower")]
mod layer;
mod line;
mod link;
#[cfg(feature = "mock")]
mod mock;
mod name;
mod observer;
mod refund;
#[cfg(feature = "schedule")]
mod schedule;
mod slot;
mod take;
mod token;

pub use bucket::Bucket;
pub use client::{Builder, Client};
pub use error::Error;
pub use interface::TokenBucket;
#[cfg(feature = "tower")]
pub use layer::{RateLimit, RateLimitLayer, RateLimited};
#[cfg(feature = "mock")]
pub use mock::MockBucket;
pub use observer::Observer;
#[cfg(feature = "schedule")]
pub use schedule::Schedule;
pub use token::Token;
pub use token_bucket_endpoint::{EndpointError, SecretError};
