//! Calls an API once for each line that it reads; a tower layer takes a token of a bucket before each call.
//!
//!     seq 20 | AMQP_URL=amqp://user:password@rabbitmq:5672/%2F cargo run --example worker --features tower my_api_client
#![expect(clippy::print_stdout, reason = "the calls that it makes")]

use std::process::ExitCode;
use std::{env, io};

use token_bucket_client::{Client, RateLimitLayer};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

async fn work(uri: &str, bucket: &str) -> Result<(), BoxError> {
    let client = Client::connect(uri).await?;
    let bucket = client.bucket(bucket)?;
    // Waits as long as it takes: `RateLimitLayer::shedding` answers at once that there is no token.
    let mut api = ServiceBuilder::new()
        .layer(RateLimitLayer::waiting(bucket, None))
        .service_fn(call);
    for line in io::stdin().lines() {
        api.ready().await?.call(line?).await?;
    }
    client.close().await;
    Ok(())
}

/// What the limit is for.
async fn call(line: String) -> Result<(), BoxError> {
    println!("called with {line}");
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let (Ok(uri), Some(bucket)) = (env::var("AMQP_URL"), env::args().nth(1)) else {
        eprintln!("usage: AMQP_URL=amqp://user:password@host:5672/vhost worker BUCKET");
        return ExitCode::FAILURE;
    };
    match work(&uri, &bucket).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
