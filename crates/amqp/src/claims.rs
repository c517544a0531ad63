//! Who on a connection is at which queues.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::error::BrokerError;

/// Ledgers' queues that are claimed on one connection: its own exclusive queues do not lock it out.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashSet<String>>);

/// A name that nobody else on this connection has.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    name: String,
}

impl Claims {
    /// Claims a name.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] while somebody else on this connection has it.
    pub(super) fn claim(&self, name: &str) -> Result<Claim<'_>, BrokerError> {
        let name = name.to_owned();
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.insert(name.clone()) {
            Ok(Claim { claims: self, name })
        } else {
            Err(BrokerError::InUse { queue: name })
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut taken = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.name);
    }
}
