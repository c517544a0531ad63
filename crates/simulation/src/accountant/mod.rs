//! Watches the broker's journal and knows nothing of the machine: what each transaction added, for which tick, and whether
//! that was due.

mod books;
mod ticks;

use bucket::queue_name;
use chrono::{DateTime, Utc};

use crate::broker::{Broker, ConnectionId, Entry};
use crate::operator::Body;
use crate::plan::Spec;

pub use books::Books;

/// What should never be: which invariant, and how it was broken.
pub type Violation = String;

/// The books of all buckets.
#[derive(Clone, Debug)]
pub struct Accountant {
    books: Vec<Books>,
    /// Whatever a broker that dies in the middle of a commit has done of it.
    partial: bool,
}

/// What a step at the broker belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// Somebody writes a ledger where there is none.
    WritesLedger,
    /// A bucket is removed with its resource.
    Removes,
    /// Anything else.
    #[default]
    Else,
}

/// What is not counted too strictly in a schedule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leniency {
    /// Tokens may be dropped by a limit: somebody fills the queue or limits it, or two resources want other limits.
    pub drops: bool,
    /// Requests without an id can come twice.
    pub anonymous: bool,
    /// There are several operators, and one may be in the way of another.
    pub several: bool,
    /// Operators stand still, and get to know of edits late.
    pub late: bool,
    /// Clocks are set: what was due is not certain.
    pub clocks: bool,
    /// Requests get lost.
    pub requests: bool,
    /// Who carried out a tick dies, and both queues of the bucket are deleted: nobody knows of it any more.
    pub forgets: bool,
}

impl Accountant {
    /// Of so many buckets.
    #[must_use]
    pub fn new(buckets: usize, lenient: Leniency) -> Self {
        let books = |number| Books::new(crate::fixture::bucket_name(number), lenient);
        Self {
            books: (0..buckets).map(books).collect(),
            partial: false,
        }
    }

    /// The books of a bucket.
    #[must_use]
    pub fn books(&self, bucket: usize) -> &Books {
        &self.books[bucket]
    }

    /// People make a specification so, at this time.
    pub fn specified(
        &mut self,
        bucket: usize,
        uid: &str,
        created: DateTime<Utc>,
        at: DateTime<Utc>,
        spec: Spec,
    ) {
        self.books[bucket].specified(uid, created, at, spec);
    }

    /// The only operator there is has no connection from now on.
    pub fn down(&mut self, at: DateTime<Utc>) {
        for books in &mut self.books {
            books.downs.push((at, None));
        }
    }

    /// It has one again.
    pub fn up(&mut self, at: DateTime<Utc>) {
        for books in &mut self.books {
            if let Some((_, to)) = books.downs.last_mut() {
                to.get_or_insert(at);
            }
        }
    }

    /// A queue was replaced on a connection, and so many tokens went with it.
    pub fn replaced(&mut self, name: &str, connection: ConnectionId, tokens: u64) {
        let queue = queue_name(name);
        if let Some(books) = self.books.iter_mut().find(|books| books.queue == queue) {
            books.in_hand.push((connection, tokens));
        }
    }

    /// A connection is gone; what went with the queues that were replaced on it is lost.
    pub fn forget_replaced(&mut self, connection: ConnectionId) {
        for books in &mut self.books {
            books.in_hand.retain(|(of, _)| *of != connection);
        }
    }

    /// The queues of a bucket are gone with its resource.
    pub fn removed(&mut self, bucket: usize) {
        self.books[bucket].begin_anew();
    }

    /// The broker died in the middle of a commit. From then on only the maximum is certain.
    pub fn broker_died(&mut self) {
        self.partial = true;
    }

    /// Reads what has happened at the broker in one step; `doing` says what the step belongs to.
    ///
    /// # Errors
    /// What should not have been.
    pub fn observe(
        &mut self,
        broker: &Broker<Body>,
        entries: &[Entry<Body>],
        doing: Doing,
    ) -> Result<(), Violation> {
        let partial = self.partial;
        for books in &mut self.books {
            books.watch(broker, entries, partial, doing)?;
        }
        Ok(())
    }
}
