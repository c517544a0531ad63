//! Requests that are not to be carried out before a time of their own, as Celery's `eta` says. They are held unacknowledged:
//! should the operator die, they come again. The broker closes the channel of whoever holds a message for half an hour, so one
//! that waits for longer goes back to the end of its queue now and then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::Now;
use crate::request::{RefillRequest, Window};

/// How long one is held: well below the broker's acknowledgement timeout, which may be set lower.
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// More cannot wait: half of what is delivered without acknowledgements. Else nothing else would come through.
const MOST: usize = 1_000;

/// Those of one refill queue, by when to look at them again, and by their tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Postponed(BTreeMap<(Duration, u64), (RefillRequest, Window)>);

impl Postponed {
    /// Holds a request. Gives it back when there are too many.
    pub(super) fn hold(
        &mut self,
        tag: u64,
        request: RefillRequest,
        window: Window,
        now: Now,
    ) -> Result<(), RefillRequest> {
        if self.0.len() >= MOST {
            return Err(request);
        }
        let wait = window.wait(now.utc).min(LONGEST_HOLD);
        self.0
            .insert((now.monotonic + wait, tag), (request, window));
        Ok(())
    }

    /// Those whose time has come, or that were held for long enough.
    pub(super) fn take_due(&mut self, now: Now) -> Vec<(u64, RefillRequest, Window)> {
        let mut due = Vec::new();
        while let Some(first) = self.0.first_entry()
            && first.key().0 <= now.monotonic
        {
            let ((_, tag), (request, window)) = first.remove_entry();
            due.push((tag, request, window));
        }
        due
    }

    pub(super) fn wakeup(&self) -> Option<Duration> {
        self.0.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
