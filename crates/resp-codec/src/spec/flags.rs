//! The flags of the servers' `COMMAND` reply, and one of ours.

use super::table::bits;

/// A set of what a command is, says or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandFlags(u32);

// === impl CommandFlags ===

impl CommandFlags {
    /// Writes, or may.
    pub const WRITE: Self = Self(bits::WRITE);
    /// Only reads: may be sent again, and to a replica.
    pub const READONLY: Self = Self(bits::READONLY);
    /// Refused once `maxmemory` is reached.
    pub const DENYOOM: Self = Self(bits::DENYOOM);
    /// For administrators.
    pub const ADMIN: Self = Self(bits::ADMIN);
    /// Publishing or subscribing.
    pub const PUBSUB: Self = Self(bits::PUBSUB);
    /// Not from within a script.
    pub const NOSCRIPT: Self = Self(bits::NOSCRIPT);
    /// May wait for others to write.
    pub const BLOCKING: Self = Self(bits::BLOCKING);
    /// Taken while the dataset loads.
    pub const LOADING: Self = Self(bits::LOADING);
    /// Taken by a replica that has lost its primary.
    pub const STALE: Self = Self(bits::STALE);
    /// Not shown to MONITOR.
    pub const SKIP_MONITOR: Self = Self(bits::SKIP_MONITOR);
    /// Not logged when slow.
    pub const SKIP_SLOWLOG: Self = Self(bits::SKIP_SLOWLOG);
    /// Taken for a slot that is being imported.
    pub const ASKING: Self = Self(bits::ASKING);
    /// Constant or logarithmic time.
    pub const FAST: Self = Self(bits::FAST);
    /// Taken before authentication.
    pub const NO_AUTH: Self = Self(bits::NO_AUTH);
    /// May name no key at all.
    pub const NO_MANDATORY_KEYS: Self = Self(bits::NO_MANDATORY_KEYS);
    /// Taken while a script runs too long.
    pub const ALLOW_BUSY: Self = Self(bits::ALLOW_BUSY);
    /// Refused while a replica loads asynchronously.
    pub const NO_ASYNC_LOADING: Self = Self(bits::NO_ASYNC_LOADING);
    /// Not within a transaction.
    pub const NO_MULTI: Self = Self(bits::NO_MULTI);
    /// The positions of its keys depend on its arguments.
    pub const MOVABLE_KEYS: Self = Self(bits::MOVABLEKEYS);
    /// Ours: runs code that the table cannot see into (EVAL, FCALL, unknown commands).
    pub const SCRIPT: Self = Self(1 << 31);

    /// Whether all of `other` is in here.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}
