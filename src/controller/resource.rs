//! A resource as the watch shows it.

use kube::ResourceExt;
use kube::core::DeserializeGuard;

use api::TokenBucket;
use bucket::BucketId;

/// A resource, or what could be read of one that does not parse.
pub(super) type Guarded = DeserializeGuard<TokenBucket>;

/// `namespace/name` of a resource.
pub(super) fn id_of(resource: &impl ResourceExt) -> BucketId {
    let namespace = resource.namespace().unwrap_or_default();
    BucketId::new(&namespace, &resource.name_any())
}
