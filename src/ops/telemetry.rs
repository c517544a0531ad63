//! Logs: one line for each thing that happened, as text or as JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Other people's crates report through ours what matters; their own lines are for debugging. A name in a filter stands for
/// all that begin with it: `token_bucket` for every crate of this program.
const DEFAULT_FILTER: &str = "warn,token_bucket=info";
/// lapin calls every closed channel an error, but a 404 is an answer here. Who wants its lines names it in `RUST_LOG`.
const IN_FRONT: &str = "lapin=off,";

/// An invalid `RUST_LOG`.
#[derive(Debug, thiserror::Error)]
#[error(
    "RUST_LOG is invalid: {0}; write for example RUST_LOG=info or RUST_LOG=warn,token_bucket=debug"
)]
pub struct InvalidFilter(String);

/// Sends logs to standard error from now on. `filter` is the value of `RUST_LOG`.
///
/// # Errors
/// When the filter does not parse.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), InvalidFilter> {
    let filter = parsed(filter)?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .init(),
    }
    Ok(())
}

fn parsed(filter: Option<&str>) -> Result<EnvFilter, InvalidFilter> {
    let wanted = filter
        .filter(|filter| !filter.is_empty())
        .unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(format!("{IN_FRONT}{wanted}"))
        .map_err(|error| InvalidFilter(error.to_string()))
}

#[cfg(test)]
mod tests {
    use tracing::Level;
    use tracing::subscriber::with_default;

    use super::*;

    #[test]
    fn every_crate_of_the_program_says_by_itself_what_happened_and_others_only_what_is_wrong() {
        let filter = parsed(None).unwrap();
        let lines = tracing_subscriber::fmt().with_env_filter(filter).finish();
        with_default(lines, || {
            assert!(tracing::enabled!(Level::INFO));
            assert!(tracing::enabled!(target: "token_bucket_engine::worker", Level::INFO));
            assert!(tracing::enabled!(target: "token_bucket_amqp", Level::INFO));
            assert!(!tracing::enabled!(target: "token_bucket_engine", Level::DEBUG));
            assert!(!tracing::enabled!(target: "kube_runtime", Level::INFO));
            assert!(tracing::enabled!(target: "kube_runtime", Level::WARN));
            assert!(!tracing::enabled!(target: "lapin", Level::ERROR));
        });
    }
}
