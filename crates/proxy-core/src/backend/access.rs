//! Whom the nodes let in may change while clients are connected. As on Redis, a connection keeps what it was granted when
//! it was made, and newcomers are asked for the password: so those who have not authenticated share connections only with
//! others of their own era.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use resp_codec::Command;
use sentinel_watcher::Credentials;

/// In which era of its master's access a client came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Era(u32);

/// The present era. One a master, for all workers.
#[derive(Debug, Default)]
pub(crate) struct Access(AtomicU32);

// === impl Era ===

impl Era {
    /// That of a session that came in this one and is `somebody`: the node knows those whenever they come.
    pub(crate) fn of(self, somebody: Option<&Credentials>) -> Self {
        if somebody.is_some() { Self::default() } else { self }
    }
}

// === impl Access ===

impl Access {
    /// The present era.
    pub(crate) fn era(&self) -> Era {
        Era(self.0.load(Ordering::Relaxed))
    }

    /// The era that began with `era` is over, unless somebody else has ended it.
    pub(crate) fn end(&self, Era(era): Era) {
        let next = era.wrapping_add(1);
        let _ = self
            .0
            .compare_exchange(era, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Whether `command`, once executed, may have changed what a node asks of newcomers.
pub(super) fn is_changed_by(command: &Command<Bytes>) -> bool {
    match command.spec().name {
        "acl|load" => true,
        "acl|setuser" => command.arg(2) == Some(b"default"),
        "config|set" => {
            let mut names = command.args().skip(2).step_by(2);
            names.any(|name| name.eq_ignore_ascii_case(b"requirepass"))
        }
        _ => false,
    }
}
