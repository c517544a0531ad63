//! What the engine tells: one direction, to whoever writes statuses and counts metrics.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Machine;
use super::effect::Effect;
use super::failure::{Class, Failure};
use crate::{BucketId, Ledger, MissedRefills, Refill, Trigger};

/// Something that happened at the broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The connection came up, or is away.
    Connection(ConnectionState),
    /// A bucket's state changed or was counted anew.
    Bucket(BucketId, Arc<BucketState>),
    /// A refill was committed.
    Refilled {
        /// The bucket.
        bucket: BucketId,
        /// What asked for it.
        trigger: Trigger,
        /// Tokens added; 0 when the bucket was full.
        added: u64,
        /// The tick, for scheduled refills.
        tick: Option<DateTime<Utc>>,
        /// From due to committed, for scheduled refills.
        lag: Option<Duration>,
        /// Tokens that are to come with the next transactions.
        owed: u64,
    },
    /// A refill that takes several transactions is complete.
    Completed {
        /// The bucket.
        bucket: BucketId,
        /// Tokens that it added.
        added: u64,
    },
    /// Ticks that were missed are not carried out.
    Skipped {
        /// By this policy, or because they are older than the deadline.
        policy: MissedRefills,
        /// How many.
        ticks: u64,
    },
    /// A bucket's queue was gone; it is declared again.
    QueueMissing(BucketId),
    /// Somebody had declared a bucket's queue with other arguments; it was empty, and is declared anew.
    QueueReplaced {
        /// The bucket.
        bucket: BucketId,
        /// What differed, in the broker's own words.
        message: Box<str>,
    },
    /// Tokens of a bucket vanish: it has `left` of them after each refill, though there were as many before.
    TokensVanish {
        /// The bucket.
        bucket: BucketId,
        /// What its queue holds at most.
        left: u64,
    },
    /// The ledger of a bucket was lost and is written anew.
    LedgerLost(BucketId),
    /// Whose a bucket is, by its ledger: told when it was written for the bucket, and when it is left to another.
    Owned {
        /// The bucket that wants it.
        bucket: BucketId,
        /// UID of the resource that has it.
        owner: Box<str>,
    },
    /// Another resource writes the ledger of a bucket too; ours, which is older, keeps it.
    Contested {
        /// The bucket.
        bucket: BucketId,
        /// Who the other one is, in words.
        rival: String,
    },
    /// A request was not carried out; `reason` is one of a fixed set of words.
    Dropped {
        /// The bucket, when the request named one that is known.
        bucket: Option<BucketId>,
        /// Why, in one CamelCase word.
        reason: &'static str,
        /// Whether it was moved to the queue of parked requests.
        parked: bool,
        /// More about it, for the log.
        message: Option<String>,
    },
}

/// State of the connection to the broker.
#[derive(Clone, Debug, PartialEq)]
pub enum ConnectionState {
    /// Connected.
    Up,
    /// Not connected: why, in words for people. It is being retried.
    Down {
        /// CamelCase reason.
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
}

/// Everything that the status says about a bucket, as last seen.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketState {
    /// The caller's number of the specification that this is about.
    pub revision: u64,
    /// Whether refills run.
    pub phase: Phase,
    /// What was counted, and when; None before the first count.
    pub observed: Option<Observed>,
    /// What the broker enforces as `x-max-length`; None before it is known or when it enforces nothing.
    pub limit: Option<u64>,
    /// The newest refill.
    pub last_refill: Option<Refill>,
    /// When the next refill is due; None when suspended or not scheduled.
    pub next_refill: Option<DateTime<Utc>>,
    /// Tokens issued since the ledger began.
    pub issued: u64,
    /// Value of the refill annotation that was last carried out.
    pub refill_request: Option<Box<str>>,
}

/// A count of ready messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Ready messages in the bucket's queue.
    pub tokens: u64,
    /// When they were counted.
    pub at: DateTime<Utc>,
}

/// Whether refills of a bucket run.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Its queues are as declared and its refills run.
    Ready,
    /// It is being worked on.
    Progressing {
        /// CamelCase reason.
        reason: &'static str,
        /// What is going on.
        message: String,
    },
    /// A person must act.
    Stalled {
        /// CamelCase reason.
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
}

impl Phase {
    /// It is being worked on.
    pub fn progressing(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Progressing { reason, message }
    }

