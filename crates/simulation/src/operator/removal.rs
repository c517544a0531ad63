//! The steps of a removal.

use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{Event, JobId};
use bucket::{DeletionPolicy, Parting, ledger_queue_name, queue_name};

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
                got => {
                    let ledger = match got.as_ref().map(|got| &got.body) {
                        Some(Body::Ledger(ledger)) => Some(&**ledger),
                        // It tells of no other owner.
                        _ => None,
                    };
                    let Removing {
                        uid,
                        policy,
                        established,
                        ..
                    } = removing;
                    let parting = Parting::of(ledger, uid, *policy, *established);
                    if let (Some(got), Some(left)) = (got, parting.ledger()) {
                        let body = Body::Ledger(Arc::new(left.clone()));
                        broker.publish(channel, &ledger_queue, body, true)?;
                        broker.settle(channel, got.tag, true)?;
                        broker.commit(channel)?;
                    }
                    if parting != Parting::Delete {
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
