//! What comes through refill queues: requests for buckets wait for their turn, all other messages are moved or dropped.

use std::sync::Arc;

use super::Machine;
use super::entry::{Request, Stage};
use super::event::{ConsumerId, Delivered, Now};
use super::failure::{Class, Failure};
use super::outcome::{Outcome, Phase};
use super::refill_queue::{Link, Ticket};
use super::suspects::Suspect;
use crate::request::{Origin, RefillRequest, Rejection, Window};
use crate::{BucketId, Cause, Refusal, TickSpan, parked_queue_name};

impl Machine {
    pub(super) fn consuming(&mut self, consumer: ConsumerId, now: Now) {
        let Some(queue) = self.queues.of(consumer) else {
            return;
        };
        queue.opened(now);
        self.suspects.is_clear(&Suspect::Queue(queue.name.clone()));
        let users: Vec<_> = queue.users.iter().cloned().collect();
        users.iter().for_each(|id| self.inspect(id));
    }

    /// A refill queue is not consumed any more. What came through it and is not acknowledged comes again.
    pub(super) fn consumer_ended(
        &mut self,
        consumer: ConsumerId,
        failure: Option<Failure>,
        now: Now,
    ) {
        let Some(queue) = self.queues.of(consumer) else {
            return;
        };
        // What it does not answer for is that it was let go of, or is not empty yet.
        let is_answered = |failure: &Failure| failure.class != Class::Person;
        let failure = match queue.strangers.failure(&queue.name) {
            Some(strangers) if !failure.as_ref().is_some_and(is_answered) => Some(strangers),
            _ => failure,
        };
        let retry = match &failure {
            None => now.monotonic,
            Some(_) => queue.failed(now),
        };
        let class = failure.as_ref().map(|failure| failure.class);
        if queue.is_opening() && matches!(class, Some(Class::ConnectionLost | Class::Crash)) {
            self.suspects.failed(Suspect::Queue(queue.name.clone()));
        }
        let patient = class == Some(Class::InUse) && !queue.is_refused_for_long(now);
        // An alarm is told for itself, and as long as it lasts.
        let told = failure.filter(|failure| failure.class != Class::Blocked);
        let answers = queue.closed(Some(retry));
        let users: Vec<_> = queue.users.iter().cloned().collect();
        let (name, done) = (queue.name.clone(), queue.is_done());
        self.queues.by_consumer.remove(&consumer);
        if done {
            self.queues.by_name.remove(&name);
        }
        for ticket in answers {
            self.answer(ticket, Ok(None));
        }
        // Requests come through any refill queue, not only through that of their bucket.
        for entry in self.buckets.values_mut() {
            entry.consumer_ended(consumer);
        }
        for id in &users {
            self.scheduler.leave(id);
            self.inspect(id);
            let Some(failure) = &told else { continue };
            let phase = match Phase::of(failure) {
                Phase::Stalled { reason, message } if patient => {
                    Phase::progressing(reason, message)
                }
                phase => phase,
            };
            self.show(id, phase);
        }
    }

    /// Gives every message its place.
    pub(super) fn deliver(&mut self, consumer: ConsumerId, deliveries: Vec<Delivered>, now: Now) {
        let Some(queue) = self.queues.of(consumer) else {
            return;
        };
        queue.delivered(deliveries.len());
        if queue.strangers.are_too_many() {
            return;
        }
        for Delivered {
            tag,
            request,
            window,
        } in deliveries
        {
            let ticket = Ticket { consumer, tag };
            match request {
                Ok(request) => self.receive(ticket, request, window, now),
                Err(Rejection::OtherTask(task)) if !self.admits(consumer, &task, now) => return,
                Err(rejection) => {
                    self.reject(ticket, None, rejection.kind(), rejection.to_string());
                }
            }
        }
    }

    /// A request in its time is carried out, one that comes too early waits, one that comes too late is dropped.
    fn receive(&mut self, ticket: Ticket, request: RefillRequest, window: Window, now: Now) {
        if window.is_over(now.utc) {
            let id = self.names.get(&*request.bucket).cloned();
            self.drop_request(&ticket, id, "Expired", None);
            return;
        }
        if window.wait(now.utc).is_zero() {
            self.route(ticket, request, now);
            return;
        }
        let Some(queue) = self.queues.of(ticket.consumer) else {
            return;
        };
        if let Err(request) = queue.postponed.hold(ticket.tag, request, window, now) {
            let id = self.names.get(&*request.bucket).cloned();
            let message = "too many requests wait for their eta".to_owned();
            self.reject(ticket, id, "TooManyPostponed", message);
        }
    }

