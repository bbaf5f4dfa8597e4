//! The kinds of front that are compared.

use std::fmt::{self, Display};

use clap::ValueEnum;
use serde::Serialize;

use super::workload::{Kind, Transport};

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
    /// The same with its slow log, one command in 1,000 sampled, and spans sent to a collector's stand-in.
    Traced,
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
            Self::Direct | Self::Floor | Self::Slipring | Self::Traced => return true,
            Self::Haproxy => "haproxy",
            Self::Nutcracker => "nutcracker",
            Self::Envoy => "envoy",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    }

    /// Whether it has a part in this kind of workload: something to measure, and a way in for its clients.
    pub(super) fn faces(self, kind: &Kind) -> bool {
        match kind {
            Kind::Requests(requests) => {
                requests.transport == Transport::Plain || matches!(self, Self::Slipring | Self::Haproxy)
            }
            Kind::Idle => self != Self::Traced,
            Kind::Through => !matches!(self, Self::Direct | Self::Floor | Self::Traced),
            Kind::Fairness | Kind::Unread => !matches!(self, Self::Floor | Self::Traced),
        }
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Slipring => "slipring",
            Self::Traced => "traced",
            Self::Haproxy => "haproxy",
            Self::Nutcracker => "nutcracker",
            Self::Envoy => "envoy",
        })
    }
}
