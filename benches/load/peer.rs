//! The kinds of front that are compared.

use std::fmt::{self, Display};

use clap::ValueEnum;
use serde::Serialize;

use super::workload::Transport;

/// The kinds of front. All of them use one processor: one worker, one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// Redis addressed directly.
    Direct,
    /// The server without a backend, in [`crate::floor`].
    Floor,
    /// slipring with one worker and its metrics on.
    Slipring,
    /// haproxy in TCP mode with one thread: one backend connection per client, bytes copied unseen.
    Haproxy,
    /// nutcracker (twemproxy): one backend connection, single-threaded.
    Nutcracker,
    /// envoy's Redis filter with one thread.
    Envoy,
}

// === impl Peer ===

impl Peer {
    /// False when its program is not installed.
    pub(super) fn is_installed(self) -> bool {
        let program = match self {
            Self::Direct | Self::Floor | Self::Slipring => return true,
            Self::Haproxy => "haproxy",
            Self::Nutcracker => "nutcracker",
            Self::Envoy => "envoy",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    }

    /// Whether its clients may come this way.
    pub(super) fn speaks(self, transport: Transport) -> bool {
        transport == Transport::Plain || matches!(self, Self::Slipring | Self::Haproxy)
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Slipring => "slipring",
            Self::Haproxy => "haproxy",
            Self::Nutcracker => "nutcracker",
            Self::Envoy => "envoy",
        })
    }
}
