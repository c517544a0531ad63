//! The stream between the client library and the socket. It reads the broker's first frame in passing: the library knows the
//! server properties in it and keeps them to itself. And it puts the frames of batches in their place.

use std::fmt;
use std::io::{self, IoSliceMut, Read, Write};
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

use super::batch_decoder::BatchDecoder;
use crate::version::{Greeting, Heard, Version};

/// Where the version appears when the broker has greeted.
pub(super) type Told = Arc<OnceLock<Version>>;

/// The runtime that a client library with such streams runs on.
pub(super) type Runtime = async_rs::Runtime<RuntimeParts<Tokio, StreamReactor>>;

/// That runtime on the current one.
pub(super) fn runtime() -> Runtime {
    Runtime::new(RuntimeParts::new(
        Tokio::current(),
        StreamReactor(Tokio::current()),
    ))
}

/// Octets that are taken at one time: enough to keep the broker busy with.
const MOST_OUTGOING: usize = 256 * 1024;

/// The stream.
pub(super) struct AmqpStream {
    stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>,
    /// None once there is nothing more to learn.
    listening: Option<(Greeting, Told)>,
    decoder: BatchDecoder,
    /// On their way to the socket, and how many of them are there already.
    outgoing: Vec<u8>,
    gone: usize,
}

impl AmqpStream {
    pub(super) fn new(stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>, told: Told) -> Self {
        let listening = Some((Greeting::default(), told));
        Self {
            stream,
            listening,
            decoder: BatchDecoder::default(),
            outgoing: Vec::new(),
            gone: 0,
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if let Some((greeting, told)) = &mut self.listening
            && let Heard::All(version) = greeting.hear(bytes)
        {
            version.map(|version| told.set(version));
            self.listening = None;
        }
    }

    /// Ready when everything that was taken is on the socket.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.outgoing.len() {
            let rest = &self.outgoing[self.gone..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.gone += count,
            }
        }
        self.outgoing.clear();
        self.gone = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for AmqpStream {
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

impl AsyncWrite for AmqpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(context))?;
        let taken = buffer.len().min(MOST_OUTGOING);
        this.decoder.feed(&buffer[..taken], &mut this.outgoing);
        // What does not fit now goes with the next call: the library flushes whenever the socket becomes writable.
        match this.poll_drain(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_close(context)
    }
}

/// Tokio's reactor with [`AmqpStream`] as its stream: the client library takes no other stream than its reactor's.
#[derive(Clone)]
pub(super) struct StreamReactor(Tokio);

impl Reactor for StreamReactor {
    type TcpStream = AmqpStream;
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
    ) -> impl Future<Output = io::Result<AmqpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move {
            Ok(AmqpStream::new(
                AsyncTcpStream::Plain(connecting.await?),
                Told::default(),
            ))
        }
    }
}

impl fmt::Debug for StreamReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamReactor")
    }
}
