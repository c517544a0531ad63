//! The HTTP listener of operators: `/livez`, `/readyz`, `/metrics`, and the page at `/` if it is wanted.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::access::{Access, guard};
use super::exposition::{Exposition, VALIDITY};
use super::http::{self, Limits};
use super::metrics::Metrics;
use super::page;
use super::readiness::Readiness;
use super::readings::Readings;

/// Serves until the future is dropped; the page only if there is something for it to show. Probes are for everybody, the rest
/// for those whom `access` lets through, if it is restricted.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    page: Option<Readings>,
    access: Option<Access>,
) -> Infallible {
    let encoded = metrics.clone();
    let exposition = Exposition::new(move || encoded.encode(), VALIDITY);
    let mut shown = scrapes(exposition);
    if let Some(readings) = page {
        shown = shown.merge(page::router(readings, move || metrics.is_leading()));
    }
    if let Some(access) = access {
        shown = shown.route_layer(from_fn_with_state(access, guard));
    }
    let router = probes(readiness).merge(shown);
    http::serve(listener, router, Limits::default()).await
}

fn probes(readiness: Readiness) -> Router {
    let ready = move || async move {
        if readiness.is_ready() {
            (StatusCode::OK, "ok\n")
        } else {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready: the buckets have not been read yet\n",
            )
        }
    };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

fn scrapes<E>(exposition: Exposition<E>) -> Router
where
    E: Fn() -> Result<String, fmt::Error> + Send + Sync + 'static,
{
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let exposition = Arc::new(exposition);
    let scrape = move || async move {
        match exposition.text().await {
            Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(error) => failed(error),
        }
    };
    Router::new().route("/metrics", get(scrape))
}

fn failed(error: fmt::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::join_all;

    use super::*;
    use crate::ops::Reading;
    use bucket::BucketId;
    use engine::Phase;

    const NEVER: Duration = Duration::from_secs(3600);

    /// The metrics of so many buckets.
    fn of_buckets(buckets: usize) -> Metrics {
        let metrics = Metrics::new(Readings::default(), true);
        for number in 0..buckets {
            let id = BucketId::new("shop", &format!("bucket-{number}"));
            let phase = Phase::stalled("NameConflict", "mend it");
            metrics.bucket(&id, Reading::Refused(phase.into()));
        }
        metrics
    }

    #[tokio::test]
    async fn fifty_scrapes_of_ten_thousand_buckets_share_one_text() {
        let (metrics, encodings) = (of_buckets(10_000), Arc::new(AtomicUsize::new(0)));
        let counted = encodings.clone();
        let encode = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            metrics.encode()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        let router = scrapes(Exposition::new(encode, NEVER));
        tokio::spawn(http::serve(listener, router, Limits::default()));
        let scrape = async || reqwest::get(&url).await.unwrap().text().await.unwrap();
        let texts = join_all((0..50).map(|_| scrape())).await;
        assert!(texts[0].contains(r#"name="bucket-9999""#), "all are there");
        assert!(texts[0].ends_with("# EOF\n"), "and it is complete");
        assert!(texts.iter().all(|text| *text == texts[0]));
        assert_eq!(encodings.load(Ordering::Relaxed), 1);
    }
}