    /// A person must act.
    pub fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Stalled { reason, message }
    }

    /// Of a bucket whose refills run. Whoever is told that it is ready is told of all tokens that it was owed before, too.
    pub(super) fn running(owes: bool) -> Self {
        if owes {
            Self::progressing("Filling", "Tokens that the bucket is owed are being added.")
        } else {
            Self::Ready
        }
    }

    /// What a bucket is in while this is in its way.
    #[must_use]
    pub fn of(failure: &Failure) -> Self {
        let Failure {
            reason,
            message,
            class,
        } = failure;
        match class {
            Class::Person | Class::InUse | Class::Refused => Self::stalled(reason, message),
            Class::Transient
            | Class::Unavailable
            | Class::Blocked
            | Class::NoQueue
            | Class::ConnectionLost
            | Class::Crash => Self::progressing(reason, message),
        }
    }
}

impl BucketState {
    /// Of a bucket that nothing is known of yet.
    pub(super) fn unknown() -> Self {
        Self {
            revision: 0,
            phase: Phase::progressing("Declaring", "The queues are being declared."),
            observed: None,
            limit: None,
            last_refill: None,
            next_refill: None,
            issued: 0,
            refill_request: None,
        }
    }

    /// Another count. Ten thousand buckets that nobody uses are no news every few seconds: one that stays the same is told
    /// once in each minute.
    pub(super) fn observe(&mut self, count: Observed) {
        let minute = |count: Observed| count.at.timestamp().div_euclid(60);
        let is_news =
            |before: Observed| before.tokens != count.tokens || minute(before) != minute(count);
        if self.observed.is_none_or(is_news) {
            self.observed = Some(count);
        }
    }

    /// Shows what the ledger says. A refill counts as carried out when all of its tokens are in the queue.
    pub(super) fn show(&mut self, ledger: &Ledger) {
        self.issued = ledger.issued;
        if ledger.owed == 0 {
            self.last_refill.clone_from(&ledger.last_refill);
            self.refill_request.clone_from(&ledger.manual);
        }
    }

    /// What is told of it during a resource alarm. What waits for a person does so all the same, unless that one has edited
    /// it since; `revision` is the newest one.
    fn held_up_by_alarm(self: &Arc<Self>, revision: u64) -> Arc<Self> {
        let is_stalled = matches!(self.phase, Phase::Stalled { .. });
        if is_stalled && self.revision == revision {
            return self.clone();
        }
        Arc::new(Self {
            revision,
            phase: Phase::progressing(
                "BrokerBlocked",
                "The broker accepts nothing at present because it is short of memory or disk space (resource alarm).",
            ),
            next_refill: None,
            ..Self::clone(self)
        })
    }
}

impl Machine {
    pub(super) fn tell(&mut self, outcome: Outcome) {
        self.effects.push(Effect::Tell(outcome));
    }

    /// Changes what is known about a bucket, and tells it when that is news.
    pub(super) fn update(&mut self, id: &BucketId, change: impl FnOnce(&mut BucketState)) {
        let Some(entry) = self.buckets.get_mut(id) else {
            return;
        };
        let mut changed = BucketState::clone(&entry.state);
        change(&mut changed);
        if changed != *entry.state {
            entry.state = Arc::new(changed);
            self.tell_bucket(id);
        }
    }

    /// Tells what is known about a bucket. During an alarm that is what holds it up, whatever else does; what else comes
    /// to be seen again when the alarm is over.
    pub(super) fn tell_bucket(&mut self, id: &BucketId) {
        if let Some(entry) = self.buckets.get(id) {
            let state = if self.blocked {
                entry.state.held_up_by_alarm(entry.revision)
            } else {
                entry.state.clone()
            };
            self.tell(Outcome::Bucket(id.clone(), state));
        }
    }

    /// All buckets tell of a resource alarm that begins, and then of themselves again.
    pub(super) fn show_alarm(&mut self, blocked: bool) {
        if std::mem::replace(&mut self.blocked, blocked) != blocked {
            let ids: Vec<_> = self.buckets.keys().cloned().collect();
            ids.iter().for_each(|id| self.tell_bucket(id));
        }
    }

    /// The newest specification of a bucket is in this phase.
    pub(super) fn show(&mut self, id: &BucketId, phase: Phase) {
        let Some(revision) = self.buckets.get(id).map(|entry| entry.revision) else {
            return;
        };
        self.update(id, |state| {
            if phase != Phase::Ready {
                state.next_refill = None;
            }
            state.revision = revision;
            state.phase = phase;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::at;

    #[test]
    fn a_count_is_news_when_it_differs_or_is_the_first_of_a_minute() {
        let count = |tokens, second| Observed {
            tokens,
            at: at(second),
        };
        for (before, now, news) in [
            (count(5, 0), count(5, 10), false),
            (count(5, 0), count(6, 10), true),
            (count(5, 59), count(5, 60), true),
            // The clock was set back.
            (count(5, 3600), count(5, 10), true),
        ] {
            let mut state = BucketState::unknown();
            state.observe(before);
            state.observe(now);
            assert_eq!(state.observed == Some(now), news, "{before:?} {now:?}");
        }
    }
}