    /// Looks again at the requests of a queue that have waited.
    fn take_up_postponed(&mut self, name: &str, now: Now) {
        let Some(queue) = self.queues.by_name.get_mut(name) else {
            return;
        };
        let Link::Open(consumer) = queue.link else {
            return;
        };
        for (tag, request, window) in queue.postponed.take_due(now) {
            let ticket = Ticket { consumer, tag };
            if window.is_over(now.utc) || window.wait(now.utc).is_zero() {
                self.receive(ticket, request, window, now);
            } else if let Some(queue) = self.queues.of(consumer) {
                queue.forward(tag, queue.name.clone(), None);
            }
        }
    }

    fn admits(&mut self, consumer: ConsumerId, task: &str, now: Now) -> bool {
        let queue = self.queues.of(consumer);
        queue.is_none_or(|queue| queue.strangers.admit(task, now))
    }

    /// A request goes to its bucket, whichever queue it came through.
    fn route(&mut self, ticket: Ticket, request: RefillRequest, now: Now) {
        let Some(id) = self.names.get(&*request.bucket).cloned() else {
            let RefillRequest { bucket, .. } = &request;
            let message = format!("no bucket is called {bucket}");
            let Some(queue) = self.queues.of(ticket.consumer) else {
                return;
            };
            if !queue.keep(ticket.tag, request, now) {
                self.drop_request(&ticket, None, "UnknownBucket", Some(message));
            }
            return;
        };
        let cause = match request.origin {
            Origin::Schedule {
                uid,
                since,
                tick,
                ticks,
            } => Cause::Tick {
                uid,
                span: TickSpan { since, tick, ticks },
            },
            Origin::Foreign { id } => match self.queues.by_consumer.get(&ticket.consumer) {
                Some(queue) => Cause::Request {
                    id: id.map(Into::into),
                    refill_queue: queue.clone(),
                },
                None => return,
            },
        };
        let Some(entry) = self.buckets.get_mut(&id) else {
            return;
        };
        // Without a turn: a flood of duplicates costs the broker nothing.
        let done = entry.known.as_ref().and_then(|known| known.tick);
        if let Cause::Tick { uid, span } = &cause
            && **uid == *entry.bucket.uid
            && done.is_some_and(|done| span.tick <= done)
        {
            self.refused(&id, Refusal::Duplicate);
            self.acknowledge(&ticket);
            return;
        }
        let request = Request {
            cause,
            ticket: Some(ticket),
        };
        if entry.stage == Stage::Stalled {
            self.reroute(&id, vec![request], None, now);
            return;
        }
        entry.pending.push_back(request);
        self.line_up(&id);
    }

    /// A bucket has become known: requests that waited for it are its own.
    pub(super) fn route_unrouted(&mut self, name: &Arc<str>, now: Now) {
        let queues: Vec<_> = self.queues.by_consumer.iter().collect();
        let mut claimed = Vec::new();
        for (consumer, queue) in queues {
            let Some(queue) = self.queues.by_name.get_mut(queue) else {
                continue;
            };
            let requests = queue.claim(name).into_iter();
            claimed.extend(requests.map(|(tag, request)| {
                let consumer = *consumer;
                (Ticket { consumer, tag }, request)
            }));
        }
        claimed.sort_by_key(|(ticket, _)| (ticket.consumer, ticket.tag));
        for (ticket, request) in claimed {
            self.route(ticket, request, now);
        }
    }

    /// Requests that their bucket cannot take. Ours are made anew from the ledger when it can; somebody else's are kept
    /// for a person, or wait for a bucket of the same name when this one, which had it, is `gone`.
    pub(super) fn reroute(
        &mut self,
        id: &BucketId,
        requests: Vec<Request>,
        gone: Option<&str>,
        now: Now,
    ) {
        for Request { cause, ticket } in requests {
            let Some(ticket) = ticket else { continue };
            match cause {
                Cause::Tick { .. } | Cause::Annotation(_) => self.acknowledge(&ticket),
                Cause::Request { id: request, .. } => match gone {
                    Some(name) => {
                        let id = request.map(Into::into);
                        let origin = Origin::Foreign { id };
                        let bucket = name.to_owned();
                        self.route(ticket, RefillRequest { bucket, origin }, now);
                    }
                    None => {
                        let message = "its bucket is stalled".to_owned();
                        self.reject(ticket, Some(id.clone()), "BucketStalled", message);
                    }
                },
            }
        }
    }

