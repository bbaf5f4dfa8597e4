//! The one place where the watcher spawns: its tasks live and die with it.

use std::future::Future;

use tokio::task::{AbortHandle, JoinSet};

/// The watcher's tasks. Dropping the set ends them all.
#[derive(Default)]
pub(crate) struct Tasks(JoinSet<()>);

/// One task; dropping this ends it.
pub(crate) struct Task(AbortHandle);

// === impl Tasks ===

impl Tasks {
    /// Starts `work` on the present runtime.
    pub(crate) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(self.0.spawn(work))
    }

    /// Waits for one task to end; for ever where there is none.
    pub(crate) async fn reap(&mut self) {
        match self.0.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(%error, "a task of the watcher panicked; the others go on");
            }
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

// === impl Task ===

impl Task {
    /// It has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
