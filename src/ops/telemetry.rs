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

/// Other crates report through us what matters; their own lines are for debugging.
const DEFAULT_FILTER: &str = "warn,token_bucket_operator=info";
/// lapin calls every closed channel an error, but a 404 is an answer here. Who wants its lines names it in `RUST_LOG`.
const IN_FRONT: &str = "lapin=off,";

/// An invalid `RUST_LOG`.
#[derive(Debug, thiserror::Error)]
#[error(
    "RUST_LOG is invalid: {0}; write for example RUST_LOG=info or RUST_LOG=warn,token_bucket_operator=debug"
)]
pub struct InvalidFilter(String);

/// Sends logs to standard error from now on. `filter` is the value of `RUST_LOG`.
///
/// # Errors
/// When the filter does not parse.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), InvalidFilter> {
    let wanted = filter
        .filter(|filter| !filter.is_empty())
        .unwrap_or(DEFAULT_FILTER);
    let filter = EnvFilter::try_new(format!("{IN_FRONT}{wanted}"))
        .map_err(|error| InvalidFilter(error.to_string()))?;
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
