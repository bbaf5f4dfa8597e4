//! What the user of the driver may choose.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

use super::peer::Peer;
use super::workload::{self, Kind, Workload};

/// Measures slipring, its peers and the floor with redis-benchmark in interleaved rounds.
#[derive(Parser, Debug)]
#[command(name = "load", max_term_width = 110)]
pub struct Options {
    /// Workloads by name, or `all`; a wrong name lists them.
    #[arg(long, value_delimiter = ',', default_value = "get,set,get-p16,set-p16")]
    pub workload: Vec<String>,
    /// What to measure; one that is not installed is left out.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,floor,slipring,traced,haproxy,nutcracker,envoy"
    )]
    pub peers: Vec<Peer>,
    /// Interleaved rounds; medians are taken over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length that one measurement should have, in seconds.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Requests in one measurement, instead of as many as fit into `--seconds`.
    #[arg(long)]
    pub requests: Option<u64>,
    /// Clients of the workload `idle`, if the descriptor limit allows as many.
    #[arg(long, default_value_t = 10_000)]
    pub idle_clients: usize,
    /// The binary to measure, instead of the one of this checkout, which is built first.
    #[arg(long)]
    pub slipring: Option<PathBuf>,
    /// Further arguments for slipring, separated by commas.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    pub slipring_args: Vec<String>,
    /// Where the JSON goes [default: load/<seconds since 1970>.json in the target folder].
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Counts the system calls of each front as well, in runs of their own (needs strace).
    #[arg(long)]
    pub syscalls: bool,
    /// Compares with the project's thresholds, and fails when one is missed or was not measured.
    #[arg(long)]
    pub check: bool,
}

// === impl Options ===

impl Options {
    /// What takes part in a workload of this kind.
    pub(super) fn peers_facing(&self, kind: &Kind) -> impl Iterator<Item = Peer> {
        let peers = self.peers.iter().copied();
        peers.filter(|peer| peer.is_installed() && peer.faces(kind))
    }

    /// The workloads asked for, and with `--check` those that are `needed` for it, in the order of the table.
    ///
    /// # Errors
    /// When a name is unknown; the message lists all names.
    pub(super) fn workloads(&self, needed: fn(&str) -> bool) -> Result<Vec<&'static Workload>> {
        let names: Vec<&str> = workload::ALL.iter().map(|workload| workload.name).collect();
        if let Some(unknown) = self
            .workload
            .iter()
            .find(|name| *name != "all" && !names.contains(&name.as_str()))
        {
            bail!(
                "no workload is named {unknown:?}; there are: all, {}",
                names.join(", ")
            );
        }
        let asked = |name| self.workload.iter().any(|asked| asked == "all" || asked == name);
        Ok(workload::ALL
            .iter()
            .filter(|workload| asked(workload.name) || (self.check && needed(workload.name)))
            .collect())
    }
}
