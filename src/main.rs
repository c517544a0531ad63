//! The program: parse, telemetry, supervise; nothing else.

#![warn(unreachable_pub)]

mod cli;

use std::future::pending;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use cli::{Cli, Command, RequireTls, RunArgs, ScheduleArgs, VerifyArgs};
use token_bucket_operator::broker_file::BrokerFile;
use token_bucket_operator::controller::{
    self, BrokerRules, Ceilings, DefaultBrokerRules, Scope, SecretLabel, Settings,
};
use token_bucket_operator::endpoint::{Certificates, Endpoint};
use token_bucket_operator::engine::LeaseValidity;
use token_bucket_operator::ops::api_proxy::with_proxy;
use token_bucket_operator::ops::api_requests::{counted_client, with_user_agent};
use token_bucket_operator::ops::election::{Candidate, Term};
use token_bucket_operator::ops::signals::Signals;
use token_bucket_operator::ops::{
    Access, Identity, Metrics, Readiness, Readings, admin, telemetry,
};
use token_bucket_operator::preflight::{Finding, Preflight};
use token_bucket_operator::verify::{self, Trial};
use token_bucket_operator::{api, schedule};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Draining may take so long; Kubernetes kills a pod 30 s after its SIGTERM.
const DRAIN_WITHIN: Duration = Duration::from_secs(20);
/// Exit status of `schedule` for a schedule that is invalid or never due.
const NO_SCHEDULE: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::from_command_line().command {
        Command::Run(args) if args.validate_only => validate(args.normalized()),
        Command::Run(args) => run(args.normalized()).map(|()| ExitCode::SUCCESS),
        Command::Schedule(args) => upcoming(&args),
        Command::Verify(args) => verify(args),
        Command::Crd => api::crd_yaml()
            .context("cannot write the CustomResourceDefinition")
            .and_then(|yaml| print(&yaml)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn upcoming(args: &ScheduleArgs) -> anyhow::Result<ExitCode> {
    let after = args.after.unwrap_or_else(Utc::now);
    match schedule::upcoming(&args.expression, &args.time_zone, after, args.count) {
        Ok(ticks) => {
            let lines = ticks
                .iter()
                .map(|tick| tick.format("%Y-%m-%dT%H:%M:%SZ\n").to_string());
            print(&lines.collect::<String>())
        }
        Err(reason) => {
            eprintln!("{reason}");
            Ok(ExitCode::from(NO_SCHEDULE))
        }
    }
}

/// Prints to standard output. A reader that has read enough, as `head` does, is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::init(args.log_format, std::env::var("RUST_LOG").ok().as_deref())?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(until_signalled(args));
    // Nothing that is still running may hold up the end.
    runtime.shutdown_background();
    result
}

fn verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let (client, namespace) = kubernetes(kube::Client::try_from).await?;
        let trial = Trial {
            namespace: args.namespace.unwrap_or(namespace),
            labels: args.labels.into_iter().collect(),
            secret: args.secret,
            vhost: args.vhost,
            limit: args.timeout,
        };
        verify::verify(client, &trial).await?;
        print(&format!(
            "a TokenBucket in namespace {} was filled and deleted: the operator works\n",
            trial.namespace
        ))
    })
}

/// A client of the cluster, and the namespace that is meant when none is named.
async fn kubernetes(
    client: impl FnOnce(kube::Config) -> kube::Result<kube::Client>,
) -> anyhow::Result<(kube::Client, String)> {
    let config = kube::Config::infer().await.map_err(|error| {
        anyhow!(
            "no access to a Kubernetes cluster: set KUBECONFIG to a kubeconfig file, or run in a pod with a service \
             account ({error})"
        )
    })?;
    let config = with_proxy(config)?;
    let namespace = config.default_namespace.clone();
    let client =
        client(with_user_agent(config)).context("cannot use the Kubernetes configuration")?;
    Ok((client, namespace))
}

