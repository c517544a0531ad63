//! A bucket that has come from another broker: its tokens are counted there, taken away, and put into the queue here.

use chrono::{DateTime, Utc};

use super::ledger::knows;
use super::{Known, Ledger, Owner};

/// What a bucket had at the broker that it has left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Tokens that were in its queue and are not any more.
    pub tokens: u64,
    /// Its ledger; None when nobody knows what was done for it there.
    pub ledger: Option<Box<Ledger>>,
}

/// What a bucket brings along from another broker. Its ledger there goes on here; that it has its tokens is known by the
/// id, so that they are added once.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// No other move has it.
    pub id: Box<str>,
    /// What it had.
    pub contents: Contents,
}

impl Moved {
    /// Whether somebody who has carried out these requests has carried out the move.
    pub(crate) fn is_among(&self, requests: &[Box<str>]) -> bool {
        knows(requests, &self.id)
    }

    /// Whether the tokens have arrived in the bucket whose ledger that is.
    #[must_use]
    pub fn has_arrived(&self, ledger: &Ledger) -> bool {
        self.is_among(&ledger.requests)
    }

    /// The ledger that the bucket begins with where it has none; its tokens come with the first transaction.
    pub(crate) fn first_ledger(&self, owner: &Owner) -> Option<Ledger> {
        let before = self.contents.ledger.as_deref()?;
        Some(Ledger {
            owner: Some(Box::new(owner.clone())),
            rival: None,
            owed: 0,
            ..before.clone()
        })
    }

    /// `ledger`, with what was done elsewhere, and owing the tokens that come along.
    #[must_use]
    pub(crate) fn arrive(&self, ledger: Ledger) -> Ledger {
        let Contents {
            tokens,
            ledger: before,
        } = &self.contents;
        let mut ledger = match before {
            None => ledger,
            Some(before) => {
                let mut ledger = ledger.with(&Known::from(before));
                ledger.since = ledger.since.max(before.since);
                ledger.issued = ledger.issued.max(before.issued);
                if completed(&ledger) < completed(before) {
                    ledger.last_refill.clone_from(&before.last_refill);
                }
                ledger.carry(before.owed);
                ledger
            }
        };
        ledger.carry(*tokens);
        ledger.remember_request(&self.id, "");
        ledger
    }
}

impl Contents {
    /// What a bucket had that has moved on before that had arrived.
    #[must_use]
    pub fn and(mut self, moved: &Moved) -> Self {
        let has_arrived = |ledger: &Ledger| moved.has_arrived(ledger);
        if !self.ledger.as_deref().is_some_and(has_arrived) {
            self.tokens = self.tokens.saturating_add(moved.contents.tokens);
            self.ledger = self.ledger.or_else(|| moved.contents.ledger.clone());
        }
        self
    }
}

fn completed(ledger: &Ledger) -> Option<DateTime<Utc>> {
    ledger.last_refill.as_ref().map(|it| it.completed_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, ledger, owner};

    fn moved(tokens: u64, ledger: Option<Ledger>) -> Moved {
        let ledger = ledger.map(Box::new);
        let contents = Contents { tokens, ledger };
        let id = "move-1".into();
        Moved { id, contents }
    }

    fn before() -> Ledger {
        Ledger {
            tick: Some(at(60)),
            since: at(30),
            issued: 50,
            owed: 3,
            ..ledger()
        }
    }

    #[test]
    fn the_ledger_goes_on_with_its_ticks_and_owes_the_tokens_once() {
        let moved = moved(7, Some(before()));
        let first = moved.first_ledger(&owner()).unwrap();
        assert_eq!(
            (first.tick, first.owed, first.issued),
            (Some(at(60)), 0, 50)
        );
        assert!(!moved.has_arrived(&first));
        let arrived = moved.arrive(first);
        assert_eq!((arrived.owed, arrived.issued), (10, 50));
        assert!(moved.has_arrived(&arrived));
    }

    #[test]
    fn an_older_ledger_at_the_broker_learns_what_was_done_elsewhere() {
        let older = Ledger {
            tick: Some(at(0)),
            issued: 20,
            ..ledger()
        };
        let arrived = moved(7, Some(before())).arrive(older.clone());
        assert_eq!(
            (arrived.tick, arrived.since, arrived.issued, arrived.owed),
            (Some(at(60)), at(30), 50, 10)
        );
        let unknown = moved(0, None).arrive(older.clone());
        assert_eq!((unknown.tick, unknown.owed), (older.tick, 0));
    }

    #[test]
    fn who_moves_on_before_the_tokens_have_arrived_takes_them_along() {
        let first = moved(7, Some(before()));
        let contents = |ledger: Ledger| Contents {
            tokens: 2,
            ledger: Some(Box::new(ledger)),
        };
        let here = first.first_ledger(&owner()).unwrap();
        assert_eq!(contents(here.clone()).and(&first).tokens, 9);
        assert_eq!(contents(first.arrive(here)).and(&first).tokens, 2);
        let nothing = Contents::default().and(&first);
        assert_eq!(nothing, first.contents);
    }
}
