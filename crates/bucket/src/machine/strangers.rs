//! Another program's tasks in a refill queue. A few are a mistake, and are parked; more are that program's queue, which is let
//! go of: nobody takes what is in it from it, and a parked queue with a limit would lose it.

use std::time::Duration;

use super::event::Now;
use super::failure::{Class, Failure};
use crate::parked_queue_name;

/// How many are a mistake.
const HANDFUL: u32 = 10;
/// A queue without them for so long begins anew.
const PROBATION: Duration = Duration::from_secs(3_600);

/// The foreign tasks of one refill queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    parked: u32,
    latest: Option<Duration>,
    /// The task that was one too many.
    task: Option<String>,
}

impl Strangers {
    /// Another one for `task` has come. False: it is one too many, and is not to be touched.
    pub(super) fn admit(&mut self, task: &str, now: Now) -> bool {
        let now = now.monotonic;
        let long_ago = |latest| now.saturating_sub(latest) >= PROBATION;
        if self.latest.replace(now).is_some_and(long_ago) {
            self.parked = 0;
        }
        if self.parked == HANDFUL {
            self.task = Some(task.to_owned());
            return false;
        }
        self.parked += 1;
        true
    }

    /// The queue is not ours to consume, until it is empty.
    pub(super) fn are_too_many(&self) -> bool {
        self.task.is_some()
    }

    /// The queue was empty when it was taken up again.
    pub(super) fn are_gone(&mut self) {
        self.task = None;
    }

    /// What people are told.
    pub(super) fn failure(&self, queue: &str) -> Option<Failure> {
        let task = self.task.as_ref()?;
        let parked = parked_queue_name(queue);
        Some(Failure {
            reason: "ForeignTasks",
            message: format!(
                "refill queue {queue} holds tasks of another program, for example {task}: the operator has let go of it, with \
                 {HANDFUL} of them in {parked} and the others untouched. Give the buckets a refillQueue of their own; or have \
                 that program send its tasks elsewhere and empty the queue, and the operator takes it up again"
            ),
            class: Class::Person,
        })
    }
}
