use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{Testbed, eventually, finish, unique};

/// A RabbitMQ virtual host of one test, seen by AMQP and by the management API, and not through the operator's code. It is
/// deleted when dropped.
pub struct Vhost<'t> {
    testbed: &'t Testbed,
    /// In the form in which URLs want it.
    name: String,
    connection: Mutex<Option<Connection>>,
}

impl<'t> Vhost<'t> {
    pub(super) async fn create(testbed: &'t Testbed) -> Self {
        // The slash: a vhost that is not percent-encoded somewhere is noticed.
        let vhost = Self {
            testbed,
            name: format!("test%2F{}", unique()),
            connection: Mutex::default(),
        };
        vhost.api(Method::PUT, "vhosts", "", None).await;
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        vhost
            .api(
                Method::PUT,
                "permissions",
                &testbed.setting("RABBITMQ_USER"),
                Some(all),
            )
            .await;
        vhost
    }

    /// What the operator connects to.
    pub fn amqp_url(&self) -> String {
        let (server, _) = self
            .testbed
            .setting("AMQP_URL")
            .rsplit_once('/')
            .expect("AMQP_URL names a vhost");
        format!("{server}/{}", self.name)
    }

    /// The queue as the management API describes it: `type`, `durable`, `arguments`… Its counts lag by seconds:
    /// [`Vhost::depth`] is exact.
    pub async fn queue(&self, name: &str) -> Option<Value> {
        let answer = self.api(Method::GET, "queues", name, None).await;
        match answer.status() {
            StatusCode::NOT_FOUND => None,
            _ => Some(answer.json().await.expect("a queue in JSON")),
        }
    }

    /// The names of all queues, sorted.
    pub async fn queues(&self) -> Vec<String> {
        let queues: Vec<Value> = self
            .api(Method::GET, "queues", "", None)
            .await
            .json()
            .await
            .expect("queues in JSON");
        let mut names: Vec<_> = queues
            .iter()
            .filter_map(|queue| queue["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// The number of ready messages, exact after a confirm or a commit; `None` when there is no such queue.
    pub async fn depth(&self, queue: &str) -> Option<u64> {
        let channel = self.channel().await;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        match channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await
        {
            Ok(queue) => {
                close(&channel).await;
                Some(queue.message_count().into())
            }
            Err(error) => {
                assert!(
                    error.to_string().contains("NOT_FOUND"),
                    "counting {queue}: {error}"
                );
                None
            }
        }
    }

    /// Declares a durable queue.
    pub async fn declare(&self, queue: &str, arguments: FieldTable) {
        let channel = self.channel().await;
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .expect("declared");
        close(&channel).await;
    }

    /// Puts one message into a queue, through the default exchange, and awaits its confirm.
    pub async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let channel = self.channel().await;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirms");
        let sent = channel
            .basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await;
        let confirm = sent.expect("published").await.expect("confirmed");
        assert!(confirm.is_ack(), "{queue} refused a message");
        close(&channel).await;
    }

    /// Takes up to `n` tokens as a worker does; returns how many there were.
    pub async fn take(&self, queue: &str, n: u64) -> u64 {
        let channel = self.channel().await;
        let mut taken = 0;
        while taken < n
            && channel
                .basic_get(queue.into(), BasicGetOptions { no_ack: true })
                .await
                .expect("a queue to take from")
                .is_some()
        {
            taken += 1;
        }
        close(&channel).await;
        taken
    }

    /// A channel for whatever else a test does. All channels of a vhost share a connection.
    pub async fn channel(&self) -> Channel {
        let mut connection = self.connection.lock().await;
        if !connection
            .as_ref()
            .is_some_and(|connection| connection.status().connected())
        {
            let new = Connection::connect(&self.amqp_url(), ConnectionProperties::default()).await;
            *connection = Some(new.expect("the broker accepts connections"));
        }
        connection
            .as_ref()
            .expect("it was made above")
            .create_channel()
            .await
            .expect("a channel")
    }

    /// Cuts every connection of this vhost, its own too, as an administrator would.
    pub async fn close_all_connections(&self) {
        let own = self.connection.lock().await.take();
        for connection in self.connections().await {
            let name = connection["name"]
                .as_str()
                .expect("connections have names")
                .replace(' ', "%20")
                .replace('>', "%3E");
            self.request(Method::DELETE, &format!("connections/{name}"), None)
                .await;
        }
        if let Some(own) = own {
            eventually(
                "the connection to be cut",
                Duration::from_secs(10),
                async || {
                    if own.status().connected() {
                        Err("still connected".into())
                    } else {
                        Ok(())
                    }
                },
            )
            .await;
        }
    }

    /// The open connections as the management API describes them: `name`, `client_properties`…
    pub async fn connections(&self) -> Vec<Value> {
        self.api(Method::GET, "vhosts", "connections", None)
            .await
            .json()
            .await
            .expect("connections in JSON")
    }

    /// Calls the management API at `kind/vhost/rest`.
    async fn api(&self, method: Method, kind: &str, rest: &str, body: Option<Value>) -> Response {
        self.request(
            method,
            format!("{kind}/{}/{rest}", self.name).trim_end_matches('/'),
            body,
        )
        .await
    }

    /// An answer other than success and "not found" fails the test.
    async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let url = format!(
            "{}/api/{path}",
            self.testbed.setting("RABBITMQ_MANAGEMENT_URL")
        );
        let (user, password) = (
            self.testbed.setting("RABBITMQ_USER"),
            self.testbed.setting("RABBITMQ_PASSWORD"),
        );
        let mut request = Client::new()
            .request(method, &url)
            .basic_auth(user, Some(password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("the management API answers");
        let status = answer.status();
        assert!(
            status.is_success() || status == StatusCode::NOT_FOUND,
            "{url}: {status}"
        );
        answer
    }
}

impl Drop for Vhost<'_> {
    fn drop(&mut self) {
        finish(async {
            self.api(Method::DELETE, "vhosts", "", None).await;
        });
    }
}

async fn close(channel: &Channel) {
    channel
        .close(200, "done".into())
        .await
        .expect("a channel closes");
}
