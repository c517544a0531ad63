use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{SOON, Testbed, eventually, finish, unique};

/// Everything listens on 127.0.0.1 and ends with the run.
const PASSWORD: &str = "test";

/// Where policies are set, and how a queue tells which it has.
type PolicyKind = (&'static str, &'static str);
const POLICY: PolicyKind = ("policies", "policy");
const OPERATOR_POLICY: PolicyKind = ("operator-policies", "operator_policy");

/// A RabbitMQ virtual host and user of one test, seen by AMQP and by the management API, and not through the operator's
/// code. Both are deleted when dropped, and further users.
pub struct Vhost<'t> {
    testbed: &'t Testbed,
    user: String,
    /// In the form in which URLs want it. It has a slash: a place that forgets to encode it is noticed.
    name: String,
    connection: Mutex<Option<Connection>>,
    others: Mutex<Vec<String>>,
}

impl<'t> Vhost<'t> {
    pub(super) async fn create(testbed: &'t Testbed, settings: Value) -> Self {
        let unique = unique();
        let vhost = Self {
            testbed,
            user: format!("test-{unique}"),
            name: format!("test%2F{unique}"),
            connection: Mutex::default(),
            others: Mutex::default(),
        };
        let user = json!({"password": PASSWORD, "tags": ""});
        vhost.api(Method::PUT, &vhost.user_path(), Some(user)).await;
        vhost
            .api(Method::PUT, &vhost.path("vhosts"), Some(settings))
            .await;
        vhost.permit([".*", ".*", ".*"]).await;
        vhost
    }

    /// Gives its user the right to configure, write and read what these regular expressions match, and nothing else.
    /// The broker remembers rights for the life of a channel.
    pub async fn permit(&self, rights: [&str; 3]) {
        self.permit_user(&self.user, rights).await;
    }

    /// Lets the user of another virtual host in.
    pub async fn admit(&self, other: &Self) {
        self.permit_user(&other.user, [".*", ".*", ".*"]).await;
    }

    /// What it is called at the broker.
    pub fn name(&self) -> String {
        self.name.replace("%2F", "/")
    }

    async fn permit_user(&self, user: &str, [configure, write, read]: [&str; 3]) {
        let path = format!("{}/{user}", self.path("permissions"));
        let rights = json!({"configure": configure, "write": write, "read": read});
        self.api(Method::PUT, &path, Some(rights)).await;
    }

    /// Limits the virtual host (`vhost-limits`) or its user (`user-limits`); None: no more.
    pub async fn set_limit(&self, whose: &str, limit: &str, most: Option<u64>) {
        let name = match whose {
            "user-limits" => &self.user,
            _ => &self.name,
        };
        let (path, value) = (
            format!("{whose}/{name}/{limit}"),
            most.map(|most| json!({"value": most})),
        );
        let method = if value.is_some() {
            Method::PUT
        } else {
            Method::DELETE
        };
        self.api(method, &path, value).await;
    }

    /// A policy for the queues that a regular expression matches, as an administrator sets it. Waits until `queue`, if it
    /// is there, has it.
    pub async fn set_policy(&self, pattern: &str, queue: &str, definition: Value) {
        self.set(POLICY, pattern, queue, definition).await;
    }

    /// The same that nobody in the virtual host can change, and that counts beside the other.
    pub async fn set_operator_policy(&self, pattern: &str, queue: &str, definition: Value) {
        self.set(OPERATOR_POLICY, pattern, queue, definition).await;
    }

    async fn set(&self, kind: PolicyKind, pattern: &str, queue: &str, definition: Value) {
        let policy = json!({"pattern": pattern, "apply-to": "queues", "definition": definition});
        let path = format!("{}/test", self.path(kind.0));
        let answer = self.api(Method::PUT, &path, Some(policy)).await;
        assert!(answer.status().is_success(), "{definition}: {answer:?}");
        self.policy_becomes(kind, queue, "test").await;
    }

    /// Deletes the policies, and waits as long as that takes.
    pub async fn delete_policy(&self, queue: &str) {
        for kind in [POLICY, OPERATOR_POLICY] {
            let path = format!("{}/test", self.path(kind.0));
            self.api(Method::DELETE, &path, None).await;
            self.policy_becomes(kind, queue, "").await;
        }
    }

    async fn policy_becomes(&self, kind: PolicyKind, queue: &str, name: &str) {
        eventually("the policy", SOON, async || match self.queue(queue).await {
            Some(queue) if queue[kind.1].as_str().unwrap_or_default() != name => {
                Err(format!("{queue}"))
            }
            _ => Ok(()),
        })
        .await;
    }

    /// What the operator connects to.
    pub fn amqp_url(&self) -> String {
        let (_, server) = self
            .testbed
            .setting("AMQP_URL")
            .rsplit_once('@')
            .expect("a user");
        let (address, _) = server.split_once('/').expect("a vhost");
        format!("amqp://{}:{PASSWORD}@{address}/{}", self.user, self.name)
    }

    /// The same as a new user, which has the rights of the first one.
    pub async fn amqp_url_of_another_user(&self) -> String {
        let user = format!("test-{}", unique());
        let settings = json!({"password": PASSWORD, "tags": ""});
        let path = format!("users/{user}");
        self.api(Method::PUT, &path, Some(settings)).await;
        let path = format!("{}/{user}", self.path("permissions"));
        let rights = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.api(Method::PUT, &path, Some(rights)).await;
        let url = self.amqp_url().replacen(&self.user, &user, 1);
        self.others.lock().await.push(user);
        url
    }

