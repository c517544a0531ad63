//! The command line: every setting is a flag with an environment variable.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::Resettable;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::controller::{AllowedHost, Pattern};
use token_bucket_operator::ops::telemetry::LogFormat;
use token_bucket_operator::schedule;

/// Clock changes are decided by governments, so the release of their data belongs to the version.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (version, zones) = (env!("CARGO_PKG_VERSION"), schedule::zones_version());
    format!("{version} (time zones: IANA {zones})")
});

/// Shares rate limits between workers with token buckets in AMQP queues, refilled on schedule.
#[derive(Debug, Parser)]
#[command(name = "token-bucket-operator", version = VERSION.as_str(), propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What the command line and the environment say. Ends the program when that cannot be understood.
    pub(crate) fn from_command_line() -> Self {
        let matches = without_empty_variables(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Variables that are empty, as charts and compose files write those that are not set, count as absent.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| {
        let value = std::env::var_os(name);
        value.is_some_and(|value| value.to_string_lossy().trim().is_empty())
    };
    command
        .mut_args(|flag| match flag.get_env().is_some_and(is_empty) {
            true => flag.env(Resettable::Reset),
            false => flag,
        })
        .mut_subcommands(without_empty_variables)
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the operator: keep every TokenBucket as it says and refill it
    Run(Box<RunArgs>),
    /// Print when a schedule is due next, one UTC instant a line
    Schedule(ScheduleArgs),
    /// Print the CustomResourceDefinition
    Crd,
    /// Try the operator of a cluster: create a TokenBucket, wait until it is filled, delete it
    Verify(VerifyArgs),
}

/// Settings of `run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// Broker of the buckets that name none in spec.connection, for example amqp://user:password@rabbitmq:5672/vhost
    #[arg(long, env = "AMQP_URL", hide_env_values = true, value_name = "URL")]
    pub amqp_url: Option<String>,

    /// File with that URI instead, for example of a mounted Secret. It is read again every few seconds: another URI in it is
    /// used without a restart
    #[arg(long, env = "AMQP_URL_FILE", value_name = "PATH")]
    pub amqp_url_file: Option<PathBuf>,

    /// Start although that file is not there; its broker is used as soon as it is
    #[arg(long, env = "AMQP_URL_FILE_OPTIONAL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub amqp_url_file_optional: bool,

    /// Namespace to watch; repeat it, or separate several with commas [default: all namespaces]
    #[arg(
        long = "namespace",
        env = "WATCH_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub namespaces: Vec<String>,

    /// Only watch TokenBuckets with these labels, for example team=shop,tier!=test
    #[arg(long, env = "LABEL_SELECTOR", value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// Of several replicas only the one that holds the lease works
    #[arg(long, env = "LEADER_ELECT", default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub leader_elect: bool,

    /// Namespace of the lease [default: the pod's namespace, or that of the kubeconfig's context]
    #[arg(long, env = "LEADER_ELECT_NAMESPACE", value_name = "NAMESPACE")]
    pub leader_elect_namespace: Option<String>,

    /// Address of the HTTP listener: /livez, /readyz, /metrics, and / with --ui
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,

    /// How often the tokens of every bucket are counted, and at most how often a changed count is written to its status
    #[arg(long, env = "STATUS_INTERVAL", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub status_interval: Duration,

    /// Budget for writing changed counts to statuses, all buckets together
    #[arg(
        long,
        env = "STATUS_WRITES_PER_SECOND",
        default_value = "50",
        value_name = "NUMBER"
    )]
    pub status_writes_per_second: NonZeroU32,

    /// How often each Secret of spec.connection is looked at, to see whether it has changed
    #[arg(long, env = "SECRET_REREAD_INTERVAL", default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub secret_reread_interval: Duration,

    /// Brokers that the buckets of one namespace may be at by spec.connection; each costs a connection and its threads
    #[arg(
        long,
        env = "MAX_BROKERS_PER_NAMESPACE",
        default_value = "20",
        value_name = "NUMBER"
    )]
    pub max_brokers_per_namespace: NonZeroU32,

    /// Only use Secrets with this label for spec.connection, for example tokenbucket.dev/broker=allowed [default: all]
    #[arg(long, env = "REQUIRE_SECRET_LABEL", value_name = "KEY[=VALUE]")]
    pub require_secret_label: Option<String>,
    /// Largest spec.maximum of a TokenBucket [default: 10000000]
    #[arg(long, env = "MAX_TOKENS_PER_BUCKET", value_name = "NUMBER")]
    pub max_tokens_per_bucket: Option<NonZeroU32>,

    /// TokenBuckets of one namespace that are in force: the oldest ones [default: all]
    #[arg(long, env = "MAX_BUCKETS_PER_NAMESPACE", value_name = "NUMBER")]
    pub max_buckets_per_namespace: Option<NonZeroU32>,

    /// Shortest time between two refills of a schedule [default: 1s]
    #[arg(long, env = "MIN_REFILL_INTERVAL", value_parser = duration, value_name = "DURATION")]
    pub min_refill_interval: Option<Duration>,

    /// Hosts that the Secrets of spec.connection may name: names, *.example.com, addresses and networks, each with :port if
    /// only that; repeat it, or separate several with commas [default: all]
    #[arg(
        long,
        env = "ALLOWED_BROKER_HOSTS",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    pub allowed_broker_hosts: Vec<AllowedHost>,

    /// Names that spec.refillQueue may have at the operator's own broker, * for any characters; repeat it, or separate several
    /// with commas
    #[arg(
        long,
        env = "REFILL_QUEUES",
        value_delimiter = ',',
        default_value = "token_buckets.*",
        value_name = "PATTERN"
    )]
    pub refill_queues: Vec<Pattern>,

    /// Namespaces whose buckets may be at the operator's own broker, * for any characters; repeat it, or separate several with
    /// commas [default: all]
    #[arg(
        long,
        env = "DEFAULT_BROKER_NAMESPACES",
        value_delimiter = ',',
        value_name = "PATTERN"
    )]
    pub default_broker_namespaces: Vec<Pattern>,

    /// Virtual hosts at the operator's own broker that buckets may name in spec.connection.vhost, * for any characters; repeat it,
    /// or separate several with commas [default: none]
    #[arg(
        long,
        env = "DEFAULT_BROKER_VHOSTS",
        value_delimiter = ',',
        value_name = "PATTERN"
    )]
    pub default_broker_vhosts: Vec<Pattern>,

    /// Brokers that must be reached by TLS (amqps://)
    #[arg(
        long,
        env = "REQUIRE_TLS",
        value_enum,
        default_value = "none",
        value_name = "BROKERS"
    )]
    pub require_tls: RequireTls,

    /// Type of the refill queues; quorum needs RabbitMQ 3.13, and a name that no Celery application declares
    #[arg(
        long,
        env = "REFILL_QUEUE_TYPE",
        value_enum,
        default_value = "classic",
        value_name = "TYPE"
    )]
    pub refill_queue_type: RefillQueueType,

    /// Metrics of each bucket, labelled with its namespace and name; without them there are only sums
    #[arg(long, env = "BUCKET_METRICS", default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub bucket_metrics: bool,

    /// Metrics and the page are only for tokens whose owner may get these paths: TokenReview and SubjectAccessReview
    #[arg(long, env = "METRICS_AUTH", default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub metrics_auth: bool,

    /// A page at / of the HTTP listener that shows each bucket's tokens in the last hour; it only shows
    #[arg(long, env = "UI", default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub ui: bool,

    /// Look at the settings, the rights in Kubernetes and the broker, print what is found, and end
    #[arg(long)]
    pub validate_only: bool,

    /// How log lines look; what is logged is set by RUST_LOG, for example RUST_LOG=debug
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// Brokers that must be reached by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RequireTls {
    /// None of them.
    None,
    /// Those that Secrets name.
    Secrets,
    /// Those, and the operator's own.
    All,
}

