use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};

use super::*;
use crate::MockBucket;

/// Answers what it is asked.
#[derive(Clone)]
struct Echo;

impl Service<u32> for Echo {
    type Response = u32;
    type Error = Infallible;
    type Future = Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u32) -> Self::Future {
        ready(Ok(request))
    }
}

type Limited = RateLimit<MockBucket, Echo>;

async fn is_ready(service: &mut Limited) {
    let ready = poll_fn(|context| service.poll_ready(context)).await;
    ready.expect("ready");
}

async fn is_not_ready(service: &mut Limited) {
    let ready = poll_fn(|context| Poll::Ready(service.poll_ready(context).is_ready()));
    assert!(!ready.await);
}

#[tokio::test]
async fn a_waiting_service_is_ready_when_it_has_a_token() {
    let bucket = MockBucket::new("x", 1, 10).unwrap();
    let mut service = RateLimitLayer::waiting(bucket.clone(), None).layer(Echo);
    is_ready(&mut service).await;
    assert_eq!(bucket.available().await, Ok(0));
    assert_eq!(service.call(7).await.unwrap(), 7);
    is_not_ready(&mut service).await;
    bucket.refill(1);
    is_ready(&mut service).await;
    // It is asked again and takes no second one.
    is_ready(&mut service).await;
    assert_eq!(service.call(8).await.unwrap(), 8);
}

#[tokio::test]
async fn a_token_for_a_request_that_never_came_is_given_back() {
    let bucket = MockBucket::new("x", 1, 10).unwrap();
    let mut service = RateLimitLayer::waiting(bucket.clone(), None).layer(Echo);
    is_ready(&mut service).await;
    let clone = service.clone();
    drop(service);
    assert_eq!(
        bucket.available().await,
        Ok(1),
        "one token, and the clone has none"
    );
    drop(clone);
    assert_eq!(bucket.available().await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_waited_long_enough_is_told() {
    let bucket = MockBucket::new("x", 0, 10).unwrap();
    let within = Duration::from_secs(3);
    let mut service = RateLimitLayer::waiting(bucket.clone(), Some(within)).layer(Echo);
    is_ready(&mut service).await;
    let error = service.call(1).await.unwrap_err();
    assert_eq!(
        error.downcast_ref(),
        Some(&Error::Timeout {
            bucket: "x".into(),
            within
        })
    );
    bucket.refill(1);
    is_ready(&mut service).await;
    assert_eq!(service.call(2).await.unwrap(), 2);
}

#[tokio::test]
async fn a_shedding_service_is_always_ready_and_answers_that_there_is_no_token() {
    let bucket = MockBucket::new("x", 1, 10).unwrap();
    let mut service = RateLimitLayer::shedding(bucket.clone()).layer(Echo);
    is_ready(&mut service).await;
    assert_eq!(service.call(1).await.unwrap(), 1);
    is_ready(&mut service).await;
    let error = service.call(2).await.unwrap_err();
    assert_eq!(error.to_string(), "rate limit: bucket x has no token");
    assert!(error.downcast_ref::<RateLimited>().is_some());
}
