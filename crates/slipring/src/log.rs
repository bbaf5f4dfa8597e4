//! Log lines on standard error, as text or as one JSON object a line.

use tracing::level_filters::LevelFilter;

use crate::cli::LogFormat;

/// Installs the log for the whole process, and sends panics there too.
pub(crate) fn install(level: LevelFilter, format: LogFormat) {
    use std::io::IsTerminal;
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !plain);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(at, message, %backtrace, "slipring panicked: this is a defect");
    }));
}
