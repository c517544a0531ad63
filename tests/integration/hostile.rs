//! Whoever may write Secrets in one namespace decides which servers the operator connects to: nothing that these do is felt
//! by a bucket in another namespace, and little by the process.

mod server;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use lapin::BasicProperties;
use serde_json::{Value, json};
use token_bucket_operator::api::TokenBucketStatus;

use crate::support::{
    Account, Accountant, Buckets, Namespace, Operator, Pace, SOON, Testbed, Vhost, condition,
    eventually, reason, testbed,
};
use server::{Frame, Server, To, answer_nothing, beat, flood, let_in, start};

/// The namespace of somebody who means harm.
struct Tenant {
    testbed: &'static Testbed,
    namespace: Namespace<'static>,
    buckets: Buckets,
}

impl Tenant {
    async fn new(testbed: &'static Testbed) -> Self {
        let namespace = testbed.namespace().await;
        let buckets = Buckets::of(testbed, &namespace).await;
        Self {
            testbed,
            namespace,
            buckets,
        }
    }

    /// A bucket at a broker of its own, which a Secret of the same name tells.
    async fn bucket(&self, name: &str, uri: &str, extra: Value) {
        let secrets: Api<Secret> =
            Api::namespaced(self.testbed.client().await, self.namespace.name());
        let secret = json!({"metadata": {"name": name}, "stringData": {"uri": uri}});
        let secret = serde_json::from_value(secret).expect("a Secret");
        let created = secrets.create(&PostParams::default(), &secret).await;
        created.expect("the Secret is accepted");
        let mut spec = json!({
            "schedule": "* * * * * *", "amount": 1, "maximum": 1_000, "deletionPolicy": "Retain",
            "connection": {"secretRef": {"name": name}},
        });
        let fields = spec.as_object_mut().expect("an object");
        fields.extend(extra.as_object().cloned().unwrap_or_default());
        self.buckets.create(name, spec).await;
    }

    async fn at(&self, name: &str, server: &Server) {
        let uri = format!("amqp://user:s3cret@{}/?heartbeat=2", server.address);
        self.bucket(name, &uri, json!({})).await;
    }

    /// Waits until its status says one of these, or until the log has said so of the server: between two tries to connect
    /// the status says that the operator is at work.
    async fn is_told(&self, operator: &Operator, name: &str, server: &Server, any: Told) {
        let what = format!("the status of {name} to say one of {any:?}");
        let address = server.address.to_string();
        eventually(&what, SOON, async || {
            let status = self.buckets.status(name).await;
            let status = serde_json::to_string(&status).expect("a status");
            let logs = operator.logs();
            let mut lines = logs.lines().filter(|line| line.contains(&address));
            let says = |text: &str| any.iter().any(|words| text.contains(words));
            match says(&status) || lines.any(says) {
                true => Ok(()),
                false => Err(status),
            }
        })
        .await;
    }
}

/// A URI with the same user and virtual host that leads to a server of ours.
fn by_way_of(server: &Server, uri: &str) -> String {
    let (user, rest) = uri.rsplit_once('@').expect("a user");
    let (_, vhost) = rest.split_once('/').expect("a virtual host");
    format!("{user}@{}/{vhost}?heartbeat=2", server.address)
}

/// What the status may say of a server, any of these.
type Told = &'static [&'static str];

