//! What a run is found guilty of.

use std::cell::RefCell;
use std::fmt;

use super::trace;

/// What must not happen, in order of dread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dread {
    /// A reply reached another client, or answers another request.
    Misdelivered,
    /// Replies or executions out of order.
    Disorder,
    /// A command was executed twice, or although it was refused.
    Repeated,
    /// An acknowledged write is gone that Redis did not lose.
    Lost,
    /// A connection with somebody's state served another.
    DirtyLease,
    /// Somebody was not served in time.
    Stall,
    /// The timeline tells what did not happen, or does not tell what did.
    Untold,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub dread: Dread,
    /// What happened.
    pub what: String,
}

thread_local! {
    static FINDINGS: RefCell<Vec<Finding>> = const { RefCell::new(Vec::new()) };
}

/// This happened, and must not.
pub fn blame(dread: Dread, what: String) {
    trace::note(|| format!("!!! {dread:?}: {what}"));
    FINDINGS.with_borrow_mut(|findings| findings.push(Finding { dread, what }));
}

/// All that was found since this was asked last, the worst first.
#[must_use]
pub fn findings() -> Vec<Finding> {
    let mut findings = FINDINGS.take();
    findings.sort_by_key(|finding| finding.dread);
    findings
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.dread, self.what)
    }
}
