//! What users write. The doc comments of the fields are what `kubectl explain` shows.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{rules, status::TokenBucketStatus};
use bucket::{DeletionPolicy, MissedRefills, QueueType};

/// What a token bucket should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "tokenbucket.dev",
    version = "v1alpha1",
    kind = "TokenBucket",
    plural = "tokenbuckets",
    shortname = "tb",
    category = "all",
    namespaced,
    status = "Box<TokenBucketStatus>",
    derive = "PartialEq",
    doc = "A token bucket in an AMQP queue, refilled on schedule. Every message in the queue is one token; a worker takes a \
           token before it uses what is limited, so all workers together stay under one rate limit.",
    validation = rules::default_name_is_short(),
    validation = rules::name_is_immutable(),
    validation = rules::initial_tokens_fit(),
    printcolumn(
        name = "Available",
        type_ = "integer",
        json_path = ".status.availableTokens",
        description = "Tokens in the bucket when they were last counted."
    ),
    printcolumn(
        name = "Maximum",
        type_ = "integer",
        json_path = ".spec.maximum",
        description = "Tokens that the bucket can hold."
    ),
    printcolumn(
        name = "Schedule",
        type_ = "string",
        json_path = ".spec.schedule",
        description = "When refills are due."
    ),
    // kubectl shows a column of type date as an age, which for a time to come is <invalid>.
    printcolumn(
        name = "Next Refill",
        type_ = "string",
        json_path = ".status.nextRefillTime",
        description = "When the next refill is due."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the bucket is as the spec says and is refilled."
    ),
    printcolumn(
        name = "Queue",
        type_ = "string",
        priority = 1,
        json_path = ".status.queueName",
        description = "The queue that holds the tokens."
    ),
    printcolumn(
        name = "Last Refill",
        type_ = "date",
        priority = 1,
        json_path = ".status.lastRefill.completedTime",
        description = "How long ago the last refill was carried out."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why the bucket is or is not ready."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct TokenBucketSpec {
    /// Name of the bucket. Its queue at the broker is called token_bucket_my_api_client when the name is my_api_client.
    /// Letters, digits and _, at most 200 of them. Cannot be changed. Default: metadata.name with every - and . as _
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    #[x_kube(validation = rules::NAME_SHAPE)]
    pub name: Option<String>,

    /// When refills are due, as a cron expression in timeZone: minute, hour, day of month, month, day of week; with six
    /// fields the first one is the second. Fields take *, numbers, ranges (1-5), lists (1,15), steps (*/10) and names
    /// (JAN, MON-FRI; days of the week are numbered 0-6 from Sunday). Also @hourly, @daily, @weekly, @monthly, @yearly,
    /// and @every with a duration in h, m and s. When both day of month and day of week are given, one of them has to
    /// match, as in a CronJob; with a + in front of the day of week both have to. Examples: "0 * * * *" (every hour),
    /// "*/5 * * * * *" (every 5 seconds), "0 9 1-7 * +MON" (first Monday of the month at nine), "@every 90s"
    #[schemars(length(max = 200))]
    #[x_kube(validation = rules::schedule_shape())]
    pub schedule: String,

    /// IANA time zone in which the schedule is read, with its daylight saving time. Default: Etc/UTC. Example:
    /// Europe/Berlin
    #[serde(default = "default_time_zone")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::TIME_ZONE_SHAPE)]
    pub time_zone: String,

    /// Tokens that one refill adds, from 1 to 10000000. What does not fit under maximum is not added. Example: 1000
    #[schemars(with = "i64", range(min = 1, max = 10_000_000))]
    pub amount: u32,

    /// Tokens that the bucket can hold, from 1 to 10000000: the largest burst. Raising or lowering it keeps the tokens that
    /// fit. Example: 1000
    #[schemars(with = "i64", range(min = 1, max = 10_000_000))]
    pub maximum: u32,

    /// Queue of refill requests. The operator is its only consumer; other programs may send requests to it. Buckets may
    /// share one. Printable ASCII without spaces, at most 246 characters. Default: token_buckets.refill
    #[serde(default = "default_refill_queue")]
    #[schemars(length(max = 246))]
    #[x_kube(validation = rules::REFILL_QUEUE_SHAPE, validation = rules::REFILL_QUEUE_RESERVED)]
    pub refill_queue: String,

    /// Tokens put into the bucket when it is created, from 0 to maximum. Without effect after that. Default: 0
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0, max = 10_000_000))]
    pub initial_tokens: u32,

    /// While true there are no scheduled refills. The tokens stay and can be taken. Refills that were due meanwhile count
    /// as missed. Default: false
    #[serde(default)]
    pub suspend: bool,

    /// What to do about refills that were due while nobody could refill. Latest: the newest one is carried out, once.
    /// All: every one is (up to maximum). Skip: none is. Default: Latest
    #[serde(default)]
    pub missed_refills: MissedRefills,

    /// A refill that is late by more than this many seconds is not carried out, from 1 to 31536000 (a year). Default: no
    /// limit. Example: 300
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 1, max = 31_536_000))]
    pub starting_deadline_seconds: Option<u32>,

    /// Type of the bucket's queue at the broker: classic, or quorum (replicated; needs more of the broker, and RabbitMQ
    /// 3.13 or newer). Cannot be changed. Default: classic
    #[serde(default)]
    #[x_kube(validation = rules::QUEUE_TYPE_IMMUTABLE)]
    pub queue_type: QueueType,

    /// What happens to the bucket's queue, and the tokens in it, when this resource is deleted. Delete: it is deleted.
    /// Retain: it stays. Default: Delete
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// The broker that holds the bucket, and its virtual host there. Default: the broker that the operator was started with
    /// (AMQP_URL)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Box<ConnectionSpec>>,
}

fn default_time_zone() -> String {
    "Etc/UTC".to_owned()
}

fn default_refill_queue() -> String {
    "token_buckets.refill".to_owned()
}

impl TokenBucketSpec {
    /// Name of the Secret that names its broker; None: it is at the operator's own.
    #[must_use]
    pub fn secret(&self) -> Option<&str> {
        self.connection.as_deref()?.secret()
    }

    /// The virtual host that it names itself; None: that of the Secret, or of the operator's own broker.
    #[must_use]
    pub fn vhost(&self) -> Option<&str> {
        self.connection.as_deref()?.vhost.as_deref()
    }
}

/// Where the broker of a bucket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::CONNECTION_NAMES_SOMETHING)]
pub struct ConnectionSpec {
    /// Secret, in the namespace of the bucket, that names the broker: either a key uri with an amqp:// or amqps:// URI, or
    /// the keys host, port, username and password, as RabbitMQ's cluster operator writes them. Default: the broker that the
    /// operator was started with (AMQP_URL)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,

    /// Virtual host of the bucket, instead of that in the Secret. Without secretRef it has to be one that the operator's
    /// administrator allows (--default-broker-vhosts). Default: that of the Secret or of AMQP_URL. Example: shop
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    #[x_kube(validation = rules::VHOST_SHAPE)]
    pub vhost: Option<String>,
}

impl ConnectionSpec {
    /// Name of the Secret that names the broker; None: it is the operator's own.
    #[must_use]
    pub fn secret(&self) -> Option<&str> {
        self.secret_ref.as_ref().map(|secret| secret.name.as_str())
    }
}

/// A Secret in the namespace of the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the Secret. Example: rabbit-user
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::SECRET_NAME_SHAPE)]
    pub name: String,
}
