//! Requests to the Kubernetes API: they say who sends them, and are counted.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::header::{HeaderValue, USER_AGENT};
use axum::http::{Method, Request, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::Service;
use tower::layer::layer_fn;

use super::metrics::Metrics;

/// The configuration of a client that names this program and its version as its user agent, for the audit log of the API
/// server.
#[must_use]
pub fn with_user_agent(mut config: Config) -> Config {
    let name = HeaderValue::from_static(concat!(
        env!("CARGO_PKG_NAME"),
        "/",
        env!("CARGO_PKG_VERSION")
    ));
    config.headers.push((USER_AGENT, name));
    config
}

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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn requests_say_who_sends_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = with_user_agent(Config::new(url.parse().unwrap()));
        let client = Client::try_from(config).unwrap();
        let asked = tokio::spawn(async move { client.apiserver_version().await });
        let (stream, _) = listener.accept().await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let expected = format!(
            "user-agent: token-bucket-operator/{}",
            env!("CARGO_PKG_VERSION")
        );
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            assert!(!line.is_empty(), "the head has no user agent");
            if line.eq_ignore_ascii_case(&expected) {
                break;
            }
        }
        asked.abort();
    }
}
