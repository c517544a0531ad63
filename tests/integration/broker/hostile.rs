//! Servers that mean harm: whoever may write a Secret decides which server the operator connects to.

use std::sync::Arc;

use token_bucket_operator::amqp::{Broker, Endpoint};
use token_bucket_operator::api::QueueType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::REFILL;
use super::link::Link;
use crate::support::testbed;

/// What the operator says of a server that greets with these octets, before anybody has proved who they are.
async fn greeted_with(octets: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("amqp://{}/", listener.local_addr().unwrap());
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut header = [0; 8];
        socket.read_exact(&mut header).await.unwrap();
        // It may hang up in the middle.
        let _ = socket.write_all(octets).await;
        if octets.is_empty() {
            return;
        }
        let _ = socket.read_to_end(&mut Vec::new()).await;
    };
    let endpoint = Endpoint::parse(&uri).unwrap();
    let (error, ()) = tokio::join!(Broker::connect(&endpoint, "test"), server);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), "BrokerUnreachable");
    error.to_string()
}

/// A `connection.start` whose properties have lists within each other.
fn nested_start(depth: u32) -> Vec<u8> {
    let mut table = b"\x01n".to_vec();
    for level in (0..depth).rev() {
        table.push(b'A');
        table.extend((5 * level).to_be_bytes());
    }
    let length = u32::try_from(table.len()).unwrap();
    let mut payload = [&[0, 10, 0, 10, 0, 9][..], &length.to_be_bytes(), &table].concat();
    for text in [&b"PLAIN"[..], b"en_US"] {
        payload.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        payload.extend(text);
    }
    let length = u32::try_from(payload.len()).unwrap();
    [&[1, 0, 0][..], &length.to_be_bytes(), &payload, &[0xce]].concat()
}

#[tokio::test]
async fn a_server_that_nests_its_properties_deeply_is_refused() {
    let error = greeted_with(&nested_start(20_000)).await;
    assert!(error.contains("nested too deeply"), "{error}");
    // More than a greeting may have.
    let error = greeted_with(&nested_start(50_000)).await;
    assert!(error.contains("a frame of 25"), "{error}");
}

#[tokio::test]
async fn what_is_no_amqp_server_is_told_as_such() {
    for (answer, said) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "speaks HTTP"),
        // What TLS says to whom it does not understand, as RabbitMQ 3.10 sends it.
        (b"\x15\x03\x03\x00\x02\x02\x0a", "write amqps://"),
        (b"AMQP\x03\x01\x00\x00", "speaks AMQP 1.0"),
        (b"AMQP\x00\x01\x00\x00", "speaks AMQP 1.0"),
        (
            b"220 mail.example.com ESMTP\r\n",
            "does not speak AMQP 0-9-1",
        ),
        (b"", "without a word"),
    ] {
        let error = greeted_with(answer).await;
        assert!(error.contains(said), "{error}");
        assert!(error.contains("usually 5672, by TLS 5671"), "{error}");
    }
    let error = greeted_with(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff]).await;
    assert!(error.contains("a frame of 4294967303 octets"), "{error}");
}

#[tokio::test]
async fn a_server_that_delivers_more_than_was_agreed_upon_is_left() {
    let vhost = testbed().await.vhost().await;
    let link = Link::to(&vhost.amqp_url()).await;
    let endpoint = Endpoint::parse(&link.uri).unwrap();
    let broker = Arc::new(Broker::connect(&endpoint, "test").await.unwrap());
    let mut consumer = broker
        .consume(REFILL, QueueType::Classic, 10)
        .await
        .unwrap();
    let taking = async {
        let mut taken = 0;
        loop {
            match consumer.next(100).await {
                Ok(deliveries) => taken += deliveries.len(),
                Err(error) => return (taken, error),
            }
        }
    };
    let (flood, (taken, error)) = tokio::join!(link.flood(1_000_000), taking);
    assert!(taken <= 10, "{taken}");
    assert!(flood < 1_000_000);
    assert!(
        error.to_string().contains("more than was agreed upon"),
        "{error}"
    );
    assert_eq!(broker.lost().await, error);
}