/// Servers that answer slowly, never, or without end.
fn servers() -> BTreeMap<&'static str, (Server, Told)> {
    let lost: Told = &[
        "is lost",
        "did not answer in time",
        "no connection to",
        "used up",
    ];
    let mut servers = BTreeMap::new();
    let mut add = |name, server, told: Told| servers.insert(name, (server, told));
    let slowly = |mut socket: std::net::TcpStream, octets: &[u8]| {
        for octet in octets {
            socket.write_all(&[*octet])?;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    };
    let greeting = start("rabbit@hostile").octets();
    let trickle = Server::start(move |socket, _| slowly(socket, &greeting));
    add("greets-slowly", trickle, &["no answer within 10 s"]);
    let trickle = Server::start(move |mut socket, _| {
        let_in(&mut socket, 0)?;
        slowly(socket, &Frame::new(3, 1, [0; 1_000]).octets())
    });
    add("answers-slowly", trickle, lost);
    let mute = Server::start(|mut socket, _| {
        let_in(&mut socket, 0)?;
        answer_nothing(socket)
    });
    add("answers-nothing", mute, lost);
    let blocked = Server::start(|mut socket, _| {
        let_in(&mut socket, 0)?;
        socket.write_all(&Frame::method(0, [10, 60], b"\x06memory").octets())?;
        beat(socket)
    });
    add("is-blocked", blocked, &["short of memory"]);
    let closing = Server::start(|_, _| Ok(()));
    add("hangs-up", closing, &["no connection to"]);
    let closing = Server::start(|mut socket, _| let_in(&mut socket, 0));
    add("hangs-up-late", closing, lost);

    let refusing = Server::start(|mut socket, _| {
        let_in(&mut socket, 0)?;
        loop {
            let frame = Frame::read(&mut socket)?;
            if frame.is([20, 10]) {
                let opened = Frame::method(frame.channel, [20, 11], &[0; 4]);
                socket.write_all(&opened.octets())?;
            } else if frame.channel > 0 && !frame.is([20, 41]) {
                // NOT_FOUND, without a text and a method.
                let refused = Frame::method(frame.channel, [20, 40], &[1, 0x94, 0, 0, 0, 0, 0]);
                socket.write_all(&refused.octets())?;
            }
        }
    });
    add("closes-channels", refusing, lost);

    let flapping = [
        Frame::method(0, [10, 60], b"\x06memory"),
        Frame::method(0, [10, 61], b""),
    ];
    let delivered = |channel| {
        let arguments = b"\x01t\0\0\0\0\0\0\0\x01\0\0\x01q";
        Frame::method(channel, [60, 60], arguments)
    };
    let header = |channel, size: u64| {
        let payload = [&[0, 60, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat();
        Frame::new(2, channel, payload)
    };
    let body = || Frame::new(3, 1, [b'x'; 8_000]);
    let announced = (1..2_000).flat_map(|channel| [delivered(channel), header(channel, 60_000)]);
    let mut endless = vec![delivered(1), header(1, 500_000_000)];
    endless.resize_with(250, body);
    let returned = Frame::method(1, [60, 50], b"\x01\x38\0\0\x01q");
    let flow = Frame::method(1, [20, 20], &[1]);
    for (name, reads, frames) in [
        ("flaps", true, flapping.into()),
        ("sends-heartbeats", true, vec![Frame::new(8, 0, [])]),
        (
            "sends-to-other-channels",
            true,
            vec![Frame::method(9_999, [60, 80], &[0; 9])],
        ),
        ("delivers-without-end", true, endless),
        ("announces-bodies", true, announced.collect()),
        (
            "returns-messages",
            true,
            vec![returned, header(1, 16_000), body(), body()],
        ),
        ("asks-and-does-not-read", false, vec![flow]),
    ] {
        let octets: Vec<_> = frames.iter().flat_map(Frame::octets).collect();
        let octets = octets.repeat(1 + 30_000 / octets.len());
        let server = Server::start(move |mut socket, _| {
            let_in(&mut socket, 0)?;
            flood(socket, &octets, reads)
        });
        add(name, server, lost);
    }
    servers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_servers_are_not_felt_by_others() {
    let testbed = testbed().await;
    let (namespace, vhost) = (testbed.namespace().await, testbed.vhost().await);
    let theirs: Vec<Vhost<'_>> = futures::future::join_all((0..6).map(|_| testbed.vhost())).await;
    let tenant = Tenant::new(testbed).await;
    let extra = [
        "--namespace",
        tenant.namespace.name(),
        "--status-interval=200ms",
    ];
    let mut operator = Operator::start(testbed, &namespace, &vhost, &extra).await;

    // It says to be the victim's broker, and has a bucket of the same name that is older.
    let own = theirs[0].amqp_url();
    let [mine, yours] = [&own, &vhost.amqp_url()].map(|uri| {
        let (_, name) = uri.rsplit_once('/').expect("a virtual host");
        name.to_owned()
    });
    let impostor = Server::in_front_of(&own, {
        let mine = mine.clone();
        move |to, _, frame| match to == To::Broker && frame.is([10, 40]) {
            true => {
                let mine = mine.replace("%2F", "/");
                let vhost = [&[mine.len() as u8][..], mine.as_bytes(), &[0, 0]].concat();
                Some(Frame::method(0, [10, 40], &vhost))
            }
            false => Some(frame),
        }
    });
    let uri = by_way_of(&impostor, &own).replace(&format!("/{mine}?"), &format!("/{yours}?"));
    tenant.bucket("victim", &uri, json!({})).await;

    let buckets = Buckets::of(testbed, &namespace).await;
    let limits = [3, 1_000_000];
    let account = Account::open(&buckets, "victim", Pace(1), limits, true, json!({})).await;
    let account = Arc::new(account);
    buckets.ready("victim").await;
    let accountant = Accountant::start(&vhost, std::slice::from_ref(&account)).await;
    let [quiet, _] = operator.memory();

    let mut servers = servers();
    for (name, (server, _)) in &servers {
        tenant.at(name, server).await;
    }
    // Brokers that are real, but for one thing.
    let (gets, commits) = ([[60, 71], [60, 72]], [[90, 21], [90, 21]]);
    for (name, vhost, dropped) in [
        ("keeps-ledgers", &theirs[1], gets),
        ("commits-nothing", &theirs[2], commits),
    ] {
        let without = Mutex::new(HashSet::new());
        let server = Server::in_front_of(&vhost.amqp_url(), move |to, number, frame| {
            let mut without = without.lock().expect("nobody has failed with it");
            let channel = (number, frame.channel);
            if to == To::Broker {
                return Some(frame);
            } else if dropped.iter().any(|&method| frame.is(method)) {
                without.insert(channel);
            } else if frame.kind == 1 {
                without.remove(&channel);
            }
            // With its content.
            (!without.contains(&channel)).then_some(frame)
        });
        let uri = by_way_of(&server, &vhost.amqp_url());
        tenant.bucket(name, &uri, json!({})).await;
        servers.insert(name, (server, &["did not answer in time"]));
    }
    let narrow = Server::in_front_of(&theirs[5].amqp_url(), |to, _, mut frame| {
        if to == To::Client && frame.is([10, 30]) {
            // Channels.
            frame.payload[4..6].copy_from_slice(&[0, 2]);
        }
        Some(frame)
    });
    let uri = by_way_of(&narrow, &theirs[5].amqp_url());
    tenant.bucket("has-two-channels", &uri, json!({})).await;
    servers.insert("has-two-channels", (narrow, &["channel_max"]));
    let chameleon = Server::in_front_of(&theirs[3].amqp_url(), |to, number, mut frame| {
        if to == To::Client && frame.is([10, 10]) {
            let version = ["3.8.30", "3.9.99", "2.99.9", "\u{1b}\n\n\n.9"][number % 4];
            frame.replace("3.10.8", version);
            frame.replace("cluster_name", ["cluster_name", "cluster_n4me"][number % 2]);
            frame.replace(
                "rabbit",
                ["robbit", "\u{1b}\n\u{1b}\n\u{1b}\n", "rubbit"][number % 3],
            );
        }
        // That is the end of the connection.
        if frame.is([90, 21]) {
            frame.kind = 0;
        }
        Some(frame)
    });
    let uri = by_way_of(&chameleon, &theirs[3].amqp_url());
    tenant.bucket("chameleon", &uri, json!({})).await;
    servers.insert("chameleon", (chameleon, &["does not speak AMQP"]));

    let ledgers = &theirs[4];
    for (name, ledger) in hostile_ledgers() {
        tenant
            .bucket(name, &ledgers.amqp_url(), json!({"suspend": true}))
            .await;
        tenant.buckets.ready(name).await;
        let queue = format!("token_bucket_{}.ledger", name.replace('-', "_"));
        let properties = BasicProperties::default().with_delivery_mode(2);
        // Its queue has room for one message: this one takes the place of the other.
        ledgers.publish(&queue, &ledger, properties).await;
        tenant.buckets.edit(name, json!({"suspend": false})).await;
    }
    for (name, _) in hostile_ledgers() {
        let refused = |status: &TokenBucketStatus| {
            ["UnreadableLedger", "NameConflict"].contains(&reason(status, "Stalled"))
        };
        tenant
            .buckets
            .until(name, "its ledger to be refused", refused)
            .await;
    }
    for (name, (server, told)) in &servers {
        tenant.is_told(&operator, name, server, told).await;
    }
    for name in ["hangs-up", "hangs-up-late", "chameleon"] {
        backs_off(&servers[name].0);
    }

    let status = buckets.ready("victim").await;
    assert_eq!(condition(&status, "Stalled"), "False");
    accountant.stop().await;
    account.check(&buckets, &vhost).await;
    assert!(operator.ended().is_none());
    let logs = operator.logs();
    let lost = format!("/{} ", yours.replace("%2F", "/"));
    let lost = logs
        .lines()
        .filter(|line| line.contains("not connected") && line.contains(&lost));
    for line in lost {
        assert!(line.contains(&impostor.address.to_string()), "{line}");
    }
    assert!(!logs.contains("s3cret"));
    let [now, most] = operator.memory();
    println!(
        "{quiet} MiB before, {now} MiB with {} hostile brokers, {most} MiB at most; a log of {} KiB",
        servers.len() + 2,
        logs.len() / 1024
    );
    assert!(most < 128, "{most} MiB");
}

fn hostile_ledgers() -> Vec<(&'static str, Vec<u8>)> {
    let ledger = |changes: Value| {
        let mut ledger = json!({
            "version": 2, "since": "2026-01-01T00:00:00Z", "schedule": "x", "owed": 0, "issued": 0,
            "owner": {"operator": "o", "resource": "other/one", "uid": "0", "created": "1970-01-01T00:00:00Z"},
        });
        let fields = ledger.as_object_mut().expect("an object");
        fields.extend(changes.as_object().cloned().unwrap_or_default());
        ledger.to_string().into_bytes()
    };
    vec![
        (
            "of-another-one",
            ledger(json!({"owed": u64::MAX, "issued": u64::MAX})),
        ),
        (
            "ticks-far-ahead",
            ledger(json!({"tick": "9999-12-31T23:59:59Z"})),
        ),
        (
            "dates-out-of-range",
            ledger(json!({"since": "0000-01-01T00:00:00+23:59"})),
        ),
        (
            "of-ten-megabytes",
            ledger(json!({"schedule": "x".repeat(10_000_000)})),
        ),
        ("of-many-brackets", "[".repeat(60_000).into_bytes()),
    ]
}

/// Each connection came after a pause, which doubles from a tenth of a second. Load makes pauses longer only: a server notes
/// the time before the operator can notice anything.
fn backs_off(server: &Server) {
    let accepted = server.accepted();
    assert!(accepted.len() > 3, "{accepted:?}");
    for (number, pair) in accepted.windows(2).enumerate() {
        let least = Duration::from_millis(100) * (1 << number.min(6));
        assert!(pair[1] - pair[0] >= least, "{number}: {accepted:?}");
    }
}
