//! Which ticks were due, and what else was asked for.

use std::collections::BTreeSet;

use bucket::{Ledger, MissedRefills};
use chrono::{DateTime, TimeDelta, Utc};

use super::books::Specified;
use super::{Books, Violation};
use crate::fixture::timetable;
use crate::plan::SCHEDULES;

/// An operator knows of an edit at the latest so long after it.
const KNOWN_AFTER: TimeDelta = TimeDelta::milliseconds(2_500);

impl Books {
    /// How many refills the new ledger stands for, beyond the old one.
    pub(super) fn carried_out(
        &mut self,
        uid: &str,
        old: &Ledger,
        new: &Ledger,
    ) -> Result<u64, Violation> {
        let mut refills = 0;
        if new.issued == old.issued && new.last_refill == old.last_refill && new.tick >= old.tick {
            // Whoever has it now writes into it at most what it has carried out before.
            return Ok(0);
        }
        if new.tick != old.tick {
            let tick = new.tick.ok_or("I2: the ledger forgot its tick")?;
            if old.tick.is_some_and(|before| tick < before) {
                return Err(format!(
                    "I2: the tick went back from {:?} to {tick}",
                    old.tick
                ));
            }
            // An edit moves `since`; a tick of the schedule before it may have been asked for already.
            let created = self.specs_of(uid).map(|it| it.created);
            let begin = created.min().unwrap_or(old.since);
            let begin = old.tick.unwrap_or(begin);
            let decided = new.last_refill.as_ref().map(|refill| refill.completed_time);
            let begin = decided.map_or(tick, |decided| self.not_too_old(uid, begin, decided));
            let ticks = self.ticks(uid, begin, tick);
            if !self.lenient.clocks && begin >= tick {
                return Err(format!(
                    "I3: tick {tick} was carried out past its deadline: {new:?}"
                ));
            }
            if let Some(why) = decided.and_then(|decided| self.unwanted(uid, tick, decided))
                && !self.lenient.clocks
            {
                return Err(format!(
                    "I3: tick {tick} was carried out {why}: {old:?} {new:?}"
                ));
            }
            if ticks == 0 && !self.lenient.clocks {
                return Err(format!("I2: no tick was due at {tick}: {old:?} {new:?}"));
            }
            if !self.done.insert(tick) {
                return Err(format!(
                    "I2: tick {tick} was carried out before: {old:?} {new:?}"
                ));
            }
            self.refills += 1;
            refills += ticks.max(1);
        }
        if new.manual != old.manual && new.manual.is_some() {
            // Values that people set again are asked for again.
            refills += 1;
        }
        for request in new.requests.iter().filter(|it| !old.requests.contains(it)) {
            if !self.requests.insert(id_of(request).into()) {
                return Err(format!("I2: request {request} was carried out before"));
            }
            refills += 1;
        }
        Ok(refills)
    }

