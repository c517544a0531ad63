//! Carries out what waits, one transaction at a time: requests, owed tokens, unwritten ledgers, moved messages.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, SecondsFormat, Utc};
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;
use tracing::{debug, info};

use super::ahead::{Ahead, Count};
use super::ensure::QueueState;
use super::outcome::{Observed, Outcome};
use super::plan::{Accepted, Account, Asked, MOST_TOKENS, Plan, plan, turns};
use super::slot::{Slot, Stage};
use super::worker::{MOST_REQUESTS, Worker};
use amqp::{BrokerError, RefillChannel, Transaction};
use bucket::{BucketId, Ledger, Refusal};

impl Worker {
    /// One transaction, or one step of mending a queue. Nothing when nothing waits.
    pub(super) async fn step(&mut self, channel: &mut RefillChannel) -> Result<(), BrokerError> {
        self.adjust_one(channel).await?;
        let mut transaction = Transaction::default();
        self.intake.fill(&mut transaction);
        let unwritten = self.unwritten();
        for id in &unwritten {
            if let Some(slot) = self.slots.get(id)
                && let Some(ledger) = &slot.ledger
            {
                transaction
                    .ledgers
                    .push(self.context.signed(&slot.bucket, ledger));
            }
        }
        let plan = self.plan().await?;
        self.write_down(&plan, &mut transaction);
        if transaction.is_empty() {
            self.tell(&plan);
            return Ok(());
        }
        // What has come since can be counted meanwhile.
        self.sort(channel.ready(MOST_REQUESTS.into())?);
        let (committed, ahead) = tokio::join!(channel.commit(transaction), self.count_ahead(&plan));
        committed?;
        self.ahead = ahead;
        unwritten.iter().for_each(|id| self.written(id));
        self.tell(&plan);
        self.install(plan);
        Ok(())
    }

    fn unwritten(&self) -> Vec<BucketId> {
        let unwritten = |id: &&BucketId| self.slots.get(*id).is_some_and(|slot| slot.unwritten);
        self.work
            .iter()
            .filter(unwritten)
            .take(MOST_TOKENS as usize)
            .cloned()
            .collect()
    }

    /// How many of the requests are carried out next, and the buckets that take part then, when `planned` is committed.
    fn next_turn(&self, planned: &HashMap<BucketId, Ledger>) -> (usize, HashSet<BucketId>) {
        let amount = |asked: &Asked| {
            let slot = self.slots.get(&asked.bucket);
            slot.map_or(0, |slot| slot.bucket.amount)
        };
        let requests = turns(
            self.asked
                .iter()
                .map(|asked| (&asked.bucket, amount(asked))),
        );
        let owed = |id| {
            let ready = |slot: &&Slot| matches!(slot.stage, Stage::Ready { .. });
            let slot = self.slots.get(id).map(Box::as_ref).filter(ready)?;
            let ledger = planned.get(id).or(slot.ledger.as_ref())?;
            (ledger.owed > 0).then_some((ledger.owed, id))
        };
        let working = self.work.iter().chain(planned.keys());
        let mut owing: Vec<_> = working.filter_map(owed).collect();
        owing.sort_unstable();
        owing.dedup();
        owing.truncate(turns(owing.iter().map(|(owed, id)| (*id, *owed))));
        let asked = self.asked.iter().take(requests).map(|asked| &asked.bucket);
        let buckets = asked.chain(owing.into_iter().map(|(_, id)| id));
        (requests, buckets.cloned().collect())
    }

    /// Counts for the transaction after the one that `plan` is for.
    async fn count_ahead(&self, plan: &Plan) -> Ahead {
        let (requests, mut ids) = self.next_turn(&plan.ledgers);
        // A request is carried out on top of what is being added now, which has to be counted afterwards.
        let filled: HashSet<_> = plan.tokens.iter().map(|(id, _)| id).collect();
        for asked in self.asked.iter().take(requests) {
            if filled.contains(&asked.bucket) {
                ids.remove(&asked.bucket);
            }
        }
        let made = Instant::now();
        // A count that fails is made again when its turn comes, and its error told then.
        let counts = self.count(ids).await.unwrap_or_default();
        let count = |(id, tokens): (BucketId, Option<u64>)| {
            let count = match plan.going_on.get(&id) {
                Some(most) => Count::AtMost(tokens.map(|_| *most)),
                None => Count::Exact(tokens),
            };
            (id, count)
        };
        Ahead::new(made, counts.into_iter().map(count).collect())
    }

