//! What the tests stand on: one control plane and one broker for the whole run, a vhost and a namespace for each
//! test, and the operator as a process that can be killed.

mod accountant;
mod buckets;
mod celery;
mod connect_proxy;
mod crowd;
mod engine;
mod events;
mod helm;
mod namespace;
mod operator;
mod proxy;
mod testbed;
mod vhost;
mod wait;
mod workers;

pub use accountant::{Account, Accountant, Pace};
pub use buckets::{Buckets, RARELY, SOON, condition, last_tick, reason};
pub use celery::Celery;
pub use connect_proxy::ConnectProxy;
pub use crowd::Crowd;
pub use engine::{Running, asked, bucket, progressing, removal, send_requests};
pub use events::event;
pub use helm::{Helm, Pod, chart};
pub use namespace::Namespace;
pub use operator::Operator;
pub use proxy::{Network, Proxy};
pub use testbed::{Testbed, stage, testbed, tool};
pub use vhost::Vhost;
pub use wait::eventually;
pub use workers::{Worker, calls_become};

/// A number that no other test of this or another run has: a part of names.
fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Runs `work` to its end from a place that cannot await: `Drop`. The caller's own runtime may be the only thread it
/// has, so another one does the work.
fn finish(work: impl Future<Output = ()> + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime starts").block_on(work);
        });
    });
}
