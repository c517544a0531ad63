//! The machine that decides about refills, driven against a broker in memory by a seeded scheduler: operators crash,
//! sleep, lose connections and answers; people take tokens, edit, delete and break things. An accountant who knows nothing
//! of the machine checks what comes of it. A seed that fails is printed, replays exactly, and is shrunk.

pub mod accountant;
pub mod broker;
pub mod conformance;
mod fixture;
pub mod interleavings;
pub mod operator;
pub mod plan;
pub mod search;
pub mod world;
