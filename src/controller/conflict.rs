//! The name conflict: of the resources that name the same queue at the same broker, the oldest owns it. Client required
//! only when there are such resources and they name Secrets.

use super::index::Rivals;
use super::resolve::Resolver;
use amqp::Endpoint;
use bucket::BucketId;

/// The owner of the queue at `endpoint`, if it is one of `rivals`. A resource whose broker is not known owns nothing.
pub(super) async fn owner(
    rivals: &Rivals,
    endpoint: &Endpoint,
    resolver: &Resolver,
) -> Option<BucketId> {
    for (id, connection) in &rivals.better {
        let at = resolver
            .resolve(id.namespace(), connection.as_deref())
            .await;
        if at.is_ok_and(|at| at.is_same_place(endpoint)) {
            return Some(id.clone());
        }
    }
    None
}