    /// The end of the ticks after `begin` that are too old at `now` whatever the specification of their resource was.
    pub(super) fn not_too_old(
        &self,
        uid: &str,
        begin: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> DateTime<Utc> {
        let deadlines: Option<Vec<_>> = self.specs_of(uid).map(|it| it.spec.deadline).collect();
        let longest = deadlines.and_then(|deadlines| deadlines.into_iter().max());
        let Some(longest) = longest.and_then(|seconds| i64::try_from(seconds).ok()) else {
            return begin;
        };
        // A tick exactly as old as that is none of them.
        begin.max(now - TimeDelta::seconds(longest) - TimeDelta::nanoseconds(1))
    }

    /// Ticks in `(after, tick]` of any specification of a resource, if `tick` is one.
    pub(super) fn ticks(&self, uid: &str, after: DateTime<Utc>, tick: DateTime<Utc>) -> u64 {
        let mut ticks = BTreeSet::new();
        let mut seen = Vec::new();
        for Specified { created, spec, .. } in self.specs_of(uid) {
            // Only `@every` has one.
            let every = SCHEDULES[spec.schedule].starts_with('@');
            let anchors = self.anchors.iter().filter(|(of, _)| every && **of == *uid);
            for anchor in anchors.map(|(_, anchor)| *anchor).chain([*created]) {
                if seen.contains(&(spec.schedule, anchor)) {
                    continue;
                }
                seen.push((spec.schedule, anchor));
                let timetable = timetable(spec.schedule).anchored(anchor);
                let first = timetable.next(after.min(tick - TimeDelta::seconds(1)));
                let all = std::iter::successors(first, |tick| timetable.next(*tick));
                ticks.extend(all.take_while(|other| *other <= tick));
            }
        }
        if !ticks.contains(&tick) {
            return 0;
        }
        let due = ticks.into_iter().filter(|due| *due > after).count() as u64;
        due.max(1)
    }

    /// I4: ticks of a schedule from before it was edited are not missed ones.
    pub(super) fn edited(&self, uid: &str, old: &Ledger, new: &Ledger) -> Result<(), Violation> {
        let same = old.owner.as_ref().is_some_and(|owner| *owner.uid == *uid);
        if !same || old.schedule == new.schedule || self.lenient.clocks {
            return Ok(());
        }
        let is_it = |it: &&Specified| *timetable(it.spec.schedule).fingerprint() == *new.schedule;
        let at = self.specs_of(uid).filter(is_it).map(|it| it.at).min();
        if at.is_some_and(|at| new.since < at) {
            return Err(format!(
                "I4: an edit of the schedule mints tokens: {old:?} {new:?}"
            ));
        }
        Ok(())
    }

    /// Whether a tick was not to be carried out at `decided`, and why.
    pub(super) fn unwanted(
        &self,
        uid: &str,
        tick: DateTime<Utc>,
        decided: DateTime<Utc>,
    ) -> Option<&'static str> {
        let known = decided - KNOWN_AFTER;
        let since = self.specs_of(uid).rposition(|it| it.at <= known);
        let mut possible = self.specs_of(uid).skip(since.unwrap_or_default());
        if !self.lenient.late && possible.all(|it| it.spec.suspend) {
            return Some("although the bucket is suspended");
        }
        let skips = self
            .specs_of(uid)
            .all(|it| it.spec.missed == MissedRefills::Skip);
        let mut downs = self.downs.iter();
        let missed = downs.any(|(from, to)| *from < tick && to.is_none_or(|to| tick < to));
        (skips && missed).then_some("although nobody could when it was due")
    }

    /// I3: a tick adds what fits. With `missedRefills: All` those before it that nobody has carried out count too.
    pub(super) fn enough(
        &self,
        uid: &str,
        old: &Ledger,
        new: &Ledger,
        issued: u64,
    ) -> Result<(), Violation> {
        if new.tick == old.tick || self.lenient.clocks || self.lenient.requests {
            return Ok(());
        }
        let of_owner: Vec<_> = self.specs_of(uid).collect();
        // Edits change what is wanted; a ledger that was lost forgets ticks.
        let ([Specified { spec, .. }], Some(tick)) = (&of_owner[..], new.tick) else {
            return Ok(());
        };
        if old.owner.as_ref().is_some_and(|owner| *owner.uid != *uid) {
            return Ok(());
        }
        let decided = new
            .last_refill
            .as_ref()
            .map_or(tick, |it| it.completed_time);
        let ticks = match spec.missed {
            MissedRefills::All => {
                let begin = self.not_too_old(uid, old.reference(), decided);
                self.ticks(uid, begin, tick)
            }
            MissedRefills::Latest | MissedRefills::Skip => 1,
        };
        let room = spec.maximum.saturating_sub(self.high + old.owed);
        let due = (spec.amount * ticks).min(room);
        if issued < due {
            return Err(format!(
                "I3: {issued} tokens issued for {ticks} ticks, {due} were due: {old:?} {new:?}"
            ));
        }
        Ok(())
    }
}

/// The id of a request that a ledger remembers, whichever refill queue that came through.
pub(super) fn id_of(request: &str) -> &str {
    request.split_once('-').map_or(request, |(id, _)| id)
}
