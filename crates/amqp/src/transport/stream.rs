//! The stream between the client library and the socket. What comes passes [`Inbound`], what goes [`BatchDecoder`].

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::tcp::AsyncTcpStream;

use super::batch_decoder::BatchDecoder;
use super::inbound::{Inbound, Told};

/// The runtime that a client library with such streams runs on.
pub(super) type Runtime = async_rs::Runtime<RuntimeParts<Tokio, StreamReactor>>;

/// That runtime on the current one.
pub(super) fn runtime() -> Runtime {
    Runtime::new(RuntimeParts::new(
        Tokio::current(),
        StreamReactor(Tokio::current()),
    ))
}

/// Octets that are taken from the library at one time: enough to keep the broker busy with.
const MOST_OUTGOING: usize = 256 * 1024;
/// Octets that are taken from the socket at one time.
const MOST_INCOMING: usize = 32 * 1024;

/// The stream.
pub(super) struct AmqpStream {
    stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>,
    inbound: Inbound,
    received: Box<[u8]>,
    /// For the library, and how many of them it has already.
    incoming: Vec<u8>,
    taken: usize,
    decoder: BatchDecoder,
    /// On their way to the socket, and how many of them are there already.
    outgoing: Vec<u8>,
    gone: usize,
}

impl AmqpStream {
    pub(super) fn new(stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>, told: Told) -> Self {
        Self {
            stream,
            inbound: Inbound::new(told.clone()),
            received: vec![0; MOST_INCOMING].into(),
            incoming: Vec::new(),
            taken: 0,
            decoder: BatchDecoder::new(told),
            outgoing: Vec::new(),
            gone: 0,
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
        let this = &mut *self;
        if this.taken == this.incoming.len() {
            this.incoming.clear();
            this.incoming.shrink_to(2 * MOST_INCOMING);
            this.taken = 0;
            let reading = Pin::new(&mut this.stream).poll_read(context, &mut this.received);
            let count = ready!(reading)?;
            let fed = match count {
                0 => this.inbound.end(),
                count => this
                    .inbound
                    .feed(&this.received[..count], &mut this.incoming),
            };
            fed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if count > 0 && this.incoming.is_empty() {
                // Nothing for the library in it. What else its thread has to do comes first.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let left = &this.incoming[this.taken..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        this.taken += count;
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
