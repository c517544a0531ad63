//! The socket to a broker.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use async_rs::Tokio;
use async_rs::traits::Reactor;
use lapin::tcp::AsyncTcpStream;
use tokio::time::timeout;

use crate::Endpoint;

/// A stream to a broker, by TLS where that is wanted.
pub type Stream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Connects within `limit`, the TLS handshake with the endpoint's certificates included. With the stream comes a second handle
/// to its socket: the client library waits on a peer that is silent for ever, on a thread of its own, and shutting the socket
/// down ends that wait.
///
/// # Errors
/// What the network or TLS says; [`io::ErrorKind::TimedOut`] after `limit`.
pub async fn dial(endpoint: &Endpoint, limit: Duration) -> lapin::Result<(Stream, TcpStream)> {
    let runtime = lapin::runtime::default_runtime()?;
    let (host, port) = (endpoint.host(), endpoint.port());
    let connecting = async {
        let address = runtime.to_socket_addrs((host.to_owned(), port));
        let socket = AsyncTcpStream::connect(&runtime, address).await?;
        match endpoint.certificates() {
            Some(certificates) => socket.into_rustls(&certificates.connector()?, host).await,
            None => Ok(socket),
        }
    };
    let stream = timeout(limit, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let handle = match &stream {
        AsyncTcpStream::Plain(stream) => stream.get_ref().as_fd().try_clone_to_owned()?,
        AsyncTcpStream::Rustls(stream) => {
            stream.get_ref().0.get_ref().as_fd().try_clone_to_owned()?
        }
        _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    };
    Ok((stream, handle.into()))
}
