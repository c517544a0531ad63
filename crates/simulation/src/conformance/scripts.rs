//! The scripts.

use super::{Op, Script, Seen};
use crate::broker::Arguments;

fn returned(texts: &[&str]) -> Seen {
    Seen::Returned(texts.iter().map(|text| (*text).into()).collect())
}

fn message(text: &str) -> Seen {
    Seen::Message(text.into())
}

/// Two connections, `a` and `b`, with a plain and a transactional channel each, and a queue `q`.
fn script(
    name: &'static str,
    arguments: Arguments,
    steps: impl IntoIterator<Item = (Op, Seen)>,
) -> Script {
    let opening = [
        (Op::Connect("a"), Seen::Done),
        (Op::Connect("b"), Seen::Done),
        (Op::Open("a1", "a"), Seen::Done),
        (Op::OpenTx("at", "a"), Seen::Done),
        (Op::Open("b1", "b"), Seen::Done),
        (Op::OpenTx("bt", "b"), Seen::Done),
        (Op::Declare("b1", "q", arguments), Seen::Number(0)),
    ];
    Script {
        name,
        steps: opening.into_iter().chain(steps).collect(),
        delivery_limit: false,
    }
}

/// All scripts, for queues of one type.
#[must_use]
pub fn scripts(quorum: bool) -> Vec<Script> {
    use Seen::{Done, Nothing, Number, Refused};
    let plain = Arguments {
        quorum,
        max_length: None,
    };
    let limit = |limit| Arguments {
        quorum,
        max_length: Some(limit),
    };
    let put = |text| (Op::Publish("b1", "q", text), Done);
    let mut scripts = vec![
        script(
            "what a channel holds goes back to its place when the channel is closed",
            plain,
            [
                put("1"),
                put("2"),
                put("3"),
                (Op::Count("b1", "q"), Number(3)),
                (Op::Get("a1", "q"), message("1")),
                (Op::Get("a1", "q"), message("2")),
                (Op::Count("b1", "q"), Number(1)),
                (Op::Close("a1"), Done),
                (Op::Count("b1", "q"), Number(3)),
                (Op::Get("b1", "q"), message("1")),
                (Op::Get("b1", "q"), message("2")),
                (Op::Get("b1", "q"), message("3")),
                (Op::Get("b1", "q"), Nothing),
            ],
        ),
        script(
            "what a connection holds goes back when it ends",
            plain,
            [
                put("1"),
                put("2"),
                (Op::Get("at", "q"), message("1")),
                (Op::Disconnect("a"), Done),
                (Op::Count("b1", "q"), Number(2)),
                (Op::Get("b1", "q"), message("1")),
            ],
        ),
        script(
            "a full queue drops its oldest message, and those that are held do not count",
            limit(1),
            [
                put("1"),
                (Op::Count("b1", "q"), Number(1)),
                (Op::Get("a1", "q"), message("1")),
                put("2"),
                (Op::Count("b1", "q"), Number(1)),
                (Op::Close("a1"), Done),
                (Op::Get("b1", "q"), message("2")),
                (Op::Get("b1", "q"), Nothing),
            ],
        ),
        script(
            "a new ledger and the acknowledgement of the old one come into force together",
            limit(1),
            [
                put("old"),
                (Op::Get("at", "q"), message("old")),
                (Op::Publish("at", "q", "new"), Done),
                (Op::Ack("at", "old"), Done),
                (Op::Get("b1", "q"), Nothing),
                (Op::Commit("at"), returned(&[])),
                (Op::Get("b1", "q"), message("new")),
                (Op::Get("b1", "q"), Nothing),
            ],
        ),
        script(
            "what was not committed never was, and the old ledger comes back",
            limit(1),
            [
                put("old"),
                (Op::Get("at", "q"), message("old")),
                (Op::Publish("at", "q", "new"), Done),
                (Op::Ack("at", "old"), Done),
                (Op::Disconnect("a"), Done),
                (Op::Get("b1", "q"), message("old")),
                (Op::Get("b1", "q"), Nothing),
            ],
        ),
        script(
            "a message is given back at the commit",
            limit(1),
            [
                put("1"),
                (Op::Get("at", "q"), message("1")),
                (Op::Nack("at", "1"), Done),
                (Op::Get("b1", "q"), Nothing),
                (Op::Commit("at"), returned(&[])),
                (Op::Get("b1", "q"), message("1")),
            ],
        ),
        script(
            "a mandatory message to a missing queue comes back, and the rest is committed",
            plain,
            [
                put("1"),
                (Op::Get("at", "q"), message("1")),
                (Op::Publish("at", "q", "2"), Done),
                (Op::PublishMandatory("at", "missing", "3"), Done),
                (Op::Publish("at", "missing", "4"), Done),
                (Op::Ack("at", "1"), Done),
                (Op::Commit("at"), returned(&["3"])),
                (Op::Get("b1", "q"), message("2")),
                (Op::Get("b1", "q"), Nothing),
            ],
        ),
        script(
            "to count a missing queue closes the channel, and gives back what it holds",
            plain,
            [
                put("1"),
                (Op::Get("at", "q"), message("1")),
                (Op::Publish("at", "q", "2"), Done),
                (Op::Ack("at", "1"), Done),
                (Op::Count("at", "missing"), Refused(404)),
                (Op::Get("b1", "q"), message("1")),
                (Op::Get("b1", "q"), Nothing),
            ],
        ),
        script(
            "to get from a missing queue closes the channel",
            plain,
            [(Op::Get("a1", "missing"), Refused(404))],
        ),
        script(
            "a queue is not declared with another limit",
            limit(1),
            [
                (Op::Declare("b1", "q", limit(1)), Number(0)),
                (Op::Declare("a1", "q", limit(2)), Refused(406)),
                (Op::Declare("b1", "q", plain), Refused(406)),
            ],
        ),
        script(
            "an exclusive queue is a lock of its connection",
            plain,
            [
                (Op::Lock("a1", "lock"), Number(0)),
                (Op::Lock("at", "lock"), Number(0)),
                (Op::Lock("b1", "lock"), Refused(405)),
                (Op::Delete("a1", "lock"), Number(0)),
                (Op::Lock("bt", "lock"), Number(0)),
                (Op::Disconnect("b"), Done),
                (Op::Lock("a1", "lock"), Number(0)),
            ],
        ),
        script(
            "who consumes a queue is handed what others give back, before anybody can get it",
            limit(1),
            [
                put("1"),
                (Op::Get("at", "q"), message("1")),
                (Op::Consume("b1", "q"), Done),
                (Op::Nack("at", "1"), Done),
                (Op::Commit("at"), returned(&[])),
                (Op::Get("at", "q"), Nothing),
                (Op::Deliver("b1", "q"), message("1")),
                (Op::Close("b1"), Done),
                (Op::Get("at", "q"), message("1")),
            ],
        ),
        script(
            "a purge leaves alone what is held",
            plain,
            [
                put("1"),
                put("2"),
                (Op::Get("a1", "q"), message("1")),
                (Op::Count("b1", "q"), Number(1)),
                (Op::Purge("b1", "q"), Number(1)),
                (Op::Close("a1"), Done),
                (Op::Get("b1", "q"), message("1")),
            ],
        ),
        script(
            "a message whose queue is deleted is acknowledged all the same",
            limit(1),
            [
                put("1"),
                (Op::Get("at", "q"), message("1")),
                (Op::Delete("b1", "q"), Number(0)),
                (Op::PublishMandatory("at", "q", "2"), Done),
                (Op::Ack("at", "1"), Done),
                (Op::Commit("at"), returned(&["2"])),
                (Op::Declare("b1", "q", limit(1)), Number(0)),
                (Op::Close("at"), Done),
                (Op::Count("b1", "q"), Number(0)),
            ],
        ),
        script(
            "what was held of a deleted queue does not come into a new one of the name",
            plain,
            [
                put("1"),
                (Op::Get("a1", "q"), message("1")),
                (Op::Delete("b1", "q"), Number(0)),
                (Op::Declare("b1", "q", plain), Number(0)),
                (Op::Close("a1"), Done),
                (Op::Count("b1", "q"), Number(0)),
            ],
        ),
    ];
    if !quorum {
        scripts.push(script(
            "an exclusive consumer is alone",
            plain,
            [
                (Op::Consume("a1", "q"), Done),
                (Op::Consume("b1", "q"), Refused(403)),
                (Op::Close("a1"), Done),
                (Op::Consume("bt", "q"), Done),
            ],
        ));
    } else {
        let mut steps = vec![put("1")];
        for _ in 0..21 {
            steps.push((Op::Get("at", "q"), message("1")));
            steps.push((Op::Nack("at", "1"), Done));
            steps.push((Op::Commit("at"), returned(&[])));
        }
        steps.push((Op::Get("b1", "q"), Nothing));
        scripts.push(Script {
            delivery_limit: true,
            ..script(
                "the 21st time that it is given back a message goes",
                plain,
                steps,
            )
        });
    }
    scripts
}
