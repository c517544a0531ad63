//! What lies under the client library: the socket, and a stream on it that keeps from the library what it cannot be trusted
//! with, and sends batches of frames. It stands on how the library frames and orders what it writes, so Cargo.toml pins the
//! library's version.

mod batch;
mod batch_decoder;
mod frames;
mod inbound;
mod socket;
mod stream;
mod table;

pub(crate) use batch::Batch;
pub use inbound::passed;
pub(crate) use inbound::{UNREADABLE, readable};
pub(crate) use socket::Socket;