    pub(super) fn acknowledge(&mut self, ticket: &Ticket) {
        if let Some(queue) = self.queues.of(ticket.consumer) {
            queue.acknowledge(ticket.tag);
        }
    }

    /// Somebody else's request for `id` was carried out.
    pub(super) fn acknowledge_for(&mut self, ticket: &Ticket, id: &BucketId) {
        let Some(queue) = self.queues.of(ticket.consumer) else {
            return;
        };
        queue.acknowledge_for(ticket.tag, id.clone());
        if let Some(entry) = self.buckets.get_mut(id) {
            entry.unsettled.insert(ticket.consumer);
        }
    }

    /// It goes where a person can look at it.
    fn reject(
        &mut self,
        ticket: Ticket,
        bucket: Option<BucketId>,
        reason: &'static str,
        message: String,
    ) {
        let Some(queue) = self.queues.of(ticket.consumer) else {
            return;
        };
        let to: Arc<str> = parked_queue_name(&queue.name).into();
        queue.forward(ticket.tag, to, Some(message.clone()));
        self.dropped(bucket, reason, true, Some(message));
    }

    fn drop_request(
        &mut self,
        ticket: &Ticket,
        bucket: Option<BucketId>,
        reason: &'static str,
        message: Option<String>,
    ) {
        self.acknowledge(ticket);
        self.dropped(bucket, reason, false, message);
    }

    pub(super) fn refused(&mut self, id: &BucketId, refusal: Refusal) {
        self.dropped(Some(id.clone()), refusal.kind(), false, None);
    }

    fn dropped(
        &mut self,
        bucket: Option<BucketId>,
        reason: &'static str,
        parked: bool,
        message: Option<String>,
    ) {
        let message = message.filter(|_| self.warned.insert(reason));
        self.tell(Outcome::Dropped {
            bucket,
            reason,
            parked,
            message,
        });
    }

    /// Takes the next step with each refill queue that wants one.
    pub(super) fn settle(&mut self, now: Now) {
        for name in self.queues.take_touched() {
            self.give_up(&name, now);
            self.take_up_postponed(&name, now);
            let consumer = ConsumerId(self.next_number());
            let active = self.is_active();
            let Some(queue) = self.queues.by_name.get_mut(&name) else {
                continue;
            };
            if queue.is_done() {
                self.queues.by_name.remove(&name);
                continue;
            }
            // What is carried out already is acknowledged in any case.
            if !self.connected || !(active || queue.is_open()) {
                continue;
            }
            if let Some(effect) = queue.next(now, consumer) {
                if let super::Effect::Consume {
                    queue, consumer, ..
                } = &effect
                {
                    self.queues.by_consumer.insert(*consumer, queue.clone());
                }
                self.effects.push(effect);
            }
        }
    }

    fn give_up(&mut self, name: &Arc<str>, now: Now) {
        let Some(queue) = self.queues.by_name.get_mut(name) else {
            return;
        };
        let Link::Open(consumer) = queue.link else {
            return;
        };
        for (tag, request) in queue.give_up(now) {
            let message = Some(format!("no bucket is called {}", request.bucket));
            let ticket = Ticket { consumer, tag };
            self.drop_request(&ticket, None, "UnknownBucket", message);
        }
    }

    /// The broker has taken acknowledgements: what they are for cannot come again.
    pub(super) fn settled(&mut self, consumer: ConsumerId) {
        let Some(queue) = self.queues.of(consumer) else {
            return;
        };
        for id in queue.settled() {
            if let Some(entry) = self.buckets.get_mut(&id) {
                entry.unsettled.remove(&consumer);
            }
            self.line_up(&id);
        }
    }

    pub(super) fn published(&mut self, results: &[Result<(), Failure>], now: Now) {
        for (id, result) in self.scheduler.published(results, now) {
            if let Err(failure) = result
                && failure.class == Class::Refused
            {
                self.show(&id, Phase::of(&failure));
                continue;
            }
            let next = self.scheduler.next_of(&id);
            if self.buckets.get(&id).is_some_and(|entry| entry.is_ready()) {
                self.update(&id, |state| state.next_refill = next);
            }
        }
    }
}
