//! Deliberate defects, one at a time, so that the simulator can show that it finds them.
//!
//! Compiled in only with the feature `sabotage`, which no crate turns on: without it nothing is ever sabotaged, and
//! the compiler drops the question.

/// What can be broken, and what must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A write that was sent, and whose connection was lost, is sent again.
    ResendSent,
    /// A script that answers READONLY is run again.
    RetryScripts,
    /// A former primary's connections stay.
    NoFence,
    /// Only the first sentinel is listened to.
    FirstSentinelOnly,
    /// A release on the candidate's own word is never taken back.
    ProvisionalIsFinal,
    /// A connection is given back whatever has been left on it.
    DirtyLeases,
    /// A failover is told of only while it goes on.
    UntoldEnds,
}

#[cfg(feature = "sabotage")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Sabotage>> = const { std::cell::Cell::new(None) };
}

/// Breaks this, and nothing else, for all that runs on this thread from here on.
#[cfg(feature = "sabotage")]
pub fn sabotage(what: Option<Sabotage>) {
    CHOSEN.set(what);
}

/// Whether this is broken now.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn is_sabotaged(what: Sabotage) -> bool {
    CHOSEN.get() == Some(what)
}

/// Whether this is broken now: never.
#[cfg(not(feature = "sabotage"))]
#[must_use]
pub const fn is_sabotaged(_: Sabotage) -> bool {
    false
}
