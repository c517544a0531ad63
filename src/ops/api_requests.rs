//! Counts requests to the Kubernetes API, in the client.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Method, Request, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::Service;
use tower::layer::layer_fn;

use super::Metrics;

/// A client whose requests are counted in `metrics`.
///
/// # Errors
/// When the configuration cannot be used, for example because of its certificates.
pub fn counted_client(config: Config, metrics: Arc<Metrics>) -> kube::Result<Client> {
    let counted = layer_fn(|inner| Counted {
        inner,
        metrics: metrics.clone(),
    });
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&counted)
        .build())
}

struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (method, metrics) = (word(request.method()), self.metrics.clone());
        self.inner
            .call(request)
            .inspect(move |answer| {
                let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
                metrics.api_request(method, code);
            })
            .boxed()
    }
}

fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
