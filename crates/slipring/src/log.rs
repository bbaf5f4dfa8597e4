//! Log lines on standard error, as text or as one JSON object a line.
//!
//! They are written by a thread of their own: where standard error takes nothing (a full disk, a pipe that nobody reads),
//! lines are lost, and nobody waits.

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

use crate::cli::LogFormat;

/// The least severe messages to log; a reload may change it.
pub(crate) struct Level(reload::Handle<LevelFilter, Registry>);

/// Lines that wait to be written; one more is lost.
const LINES_WAITING: usize = 4096;

/// Installs the log for the whole process, and sends panics there too. What was logged is written when the guard is dropped,
/// unless that takes more than a moment.
pub(crate) fn install(level: LevelFilter, format: LogFormat) -> (Level, WorkerGuard) {
    use std::io::IsTerminal;
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (writer, written) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING)
        .thread_name("log")
        .finish(std::io::stderr());
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal() && !plain);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let (level, handle) = reload::Layer::new(level);
    tracing_subscriber::registry().with(level).with(lines).init();
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(at, message, %backtrace, "slipring panicked: this is a defect");
    }));
    (Level(handle), written)
}

// === impl Level ===

impl Level {
    /// From now on.
    pub(crate) fn set(&self, level: LevelFilter) {
        // Fails only where the log is gone, and nobody could be told.
        let _ = self.0.reload(level);
    }
}
