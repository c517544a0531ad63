//! Plans from seeds.

use bucket::machine::MOST_TOKENS;
use bucket::{DeletionPolicy, MissedRefills};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Edit, FAULTS_END, Millis, Operator, Plan, Resource, SCHEDULES, Spec, Step};

pub(super) fn plan(seed: u64) -> Plan {
    let rng = SmallRng::seed_from_u64(seed);
    Generator { rng }.plan(seed)
}

struct Generator {
    rng: SmallRng,
}

impl Generator {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.rng.random_range(0..end)
    }

    fn index(&mut self, len: usize) -> usize {
        self.rng.random_range(0..len)
    }

    fn plan(&mut self, seed: u64) -> Plan {
        let buckets = [1, 1, 1, 2, 3][self.index(5)];
        let rivals = self.chance(25);
        let count = [1, 1, 2, 2, 3][self.index(5)].max(1 + usize::from(rivals));
        let operators: Vec<_> = (0..count)
            .map(|number| Operator {
                cluster: u8::from(rivals && number % 2 == 1),
                channels: 1 + self.index(3),
                slowness: if self.chance(10) { 10 } else { 1 },
            })
            .collect();
        let mut plan = Plan {
            seed,
            operators,
            resources: Vec::new(),
            takers: Vec::new(),
            most_tokens: [MOST_TOKENS, MOST_TOKENS, 3, 1][self.index(4)],
            delivery_limit: [None, None, Some(20), Some(3)][self.index(4)],
            single_active: self.chance(40),
            shared_queues: rivals && self.chance(15),
            steps: Vec::new(),
        };
        for bucket in 0..buckets {
            let spec = self.spec();
            self.create(&mut plan, 0, bucket, spec);
            if rivals && self.chance(70) {
                let rival = Spec {
                    quorum: spec.quorum,
                    ..self.spec()
                };
                self.create(&mut plan, 1, bucket, rival);
            }
            let taker = [None, Some(80), Some(400), Some(1_500)][self.index(4)];
            plan.takers.push(taker);
        }
        // Most schedules have few kinds of faults, so that one does not hide what another shows.
        let kinds: Vec<u64> = (0..=self.index(4)).map(|_| self.below(20)).collect();
        for _ in 0..self.below(14) {
            let kind = kinds[self.index(kinds.len())];
            let at = 300 + self.below(FAULTS_END - 300);
            let step = self.fault(&plan, kind, buckets);
            plan.steps.extend(step.map(|step| (at, step)));
            // What comes again after a crash has to be known.
            if matches!(step, Some(Step::Flood(..))) && self.chance(60) {
                let operator = self.index(plan.operators.len());
                let soon = at + self.below(250);
                let again = 20 + self.below(200);
                plan.steps.push((soon, Step::Crash(operator, again, 0)));
            }
        }
        self.deletions(&mut plan);
        plan.steps.sort_by_key(|(at, _)| *at);
        plan
    }

    fn spec(&mut self) -> Spec {
        let maximum = 1 + self.below(12);
        Spec {
            amount: 1 + self.below(6),
            maximum,
            initial: if self.chance(30) {
                self.below(maximum + 1)
            } else {
                0
            },
            schedule: self.index(SCHEDULES.len()),
            refill_queue: u8::from(self.chance(20)),
            suspend: self.chance(5),
            missed: self.missed(),
            deadline: self.deadline(),
            quorum: self.chance(30),
            annotation: None,
        }
    }

    fn missed(&mut self) -> MissedRefills {
        use MissedRefills::{All, Latest, Skip};
        [Latest, All, All, Skip][self.index(4)]
    }

    fn deadline(&mut self) -> Option<u64> {
        self.chance(15).then(|| 1 + self.below(6))
    }

    fn create(&mut self, plan: &mut Plan, cluster: u8, bucket: u8, spec: Spec) {
        let at = if self.chance(80) {
            self.below(50)
        } else {
            self.below(6_000)
        };
        plan.steps.push((at, Step::Create(plan.resources.len())));
        plan.resources.push(Resource {
            cluster,
            bucket,
            spec,
        });
    }

    fn edit(&mut self) -> Edit {
        match self.below(9) {
            0 => Edit::Amount(1 + self.below(6)),
            1 | 2 => Edit::Maximum(1 + self.below(14)),
            3 => Edit::Schedule(self.index(SCHEDULES.len())),
            4 => Edit::RefillQueue(u8::from(self.chance(50))),
            5 => Edit::Suspend(self.chance(50)),
            6 => Edit::Missed(self.missed()),
            7 => Edit::Deadline(self.deadline()),
            _ => Edit::Annotate(u8::try_from(self.below(4)).unwrap_or_default()),
        }
    }

    /// How long a broker takes to notice that a connection is dead: at once, or when heartbeats fail to come.
    fn notice(&mut self) -> Millis {
        if self.chance(40) {
            self.below(20)
        } else {
            self.below(3_000)
        }
    }

    fn fault(&mut self, plan: &Plan, kind: u64, buckets: u8) -> Option<Step> {
        let operator = self.index(plan.operators.len());
        let bucket = u8::try_from(self.below(buckets.into())).unwrap_or_default();
        let queue = u8::from(self.chance(30));
        let resource = self.index(plan.resources.len());
        let millis = self.below(3_000);
        Some(match kind {
            0..=2 => Step::Crash(operator, 20 + self.below(2_500), self.notice()),
            3 => Step::Pause(operator, 100 + self.below(5_000), self.chance(30)),
            4 | 5 => Step::Cut(operator, self.notice(), self.notice()),
            6 if self.chance(50) => {
                let by = i64::try_from(self.below(20_000)).unwrap_or_default();
                Step::SetClock(operator, by - 10_000)
            }
            6 => Step::Permit(operator, self.chance(50)),
            7 => Step::Alarm(3 * millis),
            8 => Step::Restart(50 + self.below(1_500)),
            10 if self.chance(25) => {
                let more = u8::try_from(self.below(30)).unwrap_or_default();
                Step::Flood(bucket, queue, 30 + more)
            }
            9 | 10 => {
                let id = u8::try_from(self.below(6)).unwrap_or_default();
                Step::Request(bucket, queue, self.chance(90).then_some(id))
            }
            11 => Step::Garbage(queue),
            12 => match self.below(4) {
                0 => Step::DeleteQueue(bucket),
                1 => Step::PurgeQueue(bucket),
                2 => Step::PurgeRequests(queue),
                _ => Step::DeleteRequests(queue),
            },
            13 | 14 => match self.below(5) {
                0 | 1 => Step::DeleteLedger(bucket),
                2 | 3 => Step::PurgeLedger(bucket),
                _ => Step::DamageLedger(bucket, millis),
            },
            15 => match self.below(3) {
                0 => Step::Put(bucket, 1 + self.below(4)),
                1 => Step::Limit(bucket, 1 + self.below(5), millis),
                _ => Step::Reject(bucket, millis),
            },
            _ => Step::Edit(resource, self.edit()),
        })
    }

    /// Some resources go, and some of these come back.
    fn deletions(&mut self, plan: &mut Plan) {
        if !self.chance(20) {
            return;
        }
        let number = self.index(plan.resources.len());
        let Some(resource) = plan.resources.get(number).copied() else {
            return;
        };
        let policy = if self.chance(70) {
            DeletionPolicy::Delete
        } else {
            DeletionPolicy::Retain
        };
        let at = 6_500 + self.below(4_000);
        plan.steps.push((at, Step::Delete(number, policy)));
        if self.chance(60) {
            let again = at + self.below(3_000);
            plan.steps.push((again, Step::Create(plan.resources.len())));
            let spec = Spec {
                quorum: resource.spec.quorum,
                ..self.spec()
            };
            plan.resources.push(Resource { spec, ..resource });
        }
    }
}
