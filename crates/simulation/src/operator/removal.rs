//! The steps of a removal.

use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{Event, JobId};
use bucket::{DeletionPolicy, ledger_queue_name, queue_name};

use super::work::{Progress, Removing, WAITS, Work};
use super::{Body, Shell};
use crate::broker::{Broker, ChannelId, Got, Refused};

/// Between two looks at a ledger that is held.
const PAUSE: Duration = Duration::from_millis(500);
/// The step before the last one.
const LAST: usize = 3;

impl Work {
    /// The ledger, which is held through an alarm.
    fn holds(
        &mut self,
        broker: &mut Broker<Body>,
        channel: ChannelId,
        queue: &str,
    ) -> Result<Option<Got<Body>>, Refused> {
        if self.got.is_none() {
            self.got = broker.deliver(channel, queue)?;
        }
        Ok(self.got.clone())
    }

    /// The ledger says whose the bucket is, and while it is held nobody changes that.
    pub(super) fn remove_step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
        job: JobId,
        removing: &Removing,
    ) -> Result<Progress, Refused> {
        let ledger_queue = ledger_queue_name(&removing.name);
        let channel = Self::own_channel(&mut self.channel, shell, broker, true)?;
        match self.step {
            0 => match broker.consume(channel, &ledger_queue, false) {
                // Nothing says that it is somebody else's.
                Err(Refused::NotFound) => {
                    self.channel = None;
                    self.step = if removing.policy == DeletionPolicy::Retain {
                        LAST
                    } else {
                        1
                    };
                }
                Err(refused) => return Err(refused),
                Ok(()) => {}
            },
            // Who holds it gives it back; if nobody does, it is lost.
            1 => match self.holds(broker, channel, &ledger_queue)? {
                None if self.waits < WAITS => {
                    self.waits += 1;
                    return Ok(Progress::Wait(PAUSE));
                }
                None if !removing.established => self.step = LAST,
                None => {}
                Some(got) => {
                    let ledger = match &got.body {
                        Body::Ledger(ledger) => Some(ledger),
                        // It tells of no other owner.
                        _ => None,
                    };
                    let owner = ledger.and_then(|ledger| ledger.owner.as_ref());
                    let heir = ledger.and_then(|ledger| {
                        let before = ledger.rival.clone();
                        before.filter(|before| owner.is_some_and(|owner| before.precedes(owner)))
                    });
                    let retain = removing.policy == DeletionPolicy::Retain;
                    let is_others = owner.is_some_and(|owner| *owner.uid != *removing.uid);
                    if is_others || (owner.is_none() && !retain && !removing.established) {
                        self.step = LAST;
                    } else if let (true, Some(ledger)) = (retain || heir.is_some(), ledger) {
                        let left = ledger.left_to(heir.filter(|_| !retain));
                        let body = Body::Ledger(Arc::new(left));
                        broker.publish(channel, &ledger_queue, body, true)?;
                        broker.settle(channel, got.tag, true)?;
                        broker.commit(channel)?;
                        self.step = LAST;
                    } else if retain {
                        self.step = LAST;
                    }
                }
            },
            2 => {
                broker.delete(channel, &queue_name(&removing.name), false)?;
            }
            3 => {
                broker.delete(channel, &ledger_queue, false)?;
            }
            _ => {
                if let Some(queue) = &removing.refill_queue {
                    let _ = broker.delete(channel, queue, true);
                }
                return Ok(Progress::Done(Event::Removed {
                    job,
                    result: Ok(()),
                }));
            }
        }
        Ok(Progress::More)
    }
}
