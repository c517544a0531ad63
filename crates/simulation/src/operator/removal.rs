//! The steps of a removal.

use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{Event, JobId};
use bucket::{Parting, ledger_queue_name, queue_name};

use super::ledgers::Awaited;
use super::work::{Progress, Removing, Work};
use super::{Body, Shell};
use crate::broker::{Broker, ChannelId, Refused};

/// Before another look at a ledger that is held.
const PAUSE: Duration = Duration::from_millis(500);
/// The step before the last one.
const LAST: usize = 3;

impl Work {
    /// The ledger, which is held through an alarm.
    fn holds(
        &mut self,
        broker: &mut Broker<Body>,
        channel: ChannelId,
        removing: &Removing,
    ) -> Result<Awaited, Refused> {
        if let Some(got) = &self.got {
            return Ok(Awaited::Found(got.clone()));
        }
        if !self.ledger_exists {
            return Ok(Awaited::Lost);
        }
        let queue = ledger_queue_name(&removing.name);
        let awaited = if removing.established {
            self.await_ledger(removing.hold_limit, channel, &queue, broker)?
        } else if let Some(got) = broker.deliver(channel, &queue)? {
            Awaited::Found(got)
        } else if self.waits == 0 {
            self.waits += 1;
            Awaited::Not(PAUSE)
        } else {
            Awaited::Lost
        };
        if let Awaited::Found(got) = &awaited {
            self.got = Some(got.clone());
        }
        Ok(awaited)
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
                Err(Refused::NotFound) => self.channel = None,
                Err(refused) => return Err(refused),
                Ok(()) => self.ledger_exists = true,
            },
            // Who holds it gives it back; if nobody does, it is lost.
            1 => match self.holds(broker, channel, removing)? {
                Awaited::Not(pause) => return Ok(Progress::Wait(pause)),
                Awaited::Found(_) | Awaited::Lost => {
                    let got = self.got.clone();
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
            // One that has come since is another's.
            3 if self.ledger_exists => {
                broker.delete(channel, &ledger_queue, false)?;
            }
            3 => {}
            _ => {
                if let Some(queue) = &removing.refill_queue {
                    let _ = broker.delete(channel, queue, true);
                }
                return Ok(Progress::Done(Event::Removed {
                    job,
                    result: Ok(None),
                }));
            }
        }
        Ok(Progress::More)
    }
}
