use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const METHOD: u8 = 1;
const END: u8 = 0xCE;

/// A server on loopback that does to each connection what a test says. It has threads of its own, so that a flood costs the
/// test nothing but processor time. They end with their connections.
pub struct Server {
    pub address: SocketAddr,
    accepted: Arc<Mutex<Vec<Instant>>>,
}

impl Server {
    /// `serve` gets the connection and how many there were before.
    pub fn start(
        serve: impl Fn(TcpStream, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let (serve, times) = (Arc::new(serve), accepted.clone());
        thread::spawn(move || {
            for socket in listener.incoming() {
                let number = {
                    let mut times = times.lock().expect("nobody has failed with it");
                    times.push(Instant::now());
                    times.len() - 1
                };
                let (serve, socket) = (serve.clone(), socket.expect("a connection"));
                // The operator hangs up as it likes.
                thread::spawn(move || serve(socket, number));
            }
        });
        Self { address, accepted }
    }

    /// Passes on to the broker that `uri` names; `tamper` gets each frame and answers what becomes of it.
    pub fn in_front_of(
        uri: &str,
        tamper: impl Fn(To, usize, Frame) -> Option<Frame> + Send + Sync + 'static,
    ) -> Self {
        let (_, rest) = uri.rsplit_once('@').expect("a user");
        let (broker, _) = rest.split_once('/').expect("a virtual host");
        let (broker, tamper) = (broker.to_owned(), Arc::new(tamper));
        Self::start(move |mut client, number| {
            let mut server = TcpStream::connect(&broker)?;
            let mut header = [0; 8];
            client.read_exact(&mut header)?;
            server.write_all(&header)?;
            let (from, to, upwards) = (client.try_clone()?, server.try_clone()?, tamper.clone());
            thread::spawn(move || pass(from, to, |frame| upwards(To::Broker, number, frame)));
            pass(server, client, |frame| tamper(To::Client, number, frame))
        })
    }

    /// When the connections came.
    pub fn accepted(&self) -> Vec<Instant> {
        self.accepted
            .lock()
            .expect("nobody has failed with it")
            .clone()
    }
}

/// Who gets a frame.
#[derive(Clone, Copy, PartialEq)]
pub enum To {
    Client,
    Broker,
}

pub struct Frame {
    pub kind: u8,
    pub channel: u16,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, channel: u16, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        Self {
            kind,
            channel,
            payload,
        }
    }

    pub fn method(channel: u16, [class, method]: [u8; 2], arguments: &[u8]) -> Self {
        Self::new(
            METHOD,
            channel,
            [&[0, class, 0, method], arguments].concat(),
        )
    }

    pub fn is(&self, [class, method]: [u8; 2]) -> bool {
        self.kind == METHOD && self.payload.starts_with(&[0, class, 0, method])
    }

    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 7];
        from.read_exact(&mut head)?;
        let [kind, high, low, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        let mut payload = vec![0; length + 1];
        from.read_exact(&mut payload)?;
        payload.truncate(length);
        Ok(Self::new(kind, u16::from_be_bytes([high, low]), payload))
    }

    pub fn octets(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a frame");
        let head = [
            &[self.kind][..],
            &self.channel.to_be_bytes(),
            &length.to_be_bytes(),
        ];
        [&head.concat()[..], &self.payload, &[END]].concat()
    }

    /// The text `from` becomes `to`, of the same length.
    pub fn replace(&mut self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        let at = self.payload.windows(from.len());
        let places: Vec<_> = at
            .enumerate()
            .filter(|(_, it)| *it == from.as_bytes())
            .collect();
        let places: Vec<_> = places.into_iter().map(|(at, _)| at).collect();
        for at in places {
            self.payload[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    tamper: impl Fn(Frame) -> Option<Frame>,
) -> io::Result<()> {
    let passed = loop {
        match Frame::read(&mut from) {
            Ok(frame) => {
                if let Some(frame) = tamper(frame)
                    && let Err(error) = to.write_all(&frame.octets())
                {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    // The other direction ends too.
    for socket in [from, to] {
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
    passed
}

/// `connection.start` of a server that says what it is called.
pub fn start(cluster: &str) -> Frame {
    let text = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let mut table = Vec::new();
    for (name, value) in [
        ("product", "RabbitMQ"),
        ("version", "3.10.8"),
        ("cluster_name", cluster),
    ] {
        table.push(name.len() as u8);
        table.extend([name.as_bytes(), b"S", &text(value)].concat());
    }
    let table = [&(table.len() as u32).to_be_bytes()[..], &table].concat();
    let arguments = [&[0, 9][..], &table, &text("PLAIN"), &text("en_US")].concat();
    Frame::method(0, [10, 10], &arguments)
}

/// Lets whoever comes in, with so many channels.
pub fn let_in(socket: &mut TcpStream, channels: u16) -> io::Result<()> {
    socket.read_exact(&mut [0; 8])?;
    socket.write_all(&start("rabbit@hostile").octets())?;
    Frame::read(socket)?;
    let tune = [
        &channels.to_be_bytes()[..],
        &131_072_u32.to_be_bytes(),
        &[0, 2],
    ]
    .concat();
    socket.write_all(&Frame::method(0, [10, 30], &tune).octets())?;
    // What is agreed upon, and the virtual host.
    Frame::read(socket)?;
    Frame::read(socket)?;
    socket.write_all(&Frame::method(0, [10, 41], &[0]).octets())
}

/// Opens the channels that it is asked for, and answers nothing else.
pub fn answer_nothing(mut socket: TcpStream) -> io::Result<()> {
    loop {
        let frame = Frame::read(&mut socket)?;
        if frame.is([20, 10]) {
            let opened = Frame::method(frame.channel, [20, 11], &[0; 4]);
            socket.write_all(&opened.octets())?;
        }
    }
}

/// Sends a heartbeat each second.
pub fn beat(mut socket: TcpStream) -> io::Result<()> {
    loop {
        socket.write_all(&Frame::new(8, 0, []).octets())?;
        thread::sleep(Duration::from_secs(1));
    }
}

/// When the first channel is open, sends these octets again and again, as fast as they are taken.
pub fn flood(mut socket: TcpStream, octets: &[u8], reads: bool) -> io::Result<()> {
    let opening = Frame::read(&mut socket)?;
    let opened = Frame::method(opening.channel, [20, 11], &[0; 4]);
    socket.write_all(&opened.octets())?;
    if reads {
        let other = socket.try_clone()?;
        thread::spawn(move || answer_nothing(other));
    }
    loop {
        socket.write_all(octets)?;
    }
}
