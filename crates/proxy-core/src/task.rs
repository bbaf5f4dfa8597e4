//! The one place where the data plane starts tasks.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

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

/// Has the task of `cx` polled again, behind all others: those included whose sockets have become ready meanwhile.
///
/// # Panics
/// Outside a runtime.
pub(crate) fn wake_behind_others(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
