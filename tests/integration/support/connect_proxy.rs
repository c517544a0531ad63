use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// An HTTP proxy that answers CONNECT (RFC 9110), as companies have one between their networks. It knows one way: whoever
/// asks for `name` gets to `server`.
pub struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl ConnectProxy {
    /// On any free port of this machine.
    pub async fn to(name: &str, server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let task = tokio::spawn(serve(
            listener,
            name.to_owned(),
            server.to_owned(),
            asked.clone(),
        ));
        Self {
            address,
            asked,
            task,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of the requests until now.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    name: String,
    server: String,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (name, server, asked) = (name.clone(), server.clone(), asked.clone());
        connections.spawn(async move {
            // Who hangs up asks again.
            let _ = carry(client, &name, &server, &asked).await;
        });
    }
}

async fn carry(
    client: TcpStream,
    name: &str,
    server: &str,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && (&mut client).take(8_192).read_line(&mut head).await? > 0 {
    }
    let is_known = head.starts_with(&format!("CONNECT {name} HTTP/1.1\r\n"));
    asked.lock().expect("no panic").push(head);
    if !is_known {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
    }
    let mut server = TcpStream::connect(server).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
