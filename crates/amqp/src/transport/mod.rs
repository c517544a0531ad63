//! What lies under the client library: the socket, and a stream on it that reads the broker's greeting and sends batches of
//! frames. It stands on how the library frames and orders what it writes, so Cargo.toml pins the library's version.

mod batch;
mod batch_decoder;
mod socket;
mod stream;

pub(crate) use batch::Batch;
pub(crate) use socket::Socket;
