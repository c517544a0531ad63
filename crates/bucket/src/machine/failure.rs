//! Why something was not done, as far as decisions depend on it.

/// A failure in words for people, and in the one word that decides what happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of a fixed set of CamelCase words, for conditions and metrics.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// What it means.
    pub class: Class,
}

/// What a failure means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Trying again helps, sooner or later.
    Transient,
    /// A person has to change something first.
    Person,
    /// A resource alarm is in force: it is tried again when that is over.
    Blocked,
    /// A queue is there and cannot be reached; others can. It is tried again.
    Unavailable,
    /// A queue is missing.
    NoQueue,
    /// Somebody else consumes the queue.
    InUse,
    /// A queue refuses messages. It is tried again all the same.
    Refused,
    /// The connection is gone; `Event::Lost` says so too.
    ConnectionLost,
    /// The same, and the broker has ended it over an error of its own.
    Crash,
}
