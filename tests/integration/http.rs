//! The HTTP listener of a running operator.

use std::fs;
use std::process::Command;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Operator, SOON, eventually, stage};

/// So many file descriptors may the operator have from now on.
fn allow_files(operator: &Operator, number: usize) {
    let (pid, limit) = (operator.pid().to_string(), format!("--nofile={number}:"));
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(set.expect("prlimit runs").success());
}

async fn is_alive(operator: &Operator) {
    eventually("an answer of /livez", SOON, async || {
        operator.http("/livez").await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_connections_is_bounded_and_does_not_keep_probes_from_answers() {
    let (testbed, namespace, vhost, _) = stage().await;
    let operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    is_alive(&operator).await;
    let address = operator.address().expect("its address");
    let mut flood = Vec::new();
    for begun in 0..600 {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n")
            .await
            .expect("half a request");
        flood.push(stream);
        if begun % 50 == 0 {
            operator.http("/livez").await.expect("an answer");
        }
    }
    let files = fs::read_dir(format!("/proc/{}/fd", operator.pid())).expect("its files");
    let files = files.count();
    assert!(files < 400, "{files} file descriptors");
    operator.http("/readyz").await.expect("an answer");
}

#[tokio::test]
async fn without_file_descriptors_the_listener_waits_until_there_are_some() {
    let (testbed, namespace, vhost, _) = stage().await;
    let mut operator = Operator::start(testbed, &namespace, &vhost, &[]).await;
    is_alive(&operator).await;
    allow_files(&operator, 3);
    let address = operator.address().expect("its address");
    let _waiting = TcpStream::connect(address)
        .await
        .expect("the system takes it");
    operator.logs_have("cannot accept connections").await;
    allow_files(&operator, 1024);
    is_alive(&operator).await;
    assert!(operator.ended().is_none());
}
