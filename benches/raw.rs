//! A client that does nothing but put frames of AMQP 0-9-1 on a socket, encoded beforehand: what it reaches is the
//! broker's limit. It trusts the broker and panics at the first surprise.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use lapin::uri::AMQPUri;

/// The only channel.
const CHANNEL: u16 = 1;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// The class `basic`, to which content belongs.
const BASIC: u16 = 60;
const DELIVER: (u16, u16) = (BASIC, 60);
/// Content properties: a delivery mode and nothing else.
const ONLY_DELIVERY_MODE: u16 = 1 << 12;
const PERSISTENT: u8 = 2;
/// Octets written at one time: enough for the broker to be busy with, and less than the socket's buffer holds.
const CHUNK: usize = 256 * 1024;

/// A connection with one channel in transaction mode.
pub struct Raw {
    socket: TcpStream,
    answers: Receiver<Method>,
    /// They may come before an answer.
    deliveries: Receiver<Method>,
}

struct Method {
    class: u16,
    method: u16,
    arguments: Vec<u8>,
}

impl Raw {
    pub fn connect(url: &str) -> Self {
        let uri: AMQPUri = url.parse().expect("an AMQP URL");
        let socket = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port));
        let socket = socket.expect("a broker");
        socket.set_nodelay(true).expect("a socket");
        let reading = socket.try_clone().expect("a socket");
        let (answer, answers) = channel();
        let (deliver, deliveries) = channel();
        // Ends with the connection.
        thread::spawn(move || {
            let mut reading = BufReader::with_capacity(CHUNK, reading);
            while let Some(frame) = read(&mut reading) {
                let Some(method) = frame else { continue };
                let to = match (method.class, method.method) {
                    DELIVER => &deliver,
                    _ => &answer,
                };
                if to.send(method).is_err() {
                    return;
                }
            }
        });
        let mut this = Self {
            socket,
            answers,
            deliveries,
        };
        this.shake_hands(&uri);
        this
    }

    fn shake_hands(&mut self, uri: &AMQPUri) {
        self.send(b"AMQP\x00\x00\x09\x01");
        self.expect(10, 10);
        let login = &uri.authority.userinfo;
        let response = format!("\0{}\0{}", login.username, login.password);
        let start_ok = Arguments::default()
            .long(0)
            .short_text("PLAIN")
            .long_text(&response)
            .short_text("en_US");
        self.send(&method(0, 10, 11, start_ok));
        let tune = self.expect(10, 30).arguments;
        // Its limits as they are, no heartbeats.
        let (limits, _heartbeat) = tune.split_at(6);
        let mut tune_ok = Arguments(limits.to_vec());
        tune_ok = tune_ok.short(0);
        let open = Arguments::default()
            .short_text(&uri.vhost)
            .short_text("")
            .octet(0);
        self.send(&[method(0, 10, 31, tune_ok), method(0, 10, 40, open)].concat());
        self.expect(10, 41);
        self.call((20, 10), Arguments::default().short_text(""), (20, 11));
        self.call((90, 10), Arguments::default(), (90, 11));
    }

    pub fn declare(&mut self, queue: &str, maximum: Option<u32>) {
        let arguments = match maximum {
            Some(maximum) => {
                let table = Arguments::default().short_text("x-max-length");
                table.octet(b'I').long(maximum).0
            }
            None => Vec::new(),
        };
        let length = u32::try_from(arguments.len()).expect("a short table");
        const DURABLE: u8 = 2;
        let mut declare = Arguments::default()
            .short(0)
            .short_text(queue)
            .octet(DURABLE)
            .long(length);
        declare.0.extend(arguments);
        self.call((50, 10), declare, (50, 11));
    }

    /// Consumes a queue exclusively, `prefetch` messages at a time.
    pub fn consume(&mut self, queue: &str, prefetch: u16) {
        let qos = Arguments::default().long(0).short(prefetch).octet(0);
        self.call((60, 10), qos, (60, 11));
        const EXCLUSIVE: u8 = 4;
        let consume = Arguments::default().short(0).short_text(queue);
        let consume = consume.short_text("").octet(EXCLUSIVE).long(0);
        self.call((60, 20), consume, (60, 21));
    }

    /// Waits for a delivery, and answers its tag.
    pub fn delivery(&mut self) -> u64 {
        let arguments = self.deliveries.recv().expect("a delivery").arguments;
        let (&length, rest) = arguments.split_first().expect("a consumer tag");
        let tag = &rest[usize::from(length)..][..8];
        u64::from_be_bytes(tag.try_into().expect("eight octets"))
    }

    /// Sends what belongs to a transaction, and waits until it is committed.
    pub fn commit(&mut self, frames: &[u8]) {
        self.send(frames);
        self.call((90, 20), Arguments::default(), (90, 21));
    }

    /// Asks for a message, which the broker forgets with the answer.
    pub fn get(&mut self, queue: &str) {
        const NO_ACK: u8 = 1;
        let get = Arguments::default()
            .short(0)
            .short_text(queue)
            .octet(NO_ACK);
        self.call((BASIC, 70), get, (BASIC, 71));
    }

    fn call(&mut self, ask: (u16, u16), arguments: Arguments, answer: (u16, u16)) {
        self.send(&method(CHANNEL, ask.0, ask.1, arguments));
        self.expect(answer.0, answer.1);
    }

    /// Puts frames on the socket.
    pub fn send(&mut self, octets: &[u8]) {
        for chunk in octets.chunks(CHUNK) {
            self.socket.write_all(chunk).expect("the broker reads");
        }
    }

    fn expect(&mut self, class: u16, method: u16) -> Method {
        let answer = self.answers.recv().expect("the connection lasts");
        let got = (answer.class, answer.method);
        assert_eq!(got, (class, method), "{:?}", answer.arguments);
        answer
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The reading thread has the socket too.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Appends a persistent message through the default exchange.
pub fn publish(frames: &mut Vec<u8>, queue: &str, body: &[u8]) {
    let publish = Arguments::default().short(0).short_text("");
    let publish = publish.short_text(queue).octet(0);
    frames.extend(method(CHANNEL, BASIC, 40, publish));
    let header = Arguments::default().short(BASIC).short(0);
    let header = header
        .long_long(body.len() as u64)
        .short(ONLY_DELIVERY_MODE)
        .octet(PERSISTENT);
    frames.extend(frame(HEADER, CHANNEL, &header.0));
    if !body.is_empty() {
        frames.extend(frame(BODY, CHANNEL, body));
    }
}

/// Appends the acknowledgement of a delivery.
pub fn acknowledge(frames: &mut Vec<u8>, tag: u64) {
    let ack = Arguments::default().long_long(tag).octet(0);
    frames.extend(method(CHANNEL, BASIC, 80, ack));
}

fn method(channel: u16, class: u16, method: u16, arguments: Arguments) -> Vec<u8> {
    let mut payload = Arguments::default().short(class).short(method).0;
    payload.extend(arguments.0);
    frame(METHOD, channel, &payload)
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame");
    let mut frame = Arguments::default()
        .octet(kind)
        .short(channel)
        .long(length)
        .0;
    frame.extend_from_slice(payload);
    frame.push(FRAME_END);
    frame
}

/// Reads a frame: None at the end, `Some(None)` when it is no method.
fn read(from: &mut impl Read) -> Option<Option<Method>> {
    let mut head = [0; 7];
    from.read_exact(&mut head).ok()?;
    let [kind, _, _, length @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize + 1];
    from.read_exact(&mut payload).ok()?;
    if kind != METHOD {
        return Some(None);
    }
    let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    Some(Some(Method {
        class: number(0),
        method: number(2),
        arguments: payload[4..].to_vec(),
    }))
}

/// What AMQP's fields look like on the wire.
#[derive(Default)]
struct Arguments(Vec<u8>);

impl Arguments {
    fn octet(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long_long(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn short_text(mut self, value: &str) -> Self {
        self.0
            .push(u8::try_from(value.len()).expect("a short text"));
        self.0.extend(value.as_bytes());
        self
    }

    fn long_text(mut self, value: &str) -> Self {
        let length = u32::try_from(value.len()).expect("a text");
        self = self.long(length);
        self.0.extend(value.as_bytes());
        self
    }
}
