use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What [`Link::corrupt`] replaces.
pub const MARK: &str = "NOT UTF-8";

/// A way to the broker that can break.
pub struct Link {
    pub uri: String,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    /// Bytes that still go to the broker before the link is cut.
    budget: AtomicU64,
    /// Nothing goes through any more, and nobody is told.
    silent: AtomicBool,
    /// [`MARK`] on its way to the broker becomes something that is not UTF-8.
    corrupt: AtomicBool,
    to_client: Mutex<Option<OwnedWriteHalf>>,
    /// All that the broker has said.
    received: Mutex<Vec<u8>>,
}

impl Link {
    /// Takes one connection and passes it on to the broker that `uri` names.
    pub async fn to(uri: &str) -> Self {
        let (credentials, rest) = uri.rsplit_once('@').unwrap();
        let (address, vhost) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let state = Arc::new(State {
            budget: AtomicU64::new(u64::MAX),
            silent: AtomicBool::new(false),
            corrupt: AtomicBool::new(false),
            to_client: Mutex::new(None),
            received: Mutex::new(Vec::new()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(pass(listener, address.to_owned(), Arc::clone(&state)));
        Self {
            uri: format!("{credentials}@{own}/{vhost}"),
            state,
            _tasks: tasks,
        }
    }

    /// Cuts the link after so many more bytes towards the broker.
    pub fn cut_after(&self, bytes: u64) {
        self.state.budget.store(bytes, Ordering::SeqCst);
    }

    /// From now on everything is swallowed.
    pub fn silence(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }

    /// From now on [`MARK`] on its way to the broker becomes something that is not UTF-8.
    pub fn corrupt(&self) {
        self.state.corrupt.store(true, Ordering::SeqCst);
    }

    /// Tells the client that the broker has a resource alarm, as the broker would.
    pub async fn block(&self) {
        self.inject(&[10, 60], b"\x06memory").await;
    }

    /// Tells the client that the alarm is over.
    pub async fn unblock(&self) {
        self.inject(&[10, 61], b"").await;
    }

    /// Sends a method of channel 0 to the client. The broker must have nothing to say at that time.
    async fn inject(&self, [class, method]: &[u8; 2], arguments: &[u8]) {
        let length = u8::try_from(4 + arguments.len()).unwrap();
        let mut frame = vec![1, 0, 0, 0, 0, 0, length, 0, *class, 0, *method];
        frame.extend(arguments);
        frame.push(0xCE);
        let mut client = self.state.to_client.lock().await;
        client.as_mut().unwrap().write_all(&frame).await.unwrap();
    }

    /// Delivers empty messages to the client's consumer until it hangs up, whatever was agreed upon; at most `most`.
    pub async fn flood(&self, most: u64) -> u64 {
        let received = self.state.received.lock().await.clone();
        let at = received
            .windows(9)
            .position(|octets| octets == b"amq.ctag-")
            .expect("there is a consumer");
        // It ends a `basic.consume-ok`: head of the frame, class, method, and its length.
        let (channel, length) = ([received[at - 11], received[at - 10]], received[at - 1]);
        let tag = &received[at - 1..at + usize::from(length)];
        let mut client = self.state.to_client.lock().await;
        for number in 1..=most {
            let deliver = [
                &[0, 60, 0, 60][..],
                tag,
                &number.to_be_bytes(),
                &[0, 0, 1, b'q'],
            ];
            let header = [&[0, 60, 0, 0][..], &[0; 8], &[0, 0]];
            for (kind, payload) in [(1, deliver.concat()), (2, header.concat())] {
                let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
                let frame = [&[kind][..], &channel, &length, &payload, &[0xCE]].concat();
                let Some(client) = client.as_mut() else {
                    return number;
                };
                if client.write_all(&frame).await.is_err() {
                    return number;
                }
            }
        }
        most
    }
}

async fn pass(listener: TcpListener, address: String, state: Arc<State>) {
    let (client, _) = listener.accept().await.unwrap();
    let broker = TcpStream::connect(address).await.unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    *state.to_client.lock().await = Some(to_client);
    tokio::select! {
        () = upstream(from_client, to_broker, &state) => {}
        () = downstream(from_broker, &state) => {}
    }
    // Dropping the halves cuts the link.
    *state.to_client.lock().await = None;
}

async fn upstream(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &State,
) {
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if state.silent.load(Ordering::SeqCst) {
            continue;
        }
        if state.corrupt.load(Ordering::SeqCst) {
            let places = (0..read).filter(|&at| buffer[at..read].starts_with(MARK.as_bytes()));
            for at in places.collect::<Vec<_>>() {
                buffer[at..at + MARK.len()].fill(0xFF);
            }
        }
        let allowed = state.budget.load(Ordering::SeqCst).min(read as u64);
        state.budget.fetch_sub(allowed, Ordering::SeqCst);
        if to.write_all(&buffer[..allowed as usize]).await.is_err() || allowed < read as u64 {
            return;
        }
    }
}

async fn downstream(mut from: impl AsyncRead + Unpin, state: &State) {
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if state.silent.load(Ordering::SeqCst) {
            continue;
        }
        state.received.lock().await.extend(&buffer[..read]);
        let mut client = state.to_client.lock().await;
        if client
            .as_mut()
            .unwrap()
            .write_all(&buffer[..read])
            .await
            .is_err()
        {
            return;
        }
    }
}
