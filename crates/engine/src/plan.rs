//! What one transaction does: the requests that it carries out, the tokens that it publishes. Pure; the worker counts
//! before and commits afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::worker::MOST_REQUESTS;
use amqp::Delivery;
use bucket::{Bucket, BucketId, Cause, Ledger, Refusal, Trigger, accept};

/// Most tokens that one transaction publishes: beyond this a broker's memory grows and nothing becomes faster.
pub(super) const MOST_TOKENS: u64 = 10_000;

/// Most tokens that a transaction which ends somebody's refill has for those whose refills go on: a small bucket waits for
/// a transaction that is under way, and should not wait for another full one.
const MOST_BESIDE: u64 = 2_000;

/// A bucket that is owed more than this may take part with others that are: a transaction is shared by enough of them
/// that nobody waits long, and by few enough that their counts and ledgers cost little beside their tokens.
const SHARE: u64 = 500;

/// How many of those that wait, each a bucket and the tokens that it may get, take part in the next transaction: as many
/// as it can give all of their tokens, or their share. A bucket that waits more than once needs room once.
pub(super) fn turns<'a>(waiting: impl IntoIterator<Item = (&'a BucketId, u64)>) -> usize {
    let mut sum = 0;
    let mut met = HashSet::new();
    let fits = |&(id, tokens): &(&'a BucketId, u64)| {
        let room = sum < MOST_TOKENS;
        if met.insert(id) {
            sum += tokens.min(SHARE);
        }
        room
    };
    let most = waiting.into_iter().take(MOST_REQUESTS.into());
    most.take_while(fits).count()
}

/// A request that waits for its turn.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) bucket: BucketId,
    pub(super) cause: Cause,
    /// The message that asks; None when it did not come through the refill queue.
    pub(super) delivery: Option<Delivery>,
}

/// A bucket that takes part in a transaction.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) bucket: Arc<Bucket>,
    pub(super) ledger: Ledger,
    /// Tokens in its queue, or the most that can be there when no request of the bucket waits.
    pub(super) tokens: u64,
}

/// What to commit, and what is true once it is committed.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Tokens to publish.
    pub(super) tokens: Vec<(BucketId, u64)>,
    /// Ledgers that change.
    pub(super) ledgers: HashMap<BucketId, Ledger>,
    /// Buckets that get tokens and are owed more, and the most tokens that they hold then. With what they are owed that
    /// is not above their maximum.
    pub(super) going_on: HashMap<BucketId, u64>,
    /// Deliveries to acknowledge.
    pub(super) acks: Vec<u64>,
    /// Refills to tell about.
    pub(super) accepted: Vec<Accepted>,
    /// Requests that add nothing, and why.
    pub(super) refused: Vec<(BucketId, Refusal)>,
}

/// A refill that was accepted.
#[derive(Debug, PartialEq)]
pub(super) struct Accepted {
    pub(super) bucket: BucketId,
    pub(super) trigger: Trigger,
    pub(super) added: u64,
    pub(super) tick: Option<DateTime<Utc>>,
}

/// Plans one transaction for `accounts`, which `asked` must not go beyond.
pub(super) fn plan(
    accounts: HashMap<BucketId, Account>,
    asked: Vec<Asked>,
    now: DateTime<Utc>,
) -> Plan {
    let mut plan = Plan::default();
    let mut ledgers: HashMap<&BucketId, Ledger> = accounts
        .iter()
        .map(|(id, account)| (id, account.ledger.clone()))
        .collect();
    for Asked {
        bucket: id,
        cause,
        delivery,
    } in asked
    {
        let (Some(account), Some(ledger)) = (accounts.get(&id), ledgers.get_mut(&id)) else {
            continue;
        };
        plan.acks.extend(delivery.map(|delivery| delivery.tag));
        match accept(&cause, &account.bucket, ledger, account.tokens, now) {
            Ok(added) => {
                let (trigger, tick) = match cause {
                    Cause::Tick { tick, .. } => (Trigger::Schedule, Some(tick)),
                    Cause::Annotation(_) => (Trigger::Manual, None),
                    Cause::Request(_) => (Trigger::Request, None),
                };
                plan.accepted.push(Accepted {
                    bucket: id,
                    trigger,
                    added,
                    tick,
                });
            }
            Err(refusal) => plan.refused.push((id, refusal)),
        }
    }
    plan.tokens = publish(&accounts, &mut ledgers, now);
    let going_on = |(id, part): &(BucketId, u64)| {
        let owes = ledgers.get(id).is_some_and(|ledger| ledger.owed > 0);
        let account = accounts.get(id).filter(|_| owes)?;
        Some((id.clone(), account.tokens + part))
    };
    plan.going_on = plan.tokens.iter().filter_map(going_on).collect();
    plan.ledgers = ledgers
        .into_iter()
        .filter(|(id, ledger)| {
            accounts
                .get(*id)
                .is_some_and(|account| account.ledger != *ledger)
        })
        .map(|(id, ledger)| (id.clone(), ledger))
        .collect();
    plan
}

