//! Why an open MULTI can only end in EXECABORT.

use bytes::Bytes;

use crate::error::Error;

/// What has spoiled a transaction, first of all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Abort {
    /// Its connection was lost, and it had outgrown its journal.
    Lost,
    /// slipring refused one of its commands.
    Refused,
    /// No primary came for one of its commands.
    Unserved,
}

// === impl Abort ===

impl Abort {
    /// What EXEC is answered.
    pub(super) fn reply(self) -> Bytes {
        match self {
            Self::Lost => Error::TransactionLost.reply(),
            Self::Refused | Self::Unserved => Error::TransactionRefused.reply(),
        }
    }
}