/// Runs the operator. The first signal drains it, the second one ends it at once.
async fn until_signalled(args: RunArgs) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen to signals")?;
    let stop = CancellationToken::new();
    let mut work = std::pin::pin!(operate(args, stop.clone()));
    tokio::select! {
        result = &mut work => return result,
        signal = signals.next() => info!(signal, "draining"),
    }
    stop.cancel();
    tokio::select! {
        result = timeout(DRAIN_WITHIN, work) => {
            result.with_context(|| format!("not drained within {} s: ending all the same", DRAIN_WITHIN.as_secs()))??;
            info!("drained");
            Ok(())
        }
        signal = signals.next() => bail!("{signal} while draining: ending at once"),
    }
}

/// Looks whether the operator could work. Everything that is wrong is told, not just the first thing.
fn validate(args: RunArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(args.log_format, Some("off"))?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let findings = runtime.block_on(async {
        secret_label(args.require_secret_label.as_deref())?;
        authorities()?;
        let (broker, _) = default_broker(&args)?;
        let (client, namespace) = kubernetes(kube::Client::try_from).await?;
        let lease_namespace = args.leader_elect_namespace.unwrap_or(namespace);
        let preflight = Preflight {
            scope: Scope {
                namespaces: args.namespaces,
                selector: args.selector,
            },
            lease_namespace: args.leader_elect.then_some(lease_namespace),
            broker,
            metrics_auth: args.metrics_auth,
            connection_name: Identity::of_this_process().connection_name(),
        };
        anyhow::Ok(preflight.check(&client).await)
    })?;
    let line = |finding: &Finding| match finding {
        Finding::Good(text) => format!("ok: {text}\n"),
        Finding::Note(text) => format!("note: {text}\n"),
        Finding::Bad(text) => format!("error: {text}\n"),
    };
    print(&findings.iter().map(line).collect::<String>())?;
    match findings
        .iter()
        .any(|finding| matches!(finding, Finding::Bad(_)))
    {
        true => Ok(ExitCode::FAILURE),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Authorities of one's own that cannot be read would be missed at the first connection, as a certificate that nobody has
/// signed.
fn authorities() -> anyhow::Result<()> {
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let name = Path::new(&path).display();
    let pem = std::fs::read(&path).with_context(|| {
        format!(
            "cannot read {name}, which SSL_CERT_FILE names (in the chart: broker.tls.caSecret): correct it, or leave it out"
        )
    })?;
    Certificates::parse(Some(&pem), None).map(drop).with_context(|| {
        format!(
            "{name}, which SSL_CERT_FILE names (in the chart: broker.tls.caSecret): write the authorities' certificates into it in PEM, \
             from -----BEGIN CERTIFICATE----- on"
        )
    })
}

/// The operator's own broker, and the file that names it.
fn default_broker(args: &RunArgs) -> anyhow::Result<(Option<Endpoint>, Option<BrokerFile>)> {
    let require_tls = args.require_tls == RequireTls::All;
    if let Some(path) = args.amqp_url_file.clone() {
        if args.amqp_url.is_some() {
            bail!(
                "--amqp-url (AMQP_URL) and --amqp-url-file (AMQP_URL_FILE) both name the operator's own broker: set one of \
                 the two"
            );
        }
        let file = BrokerFile {
            path,
            optional: args.amqp_url_file_optional,
            require_tls,
        };
        let endpoint = file.read_first();
        let endpoint = endpoint.context("--amqp-url-file (AMQP_URL_FILE) cannot be used")?;
        return Ok((endpoint, Some(file)));
    }
    let endpoint = args.amqp_url.as_deref().map(Endpoint::parse).transpose();
    let endpoint = endpoint.context("--amqp-url (AMQP_URL) is invalid")?;
    if require_tls && endpoint.as_ref().is_some_and(|it| !it.is_tls()) {
        bail!(
            "--amqp-url (AMQP_URL) names a broker without TLS, and --require-tls=all (REQUIRE_TLS) asks for it: write \
             amqps://, or --require-tls=secrets to ask for it of the brokers of spec.connection alone"
        );
    }
    Ok((endpoint, None))
}

fn secret_label(text: Option<&str>) -> anyhow::Result<Option<SecretLabel>> {
    let label = text.map(str::parse).transpose();
    label.context("--require-secret-label (REQUIRE_SECRET_LABEL) is invalid")
}

async fn operate(args: RunArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let time_zones = schedule::zones_version();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        time_zones, "token-bucket-operator"
    );
    let required_secret_label = secret_label(args.require_secret_label.as_deref())?;
    authorities()?;
    let (default_broker, broker_file) = default_broker(&args)?;
    let (own_broker, default_broker) = watch::channel(default_broker);
    let readings = Readings::new(args.ui);
    let metrics = Arc::new(Metrics::new(readings.clone(), args.bucket_metrics));
    let counted = |config| counted_client(config, metrics.clone());
    let (client, namespace) = kubernetes(counted).await?;
    let lease_namespace = args.leader_elect_namespace.unwrap_or(namespace);
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: set --listen (LISTEN) to a free address, for example 127.0.0.1:0",
            args.listen
        )
    })?;
    let page = if args.ui { ", and the page at /" } else { "" };
    info!(address = %listener.local_addr().context("cannot listen")?, "serving /livez, /readyz and /metrics{page}");
    let identity = Identity::of_this_process();
    let readiness = Readiness::default();
    let settings = Settings {
        client: client.clone(),
        scope: Scope {
            namespaces: args.namespaces,
            selector: args.selector,
        },
        default_broker,
        required_secret_label,
        identity: identity.clone(),
        lease_namespace: lease_namespace.clone(),
        status_interval: args.status_interval,
        status_writes_per_second: args.status_writes_per_second,
        secret_reread_interval: args.secret_reread_interval,
        max_brokers_per_namespace: args.max_brokers_per_namespace,
        broker_rules: BrokerRules {
            allowed_hosts: args.allowed_broker_hosts,
            require_tls: args.require_tls != RequireTls::None,
        },
        default_broker_rules: DefaultBrokerRules {
            refill_queues: args.refill_queues,
            namespaces: args.default_broker_namespaces,
            vhosts: args.default_broker_vhosts,
        },
        ceilings: Ceilings {
            max_tokens_per_bucket: args.max_tokens_per_bucket,
            max_buckets_per_namespace: args.max_buckets_per_namespace,
            min_refill_interval: args.min_refill_interval,
        },
        refill_queue_type: args.refill_queue_type.into(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
    };
    let access = args.metrics_auth.then(|| Access::new(client.clone()));
    let page = args.ui.then_some(readings);
    let candidate = Candidate::new(client, &lease_namespace, identity.holder, readiness.clone());
    let work = async {
        tokio::select! {
            listable = settings.scope.wait_until_listable(&settings.client) => listable?,
            () = stop.cancelled() => return Ok(()),
        }
        let lead = |term| {
            metrics.leading(true);
            let (work, metrics) = (controller::run(settings.clone(), term), &metrics);
            async move {
                let result = work.await;
                metrics.leading(false);
                result
            }
        };
        if args.leader_elect {
            candidate
                .lead(&stop, lead)
                .await
                .map_err(anyhow::Error::from)
        } else {
            let lease = LeaseValidity::unlimited();
            lead(Term { stop, lease })
                .await
                .map_err(anyhow::Error::from)
        }
    };
    let following = async {
        if let Some(file) = broker_file {
            file.follow(&own_broker, &metrics).await;
        }
        pending::<()>().await;
    };
    tokio::select! {
        result = work => result,
        () = following => Ok(()),
        never = admin::serve(listener, readiness.clone(), metrics.clone(), page, access) => match never {},
    }
}
