use std::net::SocketAddr;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;

const NEVER: Duration = Duration::from_secs(3600);
const BRIEFLY: Duration = Duration::from_millis(50);
const REQUEST: &str = "GET /livez HTTP/1.1\r\nhost: it\r\n\r\n";

fn patient() -> Limits {
    Limits {
        connections: 8,
        head: NEVER,
        connection: NEVER,
    }
}

/// Serves for as long as the test lasts.
async fn start(router: Router, limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, limits));
    address
}

fn livez() -> Router {
    Router::new().route("/livez", get(|| async { "ok" }))
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server closes the connection. It may do so with data of ours unread.
async fn rest(mut stream: TcpStream) -> String {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_connection_has_one_request() {
    let address = start(livez(), patient()).await;
    let answer = rest(send(address, REQUEST).await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let limits = Limits {
        head: BRIEFLY,
        ..patient()
    };
    let address = start(livez(), limits).await;
    for begun in ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nhost: "] {
        let answer = rest(send(address, begun).await).await;
        assert!(!answer.contains("200 OK"), "{begun:?}: {answer}");
    }
}

#[tokio::test]
async fn a_head_that_comes_octet_by_octet_is_cut_off() {
    let limits = Limits {
        head: BRIEFLY,
        ..patient()
    };
    let address = start(livez(), limits).await;
    let mut stream = send(address, "GET /livez HTTP/1.1\r\nx: ").await;
    // It always has something to say. Were that enough, this would never end.
    while stream.write_all(b"x").await.is_ok() {
        sleep(BRIEFLY / 10).await;
    }
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let address = start(livez(), patient()).await;
    let head = format!(
        "GET /livez HTTP/1.1\r\nx: {}\r\n\r\n",
        "x".repeat(HEAD_BYTES)
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = rest(stream).await;
    let refused = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    assert!(
        answer.is_empty() || answer.contains(refused.as_str()),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_is_not_read() {
    let address = start(livez(), patient()).await;
    let text = "GET /livez HTTP/1.1\r\nhost: it\r\ncontent-length: 99999999999\r\n\r\nbegun";
    let answer = rest(send(address, text).await).await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn probes_are_answered_however_many_connections_are_open() {
    let address = start(livez(), patient()).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(send(address, "GET /livez HT").await);
        let answer = rest(send(address, REQUEST).await).await;
        assert!(answer.ends_with("ok"), "{answer}");
    }
    // The oldest ones had to go, and no more than that.
    let newest = held.pop().unwrap();
    assert_eq!(rest(held.remove(0)).await, "");
    let mut newest = newest;
    newest.write_all(b"TP/1.1\r\n\r\n").await.unwrap();
    assert!(rest(newest).await.ends_with("ok"));
}

/// Says when nobody needs it any more.
struct Large(Vec<u8>, mpsc::UnboundedSender<()>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let _ = self.1.send(());
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_let_go() {
    let (gone, mut told) = mpsc::unbounded_channel();
    let large = move || async move { Bytes::from_owner(Large(vec![0; 64 << 20], gone)) };
    let limits = Limits {
        connection: BRIEFLY,
        ..patient()
    };
    let address = start(Router::new().route("/", get(large)), limits).await;
    let unread = send(address, "GET / HTTP/1.1\r\nhost: it\r\n\r\n").await;
    told.recv().await.unwrap();
    drop(unread);
}
