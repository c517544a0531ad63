//! How the tokens and the places of a transaction are shared.

use chrono::{DateTime, Utc};

use crate::Ledger;

/// The most tokens that are of use in one transaction: beyond this a broker's memory grows and nothing becomes faster.
pub const MOST_TOKENS: u64 = 10_000;

/// Most buckets in one transaction: enough that its round trips cost little, and few enough that the next one, on
/// another channel, has some too.
pub(super) const MOST_BUCKETS: usize = 256;

/// The part of a transaction which ends somebody's refill that those whose refills go on have at most: a small bucket waits
/// for a transaction that is under way, and should not wait for another full one.
const MOST_BESIDE: u64 = 5;

/// As many buckets that get a lot take part together: enough of them that nobody waits long, and few enough that their
/// counts and ledgers cost little beside their tokens.
const MOST_SHARES: u64 = 20;

/// Room in a transaction that is being put together.
#[derive(Debug)]
pub(super) struct Room {
    tokens: u64,
    share: u64,
    buckets: usize,
}

impl Room {
    /// In a transaction that publishes at most so many tokens.
    pub(super) fn of(most_tokens: u64) -> Self {
        Self {
            tokens: most_tokens,
            share: most_tokens.div_ceil(MOST_SHARES),
            buckets: MOST_BUCKETS,
        }
    }

    /// Whether another bucket may take part.
    pub(super) fn is_left(&self) -> bool {
        self.tokens > 0 && self.buckets > 0
    }

    /// A bucket that may get so many tokens takes part.
    pub(super) fn take(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_sub(tokens.min(self.share));
        self.buckets = self.buckets.saturating_sub(1);
    }
}

/// A bucket of a transaction.
#[derive(Debug)]
pub(super) struct Account {
    /// Its ledger, which says what it is owed.
    pub(super) ledger: Box<Ledger>,
    /// Tokens in its queue.
    pub(super) tokens: u64,
    /// Tokens that it can hold.
    pub(super) maximum: u64,
}

/// Shares the tokens of a transaction among the buckets that are owed some: whoever needs little gets all of it, the
/// others equal parts of the rest, so that a big refill holds up nobody. The rest is small when somebody gets all. Answers
/// the tokens to publish for each account, `most` in all; what is published is not owed any more.
pub(super) fn share(accounts: &mut [Account], most: u64, now: DateTime<Utc>) -> Vec<u64> {
    let mut tokens = vec![0; accounts.len()];
    let mut owing: Vec<(usize, &mut Account)> = Vec::new();
    for (index, account) in accounts.iter_mut().enumerate() {
        // The maximum can have been lowered since the tokens were promised: what does not fit any more is excess.
        let room = account.maximum.saturating_sub(account.tokens);
        account.ledger.owed = account.ledger.owed.min(room);
        if account.ledger.owed > 0 {
            owing.push((index, account));
        }
    }
    owing.sort_by_key(|(_, account)| account.ledger.owed);
    let mut budget = most;
    let mut parts = owing.len() as u64;
    let mut ends = false;
    for (index, Account { ledger, .. }) in owing {
        // More buckets than tokens in a transaction: the rest come with the next one.
        let mut part = ledger.owed.min(budget.div_ceil(parts));
        if part == ledger.owed {
            ends = true;
        } else if ends {
            budget = budget.min(most.div_ceil(MOST_BESIDE));
            part = part.min(budget.div_ceil(parts));
        }
        parts -= 1;
        budget -= part;
        if part == 0 {
            continue;
        }
        ledger.owed -= part;
        if ledger.owed == 0
            && let Some(refill) = &mut ledger.last_refill
        {
            refill.completed_time = refill.completed_time.max(now);
        }
        tokens[index] = part;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, ledger};

    fn account(maximum: u64, tokens: u64, owed: u64) -> Account {
        Account {
            ledger: Box::new(Ledger { owed, ..ledger() }),
            tokens,
            maximum,
        }
    }

    fn owed(accounts: &[Account]) -> Vec<u64> {
        accounts.iter().map(|account| account.ledger.owed).collect()
    }

    #[test]
    fn many_small_refills_share_a_transaction() {
        let mut accounts = [account(5, 0, 5), account(7, 0, 7)];
        assert_eq!(share(&mut accounts, MOST_TOKENS, at(61)), [5, 7]);
        assert_eq!(owed(&accounts), [0, 0]);
    }

    #[test]
    fn a_big_refill_leaves_room_for_small_ones() {
        let mut accounts = [account(1_000_000, 0, 1_000_000), account(100, 0, 100)];
        assert_eq!(
            share(&mut accounts, MOST_TOKENS, at(61)),
            [MOST_TOKENS / MOST_BESIDE, 100],
            "the small one does not wait for a full transaction"
        );
        assert_eq!(owed(&accounts), [1_000_000 - MOST_TOKENS / MOST_BESIDE, 0]);
    }

    #[test]
    fn big_refills_that_all_go_on_share_a_full_transaction() {
        let mut accounts = [0; 4].map(|_| account(1_000_000, 0, 900_000));
        assert_eq!(
            share(&mut accounts, MOST_TOKENS, at(61)),
            [MOST_TOKENS / 4; 4]
        );
    }

    #[test]
    fn what_is_owed_beyond_a_lowered_maximum_is_excess() {
        let mut accounts = [account(10, 8, 100)];
        assert_eq!(share(&mut accounts, MOST_TOKENS, at(61)), [2]);
        assert_eq!(owed(&accounts), [0]);
    }

    #[test]
    fn more_buckets_than_tokens_in_a_transaction_all_get_theirs_in_the_end() {
        let mut accounts: Vec<_> = (0..MOST_TOKENS + 1_000).map(|_| account(3, 0, 2)).collect();
        let mut transactions = 0;
        while accounts.iter().any(|account| account.ledger.owed > 0) {
            let tokens = share(&mut accounts, MOST_TOKENS, at(61));
            assert!(tokens.iter().sum::<u64>() <= MOST_TOKENS);
            for (account, tokens) in accounts.iter_mut().zip(tokens) {
                account.tokens += tokens;
            }
            transactions += 1;
            assert!(transactions < 10, "no progress");
        }
        assert!(accounts.iter().all(|account| account.tokens == 2));
    }

    #[test]
    fn a_transaction_has_room_for_as_many_as_it_can_serve() {
        let fit = |tokens| {
            let mut room = Room::of(MOST_TOKENS);
            let mut buckets = 0;
            while room.is_left() {
                room.take(tokens);
                buckets += 1;
            }
            buckets
        };
        assert_eq!(fit(1_000_000), MOST_SHARES);
        assert_eq!(fit(100), MOST_TOKENS / 100);
        assert_eq!(fit(1), MOST_BUCKETS as u64);
    }
}