    /// Counts the buckets whose turn it is, unless that was done ahead, and plans for them.
    async fn plan(&mut self) -> Result<Plan, BrokerError> {
        let (requests, mut ids) = self.next_turn(&HashMap::new());
        let mut asked: Vec<Asked> = self.asked.drain(..requests).collect();
        let of_requests = asked.iter().map(|asked| &asked.bucket).collect();
        let mut counts = self.ahead.take(&of_requests, Instant::now());
        ids.retain(|id| !counts.contains_key(id));
        counts.extend(self.count(ids).await?);
        let mut accounts = HashMap::with_capacity(counts.len());
        for (id, count) in counts {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let Stage::Ready { limit } = slot.stage else {
                continue;
            };
            match (count, &slot.ledger) {
                (Some(tokens), Some(ledger))
                    if tokens > 0 || limit == Some(slot.bucket.maximum) =>
                {
                    let (bucket, ledger) = (slot.bucket.clone(), ledger.clone());
                    accounts.insert(
                        id,
                        Account {
                            bucket,
                            ledger,
                            tokens,
                        },
                    );
                }
                // Empty at last: now it can get the limit that it should have.
                (Some(tokens), _) => {
                    slot.stage = Stage::Adjusting(QueueState { tokens, limit });
                    slot.held
                        .extend(asked.extract_if(.., |asked| asked.bucket == id));
                    self.hold(&id);
                    self.work.insert(id);
                }
                (None, _) => {
                    // They came before those that still wait.
                    slot.held
                        .extend(asked.extract_if(.., |asked| asked.bucket == id));
                    self.look(&id);
                }
            }
        }
        Ok(plan(accounts, asked, Utc::now()))
    }

    async fn count(
        &self,
        ids: HashSet<BucketId>,
    ) -> Result<Vec<(BucketId, Option<u64>)>, BrokerError> {
        let (ids, queues): (Vec<_>, Vec<_>) = ids
            .into_iter()
            .filter_map(|id| Some((id.clone(), self.slots.get(&id)?.bucket.queue())))
            .unzip();
        let counts = self.context.broker.counts(&queues);
        futures::stream::iter(ids)
            .zip(counts)
            .map(|(id, count)| Ok((id, count?)))
            .try_collect()
            .await
    }

    fn write_down(&self, plan: &Plan, transaction: &mut Transaction) {
        let queues = |id: &BucketId| self.slots.get(id).map(|slot| &slot.bucket);
        transaction.acks.extend(&plan.acks);
        for (id, tokens) in &plan.tokens {
            transaction
                .tokens
                .extend(queues(id).map(|bucket| (bucket.queue(), *tokens)));
        }
        for (id, ledger) in &plan.ledgers {
            transaction
                .ledgers
                .extend(queues(id).map(|bucket| self.context.signed(bucket, ledger)));
        }
    }

    /// What was planned is committed.
    fn install(&mut self, plan: Plan) {
        for (id, ledger) in plan.ledgers {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            self.context.board.update(&id, |state| state.show(&ledger));
            self.context.observer.soon(id.clone());
            let (owes, filling) = (ledger.owed > 0, slot.filling);
            if !owes && self.work.remove(&id) {
                let added = ledger.last_refill.as_ref().map(|refill| refill.added);
                info!(bucket = %id, added, "refilled to the last token");
            }
            slot.ledger = Some(ledger);
            if owes {
                self.work.insert(id);
            } else if filling {
                self.look_at_queue(&id);
            }
        }
    }

    fn tell(&self, plan: &Plan) {
        let now = Utc::now();
        for Accepted {
            bucket,
            trigger,
            added,
            tick,
        } in &plan.accepted
        {
            let lag = tick.and_then(|tick| (now - tick).to_std().ok());
            let due = tick.map(|tick| tick.to_rfc3339_opts(SecondsFormat::Secs, true));
            let owed = plan.ledgers.get(bucket).map_or(0, |ledger| ledger.owed);
            if *added == 0 {
                debug!(%bucket, ?trigger, due, "full already");
            } else if owed > 0 {
                info!(%bucket, ?trigger, added, due, owed, "refill under way");
            } else {
                info!(%bucket, ?trigger, added, due, "refilled");
            }
            let (bucket, trigger, added) = (bucket.clone(), *trigger, *added);
            self.context.board.tell(Outcome::Refilled {
                bucket,
                trigger,
                added,
                lag,
            });
        }
        for (bucket, refusal) in &plan.refused {
            self.tell_refused(bucket, *refusal);
        }
    }

    pub(super) fn tell_refused(&self, bucket: &BucketId, refusal: Refusal) {
        debug!(%bucket, %refusal, "refill request adds nothing");
        self.context.board.tell(Outcome::Dropped {
            bucket: Some(bucket.clone()),
            reason: refusal.kind(),
            parked: false,
        });
    }

    /// Shows a count that was made on the way.
    pub(super) fn counted(&self, id: &BucketId, tokens: u64, at: DateTime<Utc>) {
        self.context
            .board
            .update(id, |state| state.observed = Some(Observed { tokens, at }));
    }
}
