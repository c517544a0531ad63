//! What lies under the client library: the socket, and a stream on it that keeps from the library what it cannot be trusted
//! with, and sends batches of frames. It stands on how the library frames and orders what it writes, so Cargo.toml pins the
//! library's version.

mod batch;
mod batch_decoder;
mod content;
mod frames;
mod inbound;
mod socket;
mod stream;
mod table;

pub(crate) use batch::Batch;
#[cfg(test)]
pub(crate) use content::encoded;
pub(crate) use content::{BEFORE_PROPERTIES, Content, readable, unwrapped};
pub use inbound::passed;
pub(crate) use socket::Socket;
pub(crate) use table::{after_value, long, short};
