//! Waiting for something to become true, with a deadline and an error that says what never came.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long a step of the harness may take before it is called broken, on a machine busy with other tests.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the harness waits for a server's answer to one of its own questions: a frozen one is passed over.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `attempt` until it succeeds.
///
/// # Errors
/// The last error of `attempt` when `timeout` has passed, under a line naming `what`.
pub fn wait_for<T>(what: &str, timeout: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("waited {timeout:?} for {what}"));
            }
            Err(_) => sleep(POLL_INTERVAL),
        }
    }
}
