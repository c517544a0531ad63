//! The scripts of the simulation's broker, on a real one: what the machine is driven against is what RabbitMQ does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind};
use simulation::broker::Arguments;
use simulation::conformance::{Op, Script, Seen, scripts};

use crate::support::{Vhost, testbed};

/// What a connection or a channel held is back after this; exclusive queues and consumers are gone.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_broker_does_what_the_simulation_takes_for_granted() {
    let testbed = testbed().await;
    let has_delivery_limit = std::env::var("TESTBED_BROKER").is_ok_and(|version| version == "4");
    for script in scripts(false).into_iter().chain(scripts(true)) {
        if script.delivery_limit && !has_delivery_limit {
            continue;
        }
        let vhost = testbed.vhost().await;
        play(&script, &vhost).await;
    }
}

async fn play(script: &Script, vhost: &Vhost<'_>) {
    let mut client = Client {
        url: vhost.amqp_url(),
        connections: HashMap::new(),
        channels: HashMap::new(),
        tags: HashMap::new(),
        consumers: HashMap::new(),
    };
    for (number, (op, expected)) in script.steps.iter().enumerate() {
        let began = Instant::now();
        loop {
            let seen = client.step(*op).await;
            if seen == *expected {
                break;
            }
            // The broker notices the end of a channel or a connection a moment later than whoever ends it.
            let looks =
                matches!(op, Op::Get(..) | Op::Count(..)) && !matches!(seen, Seen::Refused(_));
            let again = looks || seen == Seen::Refused(405);
            assert!(
                again && began.elapsed() < SOON,
                "{}: step {number}, {op:?}: {seen:?} instead of {expected:?}",
                script.name
            );
            client.reopen(*op).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Client {
    url: String,
    connections: HashMap<&'static str, Connection>,
    channels: HashMap<&'static str, (Channel, &'static str, bool)>,
    tags: HashMap<(&'static str, String), u64>,
    /// One that is dropped is cancelled.
    consumers: HashMap<&'static str, lapin::Consumer>,
}

impl Client {
    async fn step(&mut self, op: Op) -> Seen {
        self.carry_out(op)
            .await
            .unwrap_or_else(|error| match error.kind() {
                ErrorKind::ProtocolError(error) => Seen::Refused(error.get_id()),
                _ => panic!("{op:?}: {error}"),
            })
    }

    async fn open(
        &mut self,
        name: &'static str,
        connection: &'static str,
        transactional: bool,
    ) -> lapin::Result<()> {
        let channel = self.connections[connection].create_channel().await?;
        if transactional {
            channel.tx_select().await?;
        } else {
            // What is published on it has arrived when the next step begins.
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
        }
        self.channels
            .insert(name, (channel, connection, transactional));
        Ok(())
    }

    /// A refusal has closed the channel of this step.
    async fn reopen(&mut self, op: Op) {
        if let Op::Lock(name, _) = op {
            let (_, connection, transactional) = self.channels[name];
            self.open(name, connection, transactional).await.unwrap();
        }
    }

    async fn carry_out(&mut self, op: Op) -> lapin::Result<Seen> {
        let channel = |name: &str| &self.channels[name].0;
        let seen = match op {
            Op::Connect(name) => {
                let connection =
                    Connection::connect(&self.url, ConnectionProperties::default()).await?;
                self.connections.insert(name, connection);
                Seen::Done
            }
            Op::Disconnect(name) => {
                let connection = self.connections.remove(name).unwrap();
                connection.close(200, "OK".into()).await?;
                Seen::Done
            }
            Op::Open(name, connection) => {
                self.open(name, connection, false).await?;
                Seen::Done
            }
            Op::OpenTx(name, connection) => {
                self.open(name, connection, true).await?;
                Seen::Done
            }
            Op::Close(name) => {
                channel(name).close(200, "OK".into()).await?;
                Seen::Done
            }
            Op::Declare(on, queue, of) => {
                let options = QueueDeclareOptions::durable();
                let declared = channel(on)
                    .queue_declare(queue.into(), options, arguments(of))
                    .await?;
                Seen::Number(declared.message_count().into())
            }
            Op::Lock(on, queue) => {
                let options = QueueDeclareOptions {
                    exclusive: true,
                    ..Default::default()
                };
                let declared = channel(on)
                    .queue_declare(queue.into(), options, FieldTable::default())
                    .await?;
                Seen::Number(declared.message_count().into())
            }
            Op::Count(on, queue) => {
                let options = QueueDeclareOptions {
                    passive: true,
                    ..Default::default()
                };
                let declared = channel(on)
                    .queue_declare(queue.into(), options, FieldTable::default())
                    .await?;
                Seen::Number(declared.message_count().into())
            }
            Op::Get(on, queue) => {
                let got = channel(on)
                    .basic_get(queue.into(), BasicGetOptions { no_ack: false })
                    .await?;
                match got {
                    None => Seen::Nothing,
                    Some(message) => {
                        let text = String::from_utf8_lossy(&message.delivery.data).into_owned();
                        let tag = message.delivery.delivery_tag;
                        self.tags.insert((on, text.clone()), tag);
                        Seen::Message(text)
                    }
                }
            }
            Op::Publish(on, queue, text) | Op::PublishMandatory(on, queue, text) => {
                let options = BasicPublishOptions {
                    mandatory: matches!(op, Op::PublishMandatory(..)),
                    ..Default::default()
                };
                let persistent = BasicProperties::default().with_delivery_mode(2);
                let (channel, _, transactional) = &self.channels[on];
                let sent = channel
                    .basic_publish(
                        "".into(),
                        queue.into(),
                        options,
                        text.as_bytes(),
                        persistent,
                    )
                    .await?;
                if !transactional {
                    sent.await?;
                }
                Seen::Done
            }
            Op::Ack(on, text) => {
                let tag = self.tags[&(on, text.to_owned())];
                channel(on)
                    .basic_ack(tag, BasicAckOptions::default())
                    .await?;
                Seen::Done
            }
            Op::Nack(on, text) => {
                let tag = self.tags[&(on, text.to_owned())];
                let options = BasicNackOptions {
                    requeue: true,
                    ..Default::default()
                };
                channel(on).basic_nack(tag, options).await?;
                Seen::Done
            }
            Op::Commit(on) => {
                channel(on).tx_commit().await?;
                let returned = channel(on).wait_for_confirms().await?;
                let text = |message: lapin::message::BasicReturnMessage| {
                    String::from_utf8_lossy(&message.delivery.data).into_owned()
                };
                Seen::Returned(returned.into_iter().map(text).collect())
            }
            Op::Consume(on, queue) => {
                let options = BasicConsumeOptions {
                    exclusive: true,
                    ..Default::default()
                };
                let consumer = channel(on)
                    .basic_consume(queue.into(), "".into(), options, FieldTable::default())
                    .await?;
                self.consumers.insert(on, consumer);
                Seen::Done
            }
            Op::Deliver(on, _) => {
                let consumer = self.consumers.get_mut(on).unwrap();
                match tokio::time::timeout(SOON, consumer.next()).await {
                    Ok(Some(delivery)) => {
                        Seen::Message(String::from_utf8_lossy(&delivery?.data).into_owned())
                    }
                    _ => Seen::Nothing,
                }
            }
            Op::Delete(on, queue) => {
                let deleted = channel(on)
                    .queue_delete(queue.into(), QueueDeleteOptions::default())
                    .await?;
                Seen::Number(deleted.into())
            }
            Op::Purge(on, queue) => {
                let purged = channel(on)
                    .queue_purge(queue.into(), QueuePurgeOptions::default())
                    .await?;
                Seen::Number(purged.into())
            }
        };
        Ok(seen)
    }
}

fn arguments(of: Arguments) -> FieldTable {
    let mut table = FieldTable::default();
    if of.quorum {
        table.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
    }
    if let Some(limit) = of.max_length {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        table.insert("x-max-length".into(), AMQPValue::LongLongInt(limit));
    }
    table
}
