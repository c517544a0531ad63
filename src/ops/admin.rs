//! The HTTP listener of operators: `/livez`, `/readyz`, `/metrics`, and the page at `/` if it is wanted.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::metrics::Metrics;
use super::page;
use super::readiness::Readiness;
use super::readings::Readings;

/// Serves until the future is dropped; the page only if there is something for it to show.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    page: Option<Readings>,
) -> std::io::Result<()> {
    let mut router = router(readiness, metrics.clone());
    if let Some(readings) = page {
        router = router.merge(page::router(readings, move || metrics.is_leading()));
    }
    axum::serve(listener, router).await
}

fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the buckets have not been read yet\n",
        )
    }
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
