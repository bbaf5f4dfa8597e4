//! What is going on, for whoever watches.

use std::io::{self, IsTerminal};

/// Shows what is going on in one line that the next call overwrites; nothing where nobody watches.
pub(super) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}
