//! The name conflict: several resources name the same queue as the same user of the same broker. One of them has it, the
//! others wait. Whoever the ledger names has it before everybody else; until that is known, the oldest one has. Whoever has it
//! keeps it while its resource exists and stays at that broker, be it ever so wrong otherwise: a mistake in a schedule gives
//! nothing away. No client required.
//!
//! Resources at engines of their own, which reach one broker as several users or by several names, are told apart by the
//! ledger alone (`bucket::machine`).

use std::collections::{BTreeSet, HashMap};

use super::index::Claim;
use amqp::Endpoint;
use bucket::BucketId;

/// So many of those that wait are told at once whom they wait for by now, the others in time: else the end of a crowd, one
/// after the other, would be work by its square.
const MOST_TOLD: usize = 10;

/// The resources that name one queue, by broker.
#[derive(Debug, Default)]
pub(super) struct Conflict(HashMap<Endpoint, Contenders>);

/// Those at one broker.
#[derive(Debug, Default)]
struct Contenders {
    /// Who has the queue.
    holder: Option<Claim>,
    /// Whom the ledger names: a UID.
    owner: Option<Box<str>>,
    waiting: BTreeSet<Claim>,
    /// Whose turn it is. It may not want the queue any more.
    next: Option<Claim>,
}

/// Whether a resource has its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has, and this other one has it no more.
    Holds(Option<BucketId>),
    /// This other one has.
    Waits(BucketId),
}

impl Conflict {
    /// `claim` wants the queue at `endpoint`. Answers who is to be reconciled besides: whoever follows it where it was before,
    /// and some of those that wait for it from now on.
    pub(super) fn ask(&mut self, claim: &Claim, endpoint: &Endpoint) -> (Verdict, Vec<BucketId>) {
        let mut concerned = self.leave_but(claim, true, Some(endpoint));
        let contenders = self.0.entry(endpoint.clone()).or_default();
        let had = contenders.holder.as_ref() == Some(claim);
        let verdict = contenders.ask(claim);
        if matches!(verdict, Verdict::Holds(_)) && !had {
            let waiting = contenders.waiting.iter().take(MOST_TOLD);
            concerned.extend(waiting.map(|other| other.id.clone()));
        }
        (verdict, concerned)
    }

    /// Nothing is done for `claim`, or, if it is `gone`, never again. Answers who is to be reconciled.
    pub(super) fn leave(&mut self, claim: &Claim, gone: bool) -> Vec<BucketId> {
        self.leave_but(claim, gone, None)
    }

    fn leave_but(&mut self, claim: &Claim, gone: bool, stays: Option<&Endpoint>) -> Vec<BucketId> {
        let mut concerned = Vec::new();
        let mut held = false;
        for (_, contenders) in self.0.iter_mut().filter(|(at, _)| Some(*at) != stays) {
            if contenders.leave(claim, gone) {
                held = true;
                concerned.extend(contenders.invite());
            }
        }
        if held {
            // They may have found it in the ledger.
            concerned.extend(self.holders(|other| other != claim));
        }
        self.0.retain(|_, contenders| !contenders.is_empty());
        concerned
    }

    /// The ledger at `endpoint` names the resource with this UID, which exists. Answers who is to be reconciled.
    pub(super) fn owned(&mut self, endpoint: &Endpoint, owner: &Claim) -> Vec<BucketId> {
        let Some(contenders) = self.0.get_mut(endpoint) else {
            return Vec::new();
        };
        contenders.owner = Some((*owner.uid).into());
        let waits = contenders.waiting.contains(owner);
        waits.then(|| owner.id.clone()).into_iter().collect()
    }

    /// Who has the queue at any broker.
    pub(super) fn holders(&self, is_meant: impl Fn(&Claim) -> bool) -> Vec<BucketId> {
        let holders = self.0.values().filter_map(|it| it.holder.as_ref());
        let meant = holders.filter(|claim| is_meant(claim));
        meant.map(|claim| claim.id.clone()).collect()
    }

    /// Whom `claim` waits for.
    pub(super) fn awaited_by(&self, claim: &Claim) -> Option<&Claim> {
        let contenders = self.0.values().find(|it| it.waiting.contains(claim))?;
        contenders.holder.as_ref()
    }
}

impl Contenders {
    fn ask(&mut self, claim: &Claim) -> Verdict {
        let is_owner = |claim: &Claim| self.owner.as_deref() == Some(&claim.uid);
        let holder = self.holder.as_ref().filter(|holder| *holder != claim);
        let kept =
            holder.filter(|holder| is_owner(holder) || (!is_owner(claim) && *holder < claim));
        self.next = self.next.take().filter(|next| next != claim);
        if let Some(holder) = kept {
            self.waiting.insert(claim.clone());
            return Verdict::Waits(holder.id.clone());
        }
        self.waiting.remove(claim);
        let before = self.holder.replace(claim.clone());
        let before = before.filter(|before| before != claim);
        let displaced = before.as_ref().map(|before| before.id.clone());
        self.waiting.extend(before);
        Verdict::Holds(displaced)
    }

    /// Whether it makes room for another one.
    fn leave(&mut self, claim: &Claim, gone: bool) -> bool {
        let is_owner = self.owner.as_deref() == Some(&*claim.uid);
        if is_owner && !gone {
            return false;
        }
        self.waiting.remove(claim);
        let was_next = self.next.take_if(|next| next == claim).is_some();
        let held = self.holder.take_if(|holder| holder == claim).is_some();
        if is_owner {
            self.owner = None;
        }
        held || (was_next && self.holder.is_none())
    }

    /// Whose turn it is: it need not wait any more, but it has to ask.
    fn invite(&mut self) -> Option<BucketId> {
        let owner = self
            .waiting
            .iter()
            .find(|it| self.owner.as_deref() == Some(&*it.uid));
        let next = owner.or(self.waiting.first()).cloned()?;
        self.waiting.remove(&next);
        let id = next.id.clone();
        self.next = Some(next);
        Some(id)
    }

    fn is_empty(&self) -> bool {
        self.holder.is_none() && self.waiting.is_empty() && self.next.is_none()
    }
}

#[cfg(test)]
mod tests;
