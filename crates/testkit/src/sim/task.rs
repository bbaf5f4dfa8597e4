//! Where the simulated world starts its tasks.

use std::cell::Cell;
use std::sync::Once;

thread_local! {
    /// Panics of the present test, whoever catches them.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Starts a task of the world, on the LocalSet. One that panics is counted, and so is one of the product's.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    static COUNTING: Once = Once::new();
    COUNTING.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            told(panic);
        }));
    });
    tokio::task::spawn_local(future);
}

/// How many tasks of this thread's world have panicked since this was asked last.
#[must_use]
pub fn panics() -> u32 {
    PANICS.take()
}
