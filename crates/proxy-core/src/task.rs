//! The one place where the data plane starts tasks.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts `future` on the worker's LocalSet.
///
/// # Panics
/// Outside a LocalSet.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(future)
}