/// Type of the refill queues, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RefillQueueType {
    /// A queue on one node.
    Classic,
    /// A queue replicated by Raft.
    Quorum,
}

impl From<RefillQueueType> for QueueType {
    fn from(flag: RefillQueueType) -> Self {
        match flag {
            RefillQueueType::Classic => Self::Classic,
            RefillQueueType::Quorum => Self::Quorum,
        }
    }
}

/// Settings of `schedule`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Cron expression, as in spec.schedule
    #[arg(allow_hyphen_values = true)]
    pub expression: String,

    /// IANA time zone of the expression
    #[arg(long, default_value = "Etc/UTC", value_name = "ZONE")]
    pub time_zone: String,

    /// The due times strictly after this instant [default: now]
    #[arg(long, value_parser = instant, value_name = "RFC3339")]
    pub after: Option<DateTime<Utc>>,

    /// How many due times
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub count: usize,
}

/// Settings of `verify`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Namespace of the TokenBucket [default: the pod's namespace, or that of the kubeconfig's context]
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Secret that names the TokenBucket's broker [default: the operator's broker]
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,

    /// Virtual host of its queues [default: that of the Secret, or of the operator's broker]
    #[arg(long, value_name = "NAME")]
    pub vhost: Option<String>,

    /// Label of the TokenBucket, KEY=VALUE, for operators with a selector; repeat it for several
    #[arg(long = "label", value_parser = label, value_name = "LABEL")]
    pub labels: Vec<(String, String)>,

    /// How long each step may take
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write KEY=VALUE, for example team=shop".to_owned())
}

fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|instant| instant.to_utc())
        .map_err(|error| {
            format!("{error}: write an RFC 3339 instant, for example 2026-11-24T10:00:00Z")
        })
}

/// A number with a unit: `500ms`, `10s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .filter(|milliseconds| (100..=86_400_000).contains(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            "write a number with its unit, from 100ms to 24h, for example 10s".to_owned()
        })
}

/// Values that say nothing, as charts render them, count as absent.
impl RunArgs {
    /// Without empty values.
    #[must_use]
    pub(crate) fn normalized(self) -> Self {
        let said = |value: Option<String>| value.filter(|value| !value.trim().is_empty());
        Self {
            amqp_url: said(self.amqp_url),
            amqp_url_file: self
                .amqp_url_file
                .filter(|path| !path.as_os_str().is_empty()),
            namespaces: self
                .namespaces
                .iter()
                .map(|namespace| namespace.trim().to_owned())
                .filter(|namespace| !namespace.is_empty())
                .collect(),
            selector: said(self.selector),
            leader_elect_namespace: said(self.leader_elect_namespace),
            require_secret_label: said(self.require_secret_label),
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