/// Shares the tokens of a transaction among the buckets that are owed some: whoever needs little gets all of it, the
/// others equal parts of the rest, so that a big refill holds up nobody. The rest is small when somebody gets all.
fn publish(
    accounts: &HashMap<BucketId, Account>,
    ledgers: &mut HashMap<&BucketId, Ledger>,
    now: DateTime<Utc>,
) -> Vec<(BucketId, u64)> {
    let mut owing: Vec<(&BucketId, &mut Ledger)> = Vec::new();
    for (id, ledger) in ledgers.iter_mut() {
        let Some(account) = accounts.get(*id) else {
            continue;
        };
        // The maximum can have been lowered since the tokens were promised: what does not fit any more is excess.
        ledger.owed = ledger
            .owed
            .min(account.bucket.maximum.saturating_sub(account.tokens));
        if ledger.owed > 0 {
            owing.push((id, ledger));
        }
    }
    owing.sort_by_key(|(_, ledger)| ledger.owed);
    let mut budget = MOST_TOKENS;
    let mut parts = owing.len() as u64;
    let mut ends = false;
    let mut tokens = Vec::with_capacity(owing.len());
    for (id, ledger) in owing {
        // More buckets than tokens in a transaction: the rest come with the next one.
        let mut part = ledger.owed.min(budget.div_ceil(parts));
        if part == ledger.owed {
            ends = true;
        } else if ends {
            budget = budget.min(MOST_BESIDE);
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
        tokens.push((id.clone(), part));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;
    use bucket::fixture::{at, bucket, ledger};

    fn id(name: &str) -> BucketId {
        BucketId::new("shop", name)
    }

    fn account(name: &str, maximum: u64, tokens: u64, owed: u64) -> (BucketId, Account) {
        let bucket = Bucket {
            id: id(name),
            amount: maximum,
            maximum,
            ..bucket()
        };
        (
            id(name),
            Account {
                bucket: Arc::new(bucket),
                ledger: Ledger { owed, ..ledger() },
                tokens,
            },
        )
    }

    fn asked(name: &str, cause: Cause) -> Asked {
        Asked {
            bucket: id(name),
            cause,
            delivery: None,
        }
    }

    fn tick(second: i64) -> Cause {
        Cause::Tick {
            uid: "uid-1".into(),
            tick: at(second),
            since: at(second - 60),
            ticks: 1,
        }
    }

    fn published(plan: &Plan) -> Vec<(&str, u64)> {
        let mut tokens: Vec<_> = plan
            .tokens
            .iter()
            .map(|(id, tokens)| (id.name(), *tokens))
            .collect();
        tokens.sort_unstable();
        tokens
    }

    #[test]
    fn many_small_refills_share_a_transaction() {
        let accounts = [account("a", 5, 0, 0), account("b", 7, 0, 0)].into();
        let plan = plan(
            accounts,
            vec![asked("a", tick(60)), asked("b", tick(60))],
            at(61),
        );
        assert_eq!(published(&plan), [("a", 5), ("b", 7)]);
        assert!(
            plan.ledgers
                .values()
                .all(|ledger| ledger.owed == 0 && ledger.tick == Some(at(60)))
        );
        assert_eq!(plan.ledgers.len(), 2);
    }

    #[test]
    fn two_requests_for_one_bucket_are_planned_one_after_the_other() {
        let accounts = [account("a", 25, 10, 0)].into();
        let plan = plan(
            accounts,
            vec![
                asked("a", tick(60)),
                asked("a", tick(60)),
                asked("a", tick(120)),
            ],
            at(121),
        );
        let added: Vec<_> = plan
            .accepted
            .iter()
            .map(|accepted| accepted.added)
            .collect();
        assert_eq!(added, [15, 0]);
        assert_eq!(plan.refused, [(id("a"), Refusal::Duplicate)]);
        assert_eq!(published(&plan), [("a", 15)]);
    }

    #[test]
    fn a_big_refill_leaves_room_for_small_ones() {
        let accounts = [account("big", 1_000_000, 0, 0), account("small", 100, 0, 0)].into();
        let plan = plan(
            accounts,
            vec![asked("big", tick(60)), asked("small", tick(60))],
            at(61),
        );
        assert_eq!(
            published(&plan),
            [("big", MOST_BESIDE), ("small", 100)],
            "the small one does not wait for a full transaction"
        );
        assert_eq!(plan.ledgers[&id("big")].owed, 1_000_000 - MOST_BESIDE);
    }

    #[test]
    fn big_refills_that_all_go_on_share_a_full_transaction() {
        let accounts = ["a", "b", "c", "d"].map(|name| account(name, 1_000_000, 0, 900_000));
        let plan = plan(accounts.into(), Vec::new(), at(61));
        let parts: Vec<_> = plan.tokens.iter().map(|(_, tokens)| *tokens).collect();
        assert_eq!(parts, [MOST_TOKENS / 4; 4]);
    }

    #[test]
    fn a_transaction_has_room_for_as_many_as_it_can_serve() {
        let turns_of = |waiting: &[u64]| {
            let ids: Vec<_> = (0..waiting.len()).map(|n| id(&n.to_string())).collect();
            turns(ids.iter().zip(waiting.iter().copied()))
        };
        assert_eq!(turns_of(&[1_000_000, 3]), 2);
        assert_eq!(
            turns_of(&[MOST_TOKENS; 100]),
            (MOST_TOKENS / SHARE) as usize
        );
        assert_eq!(turns_of(&[100; 1_000]), (MOST_TOKENS / 100) as usize);
        assert_eq!(turns_of(&[1; 10_000]), usize::from(MOST_REQUESTS));
        assert_eq!(turns_of(&[]), 0);
    }

    #[test]
    fn many_requests_for_one_bucket_take_the_room_of_one() {
        let (a, b) = (id("a"), id("b"));
        let waiting = iter::repeat_n((&a, MOST_TOKENS), 1_000).chain([(&b, MOST_TOKENS)]);
        assert_eq!(turns(waiting), 1_001);
    }

    #[test]
    fn an_owed_rest_goes_on_without_a_request() {
        let plan = plan(
            [account("a", 100_000, 20_000, 15_000)].into(),
            Vec::new(),
            at(61),
        );
        assert_eq!(published(&plan), [("a", MOST_TOKENS)]);
        assert_eq!(plan.ledgers[&id("a")].owed, 5_000);
        assert_eq!(plan.going_on, [(id("a"), 20_000 + MOST_TOKENS)].into());
    }

    #[test]
    fn a_big_refill_goes_on_to_its_last_token_without_a_count() {
        let (a, mut account) = account("a", 100_000, 20_000, 75_000);
        let mut transactions = 0;
        loop {
            let accounts = [(a.clone(), account.clone())].into();
            let mut plan = plan(accounts, Vec::new(), at(61));
            transactions += 1;
            account.ledger = plan.ledgers.remove(&a).unwrap();
            match plan.going_on.get(&a) {
                Some(most) => account.tokens = *most,
                None => break,
            }
        }
        assert_eq!((account.ledger.owed, transactions), (0, 8));
        assert_eq!(account.tokens, 90_000);
    }

    #[test]
    fn what_is_owed_beyond_a_lowered_maximum_is_excess() {
        let plan = plan([account("a", 10, 8, 100)].into(), Vec::new(), at(61));
        assert_eq!(published(&plan), [("a", 2)]);
        assert_eq!(plan.ledgers[&id("a")].owed, 0);
    }

    #[test]
    fn more_buckets_than_tokens_in_a_transaction_all_get_theirs_in_the_end() {
        let buckets = MOST_TOKENS + 1_000;
        let mut accounts: HashMap<_, _> = (0..buckets)
            .map(|number| account(&format!("b{number}"), 3, 0, 2))
            .collect();
        let mut transactions = 0;
        while accounts.values().any(|account| account.ledger.owed > 0) {
            let plan = plan(accounts.clone(), Vec::new(), at(61));
            assert!(plan.tokens.iter().map(|(_, tokens)| tokens).sum::<u64>() <= MOST_TOKENS);
            for (id, ledger) in plan.ledgers {
                accounts.get_mut(&id).unwrap().ledger = ledger;
            }
            for (id, tokens) in plan.tokens {
                accounts.get_mut(&id).unwrap().tokens += tokens;
            }
            transactions += 1;
            assert!(transactions < 10, "no progress");
        }
        assert!(accounts.values().all(|account| account.tokens == 2));
    }

    #[test]
    fn a_refused_request_writes_no_ledger() {
        let (id, mut account) = account("a", 5, 0, 0);
        account.ledger.tick = Some(at(60));
        let plan = plan([(id, account)].into(), vec![asked("a", tick(60))], at(61));
        assert!(plan.ledgers.is_empty() && plan.tokens.is_empty());
    }
}
