//! The threads, each with an event loop of its own.

use anyhow::Context;
use proxy_core::Worker;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// Runs `work` on this thread, and nothing beside it.
pub(crate) fn alone<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    event_loop()?.block_on(work)
}

/// Runs `worker` on a thread of its own.
pub(crate) fn start((number, worker): (usize, Worker)) -> anyhow::Result<oneshot::Receiver<()>> {
    let (sender, ended) = oneshot::channel();
    let event_loop = event_loop()?;
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            LocalSet::new().block_on(&event_loop, worker.run());
            // The control thread may have ended already, at the second signal.
            let _ = sender.send(());
        })
        .with_context(|| format!("cannot start the thread of worker {number}"))?;
    Ok(ended)
}

/// An event loop for the thread that calls.
pub(crate) fn event_loop() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot create an event loop")
}
