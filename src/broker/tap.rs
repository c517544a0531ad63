//! A stream that passes everything through and listens to the broker's first frame in passing: the client library knows
//! the server properties in it and keeps them to itself.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::tcp::AsyncTcpStream;

use super::version::{Greeting, Heard, Version};

/// Where the version appears when the broker has greeted.
pub(super) type Told = Arc<OnceLock<Version>>;

/// The runtime that a client library with such streams runs on.
pub(super) type Runtime = async_rs::Runtime<RuntimeParts<Tokio, Tapping>>;

/// That runtime on the current one.
pub(super) fn runtime() -> Runtime {
    Runtime::new(RuntimeParts::new(
        Tokio::current(),
        Tapping(Tokio::current()),
    ))
}

/// The stream.
pub(super) struct Tap {
    stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>,
    /// None once there is nothing more to learn.
    listening: Option<(Greeting, Told)>,
}

impl Tap {
    pub(super) fn new(stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>, told: Told) -> Self {
        let listening = Some((Greeting::default(), told));
        Self { stream, listening }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if let Some((greeting, told)) = &mut self.listening
            && let Heard::All(version) = greeting.hear(bytes)
        {
            version.map(|version| told.set(version));
            self.listening = None;
        }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.hear(&buffer[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_read_vectored(context, buffers))?;
        let mut rest = count;
        for buffer in buffers {
            let (filled, _) = buffer.split_at(rest.min(buffer.len()));
            self.hear(filled);
            rest -= filled.len();
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

/// Tokio's reactor with [`Tap`] as its stream: the client library takes no other stream than its reactor's.
#[derive(Clone)]
pub(super) struct Tapping(Tokio);

impl Reactor for Tapping {
    type TcpStream = Tap;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Tap>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move {
            Ok(Tap::new(
                AsyncTcpStream::Plain(connecting.await?),
                Told::default(),
            ))
        }
    }
}

impl fmt::Debug for Tapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tapping")
    }
}
