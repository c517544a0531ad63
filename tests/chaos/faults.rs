//! What can go wrong.

use std::fmt;

use clap::ValueEnum;
use rand::RngExt;
use rand::rngs::StdRng;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// An operator gets SIGKILL and is started again.
    Kill,
    /// An operator gets SIGTERM and is started again.
    Terminate,
    /// An operator is stopped for longer than its lease, then goes on.
    Stop,
    /// Connections to the broker are reset.
    Cut,
    /// Nothing gets through to the broker and nobody is told.
    Freeze,
    /// The network to the broker is slow.
    Slow,
    /// Nothing gets through to the API server.
    NoApiServer,
    /// Connections to the API server are reset.
    CutApiServer,
    /// Somebody deletes the refill queue.
    DeleteRefillQueue,
    /// Somebody floods the refill queue with what is no request.
    Flood,
    /// A bucket's maximum is raised or lowered.
    EditMaximum,
    /// A bucket is suspended and resumed.
    Suspend,
    /// The broker stops and starts.
    RestartBroker,
    /// The broker is short of memory and blocks whoever publishes.
    MemoryAlarm,
}

use Fault::*;

/// Who works on the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operators {
    /// As many resources there are for each bucket, with refill queues of their own.
    pub clusters: usize,
    /// Operators of each cluster.
    pub replicas: usize,
}

/// How often each one comes: with one operator mostly kills, with two replicas what concerns the hand-over, with rivals
/// both.
const ALONE: &[(Fault, u32)] = &[
    (Kill, 80),
    (Terminate, 4),
    (Cut, 4),
    (Slow, 2),
    (CutApiServer, 2),
    (DeleteRefillQueue, 2),
    (Flood, 2),
    (EditMaximum, 3),
    (Suspend, 3),
    (MemoryAlarm, 1),
    (RestartBroker, 1),
];
const REPLICATED: &[(Fault, u32)] = &[
    (Kill, 4),
    (Terminate, 3),
    (Stop, 4),
    (Cut, 4),
    (Freeze, 2),
    (Slow, 2),
    (NoApiServer, 2),
    (CutApiServer, 2),
    (DeleteRefillQueue, 1),
    (Flood, 1),
    (EditMaximum, 2),
    (Suspend, 2),
    (MemoryAlarm, 1),
    (RestartBroker, 1),
];

const RIVALS: &[(Fault, u32)] = &[
    (Kill, 80),
    (Terminate, 4),
    (Stop, 1),
    (Cut, 4),
    (Freeze, 1),
    (Slow, 2),
    (CutApiServer, 2),
    (DeleteRefillQueue, 2),
    (Flood, 1),
    (EditMaximum, 3),
    (Suspend, 3),
    (MemoryAlarm, 1),
    (RestartBroker, 1),
];

impl Fault {
    /// The faults among `kinds` that can happen to such operators, and how often each comes; all when there are no
    /// `kinds`.
    fn of(operators: Operators, kinds: &[Self]) -> impl Iterator<Item = &'static (Self, u32)> {
        let table = match operators {
            Operators { clusters: 2.., .. } => RIVALS,
            Operators { replicas: 2.., .. } => REPLICATED,
            _ => ALONE,
        };
        let wanted = |(fault, _): &&(Self, u32)| kinds.is_empty() || kinds.contains(fault);
        table.iter().filter(wanted)
    }

    /// Whether one of `kinds` can happen to such operators.
    pub fn any(operators: Operators, kinds: &[Self]) -> bool {
        Self::of(operators, kinds).next().is_some()
    }

    /// As on the command line.
    pub fn name(&self) -> String {
        let name = self.to_possible_value().expect("no fault is hidden");
        name.get_name().to_owned()
    }

    /// One of `kinds`; of all when there are none.
    pub fn random(random: &mut StdRng, operators: Operators, kinds: &[Self]) -> Self {
        let all = Self::of(operators, kinds).map(|(_, weight)| weight).sum();
        assert!(all > 0, "{kinds:?} are no faults for {operators:?}");
        let mut ticket = random.random_range(0..all);
        for (fault, weight) in Self::of(operators, kinds) {
            if ticket < *weight {
                return *fault;
            }
            ticket -= weight;
        }
        unreachable!("the ticket is below the sum of the weights")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kill => "operator killed (SIGKILL)",
            Terminate => "operator ended (SIGTERM)",
            Stop => "operator stopped for 20 s (SIGSTOP, SIGCONT)",
            Cut => "connections to the broker reset",
            Freeze => "broker's network frozen for 40 s",
            Slow => "broker's network slow",
            NoApiServer => "API server's network frozen for 20 s",
            CutApiServer => "connections to the API server reset",
            DeleteRefillQueue => "refill queue deleted",
            Flood => "refill queue flooded",
            EditMaximum => "maximum edited",
            Suspend => "bucket suspended and resumed",
            RestartBroker => "broker restarted",
            MemoryAlarm => "broker's memory alarm",
        })
    }
}

impl fmt::Display for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clusters, replicas } = self;
        match clusters {
            1 => write!(f, "{replicas}"),
            _ => write!(
                f,
                "{clusters}, each of another cluster, with resources of its own"
            ),
        }
    }
}
