//! Who on a connection is at which queues.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::error::BrokerError;

/// Names that are claimed on one connection: its own exclusive queues do not lock it out.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashSet<String>>);

/// Names that nobody else on this connection has.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    names: Vec<String>,
}

impl Claims {
    /// Claims all of the names.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] while somebody else on this connection has one of them.
    pub(super) fn claim(&self, names: &[&str]) -> Result<Claim<'_>, BrokerError> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = names.iter().find(|name| taken.contains(**name)) {
            let queue = (*queue).to_owned();
            return Err(BrokerError::InUse { queue });
        }
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        taken.extend(names.iter().cloned());
        Ok(Claim {
            claims: self,
            names,
        })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let names = &self.claims.0;
        let mut taken = names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            taken.remove(name);
        }
    }
}
