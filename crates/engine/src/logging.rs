//! What the log says of outcomes.

use bucket::Parting;
use bucket::machine::Outcome;
use chrono::SecondsFormat;
use tracing::{debug, info, warn};

/// What became of the queues of a bucket, where that is not what its resource asked for.
pub(crate) fn log_removed(name: &str, parting: &Parting) {
    match parting {
        Parting::Delete | Parting::Keep(_) => {}
        Parting::NotOurs => {
            info!(
                bucket = name,
                "its queues stay: they were never its resource's, or are another's by now"
            );
        }
        Parting::HandBack(ledger) => {
            let owner = ledger.owner.as_ref().map(|owner| &*owner.resource);
            warn!(
                bucket = name,
                owner,
                "its queues stay: an older resource, which may still be there, had them before. Delete them by hand if it is not"
            );
        }
    }
}

pub(crate) fn log(outcome: &Outcome) {
    match outcome {
        Outcome::Refilled {
            bucket,
            trigger,
            added,
            tick,
            lag: _,
            owed,
        } => {
            let due = tick.map(|tick| tick.to_rfc3339_opts(SecondsFormat::Secs, true));
            if *added == 0 {
                debug!(%bucket, ?trigger, due, "full already");
            } else if *owed > 0 {
                info!(%bucket, ?trigger, added, due, owed, "refill under way");
            } else {
                info!(%bucket, ?trigger, added, due, "refilled");
            }
        }
        Outcome::Completed { bucket, added } => {
            info!(%bucket, added, "refilled to the last token");
        }
        Outcome::Dropped {
            bucket,
            reason,
            parked,
            message: Some(message),
        } => {
            let bucket = bucket.as_ref().map(ToString::to_string);
            warn!(
                bucket,
                reason,
                parked,
                message,
                "a message of a refill queue is not carried out; later ones like it are dealt with without a word"
            );
        }
        Outcome::Dropped {
            bucket,
            reason,
            parked,
            message: None,
        } => {
            let bucket = bucket.as_ref().map(ToString::to_string);
            debug!(bucket, reason, parked, "refill request adds nothing");
        }
        Outcome::LedgerLost(bucket) => {
            warn!(%bucket, "the ledger was lost and is written anew; ticks up to its loss are not made up for");
        }
        Outcome::Contested { bucket, rival } => {
            warn!(%bucket, rival, "another resource refills the same bucket; this one comes first and keeps it");
        }
        Outcome::QueueMissing(bucket) => {
            warn!(%bucket, "the queue of the bucket was gone and is declared again");
        }
        Outcome::TokensVanish { bucket, left } => {
            warn!(%bucket, left, "a policy takes messages away: the bucket holds no more than that after each refill");
        }
        Outcome::QueueReplaced { bucket, message } => {
            warn!(%bucket, message, "the queue of the bucket had other arguments; it was empty, and is declared anew");
        }
        Outcome::Connection(_)
        | Outcome::Bucket(..)
        | Outcome::Owned { .. }
        | Outcome::Skipped { .. } => {}
    }
}
