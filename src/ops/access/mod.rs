//! Who may see the metrics and the page, where that is restricted: the API server knows the token, and RBAC says whether its
//! owner may get that path. Without an answer nobody may.

mod verdicts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::api_error::message;
use verdicts::{Key, Verdict, Verdicts, key};

/// Reviews at the same time: a flood of tokens is no flood for the API server.
const REVIEWS: usize = 4;
/// An answer may take so long, with the wait for those before it.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Lets through who may see what is behind it.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    client: Client,
    verdicts: Mutex<Verdicts>,
    reviews: Semaphore,
    failing: AtomicBool,
}

impl Access {
    /// It asks with this client, which needs `create` on `tokenreviews` and `subjectaccessreviews`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Inner {
            client,
            verdicts: Mutex::default(),
            reviews: Semaphore::new(REVIEWS),
            failing: AtomicBool::new(false),
        }))
    }

    async fn verdict(&self, token: &str, path: &str) -> Option<Verdict> {
        let key = key(token, path);
        if let Some(known) = self.known(&key) {
            return Some(known);
        }
        let answer = timeout(REVIEW_TIMEOUT, self.review(&key, token, path)).await;
        let answer = answer.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        let failed = answer.is_err();
        let failed_before = self.0.failing.swap(failed, Ordering::Relaxed);
        match answer {
            Ok(verdict) => {
                if failed_before {
                    info!("the API server says again who may see the metrics");
                }
                Some(verdict)
            }
            Err(reason) => {
                // Once: whoever asks again and again shall not fill the log.
                if !failed_before {
                    warn!(
                        reason,
                        "nobody can see the metrics: the API server does not say who may. The operator needs create on \
                         tokenreviews and subjectaccessreviews (metrics.auth.enabled in the chart)"
                    );
                }
                None
            }
        }
    }

    async fn review(&self, key: &Key, token: &str, path: &str) -> Result<Verdict, String> {
        let _turn = self.0.reviews.acquire().await;
        // Somebody with the same token may have been before.
        if let Some(known) = self.known(key) {
            return Ok(known);
        }
        let verdict = match self.owner(token).await? {
            Some(user) => self.of(user, path).await?,
            None => Verdict::Unknown,
        };
        self.verdicts().put(*key, verdict.clone(), Instant::now());
        Ok(verdict)
    }

    async fn owner(&self, token: &str) -> Result<Option<UserInfo>, String> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.0.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| message(&error))?.status;
        let status = status.unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated == Some(true)))
    }

    async fn of(&self, user: UserInfo, path: &str) -> Result<Verdict, String> {
        let name = user.username.clone().unwrap_or_default();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some("get".to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.0.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| message(&error))?.status;
        Ok(match status.is_some_and(|status| status.allowed) {
            true => Verdict::Allowed,
            false => Verdict::Forbidden(name),
        })
    }

    fn known(&self, key: &Key) -> Option<Verdict> {
        self.verdicts().get(key, Instant::now())
    }

    fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        self.0
            .verdicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers itself unless the request may pass.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let Some(token) = bearer(request.headers()) else {
        return unauthorized(format!(
            "{path} needs a token of Kubernetes, in a header Authorization: Bearer TOKEN. One of a service account: \
             kubectl create token NAME\n"
        ));
    };
    match access.verdict(token, &path).await {
        Some(Verdict::Allowed) => next.run(request).await,
        Some(Verdict::Unknown) => unauthorized(
            "the API server does not know this token: it has expired, or is of another cluster or for another audience\n"
                .to_owned(),
        ),
        Some(Verdict::Forbidden(user)) => {
            let text = format!(
                "{user} may not get {path}: bind it to a ClusterRole with nonResourceURLs: [\"{path}\"], verbs: [get]; \
                 the chart has one, whose name ends with -metrics-reader\n"
            );
            (StatusCode::FORBIDDEN, text).into_response()
        }
        None => {
            let text = format!(
                "the API server does not say whether you may get {path}: the operator's log says why\n"
            );
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

fn unauthorized(text: String) -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, text).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_told_from_other_headers() {
        let of = |value: &str| {
            let value = value.parse().unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(of("bearer  abc "), Some("abc".to_owned()));
        for other in ["", "Bearer", "Bearer ", "Basic YTpi", "abc"] {
            assert_eq!(of(other), None, "{other:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