    /// Waits until the operator has connections as the user of `url`, and as nobody else. The management API is some seconds late.
    pub async fn operator_connects_as(&self, url: &str) {
        let user = url
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once(':'));
        let (user, _) = user.expect("a user");
        let path = format!("{}/connections", self.path("vhosts"));
        eventually("the operator's connection", SOON, async || {
            let answer = self.api(Method::GET, &path, None).await;
            let all: Vec<Value> = answer.json().await.expect("connections in JSON");
            let is_operators = |it: &&Value| {
                let name = it["client_properties"]["connection_name"].as_str();
                name.is_some_and(|name| name.starts_with("token-bucket-operator/"))
            };
            let operators: Vec<_> = all.iter().filter(is_operators).collect();
            match !operators.is_empty() && operators.iter().all(|it| it["user"] == *user) {
                true => Ok(()),
                false => Err(format!("{user}: {operators:?}")),
            }
        })
        .await;
    }

    /// The queue as the management API describes it: `type`, `durable`, `arguments`… Its counts lag by seconds:
    /// [`Vhost::depth`] is exact. RabbitMQ 4 adds the type to the arguments of a queue that was declared without one;
    /// here a classic queue has none in any case.
    pub async fn queue(&self, name: &str) -> Option<Value> {
        let answer = self
            .api(
                Method::GET,
                &format!("{}/{name}", self.path("queues")),
                None,
            )
            .await;
        match answer.status() {
            StatusCode::NOT_FOUND => None,
            _ => {
                let mut queue: Value = answer.json().await.expect("a queue in JSON");
                if queue["arguments"]["x-queue-type"] == "classic"
                    && let Some(arguments) = queue["arguments"].as_object_mut()
                {
                    arguments.remove("x-queue-type");
                }
                Some(queue)
            }
        }
    }

    /// The names of all queues, sorted.
    pub async fn queues(&self) -> Vec<String> {
        let queues: Vec<Value> = self
            .api(Method::GET, &self.path("queues"), None)
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
                // The name of a bucket is reserved until its first ledger is there.
                let told = error.to_string();
                let absent = told.contains("NOT_FOUND") || told.contains("RESOURCE_LOCKED");
                assert!(absent, "counting {queue}: {told}");
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

    /// Waits until a queue holds exactly so many tokens.
    pub async fn depth_becomes(&self, queue: &str, tokens: u64) {
        eventually("the tokens", SOON, async || match self.depth(queue).await {
            Some(depth) if depth == tokens => Ok(()),
            depth => Err(format!("{depth:?} instead of {tokens} in {queue}")),
        })
        .await;
    }

    /// Waits until exactly so many consume from a queue.
    pub async fn consumers_become(&self, queue: &str, consumers: u32) {
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        eventually("the consumers", SOON, async || {
            let channel = self.channel().await;
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
            let count = declared.await.map(|queue| queue.consumer_count());
            if channel.status().connected() {
                close(&channel).await;
            }
            match count {
                Ok(count) if count == consumers => Ok(()),
                other => Err(format!("{other:?} instead of {consumers}")),
            }
        })
        .await;
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

    /// Forgets the test's own connection: the broker was restarted.
    pub async fn reconnect(&self) {
        self.connection.lock().await.take();
    }

    /// Cuts every connection of this vhost, the test's own too, as an administrator would.
    pub async fn close_all_connections(&self) {
        let own = self.connection.lock().await.take();
        let path = format!("connections/username/{}", self.user);
        self.api(Method::DELETE, &path, None).await;
        if let Some(own) = own {
            eventually(
                "the connection to be cut",
                Duration::from_secs(10),
                async || match own.status().connected() {
                    true => Err("still connected".into()),
                    false => Ok(()),
                },
            )
            .await;
        }
    }

    fn path(&self, kind: &str) -> String {
        format!("{kind}/{}", self.name)
    }

    fn user_path(&self) -> String {
        format!("users/{}", self.user)
    }

    /// Calls the management API. An answer other than success and "not found" fails the test.
    async fn api(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let answer = self.request(method, path).json(&body).send().await;
        checked(answer.expect("the management API answers"), path)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let [url, user, password] = ["MANAGEMENT_URL", "USER", "PASSWORD"]
            .map(|name| self.testbed.setting(&format!("RABBITMQ_{name}")));
        let request = Client::new().request(method, format!("{url}/api/{path}"));
        request.basic_auth(user, Some(password))
    }
}

/// An answer other than success and "not found" fails the test.
fn checked(answer: Response, path: &str) -> Response {
    let status = answer.status();
    assert!(
        status.is_success() || status == StatusCode::NOT_FOUND,
        "{path}: {status}"
    );
    answer
}

impl Drop for Vhost<'_> {
    fn drop(&mut self) {
        finish(async {
            // Many queues take longer than the management API waits for: it hangs up, and is asked again.
            let path = self.path("vhosts");
            let answer = async {
                loop {
                    match self.request(Method::DELETE, &path).send().await {
                        Ok(answer) => break answer,
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
            };
            let answer = tokio::time::timeout(Duration::from_secs(600), answer).await;
            checked(answer.expect("the vhost goes"), &path);
            self.api(Method::DELETE, &self.user_path(), None).await;
            for user in self.others.lock().await.iter() {
                let path = format!("users/{user}");
                self.api(Method::DELETE, &path, None).await;
            }
        });
    }
}

async fn close(channel: &Channel) {
    channel
        .close(200, "done".into())
        .await
        .expect("a channel closes");
}
