use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How much a slow network delays each piece.
const DELAY: Duration = Duration::from_millis(30);

/// A TCP proxy whose connections can be cut, slowed down, and frozen.
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Good,
    /// Every piece is late.
    Slow,
    /// Nothing gets through, and nobody is told.
    Frozen,
}

impl Proxy {
    /// A proxy to `target`, on any free port of this machine.
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (network, cuts) = (watch::Sender::new(Network::Good), watch::Sender::new(0));
        let task = tokio::spawn(serve(
            listener,
            target,
            network.subscribe(),
            cuts.subscribe(),
        ));
        Self {
            address,
            network,
            cuts,
            task,
        }
    }

    /// A proxy to the server that `url` names; the answer has the proxy in its place.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        let (_, rest) = url.split_once("://").expect("a scheme");
        let authority = rest.split('/').next().unwrap_or_default();
        let server = authority.rsplit('@').next().unwrap_or_default();
        let proxy = Self::to(server.to_owned()).await;
        let url = url.replacen(server, &proxy.address.to_string(), 1);
        (proxy, url)
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Resets every connection.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    target: String,
    network: watch::Receiver<Network>,
    cuts: watch::Receiver<u64>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (target, network, mut cuts) = (target.clone(), network.clone(), cuts.clone());
        cuts.mark_unchanged();
        connections.spawn(async move {
            // As when the server is away.
            let Ok(server) = TcpStream::connect(target).await else {
                return;
            };
            let _ = carry(client, server, network, cuts).await;
        });
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    network: watch::Receiver<Network>,
    mut cuts: watch::Receiver<u64>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::select! {
        both = async {
            tokio::try_join!(
                pump(from_client, to_server, network.clone()),
                pump(from_server, to_client, network),
            )
        } => return both.map(drop),
        _ = cuts.changed() => {}
    }
    client.set_zero_linger()?;
    server.set_zero_linger()
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut network: watch::Receiver<Network>,
) -> io::Result<()> {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut piece).await?;
        let thawed = network
            .wait_for(|network| *network != Network::Frozen)
            .await;
        let slow = thawed.is_ok_and(|network| *network == Network::Slow);
        if slow {
            tokio::time::sleep(DELAY).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
    }
}
