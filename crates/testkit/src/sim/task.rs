//! Where the simulated world starts its tasks.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

thread_local! {
    /// Tasks of the present test that panicked.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Starts a task of the world, on the LocalSet. One that panics is counted.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(async {
        if AssertUnwindSafe(future).catch_unwind().await.is_err() {
            PANICS.set(PANICS.get() + 1);
        }
    });
}

/// How many tasks of this thread's world have panicked since this was asked last.
#[must_use]
pub fn panics() -> u32 {
    PANICS.take()
}
