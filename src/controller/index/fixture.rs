//! Claims for unit tests.

use std::sync::Arc;

use chrono::DateTime;

use super::Claim;
use bucket::BucketId;

/// The claim of the resource `shop/<number>` with the UID `<number>`, created at that second.
pub(in crate::controller) fn claim(number: u32) -> Claim {
    let name: Arc<str> = number.to_string().into();
    Claim {
        created: DateTime::from_timestamp(number.into(), 0).unwrap(),
        id: BucketId::new("shop", &name),
        uid: name,
    }
}
