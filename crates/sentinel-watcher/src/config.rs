//! What an operator can set that the watcher needs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::address_map::AddressMap;
use crate::credentials::Credentials;
use crate::topology::HostPort;

/// One watched master. The binary fills it from flags, environment and file.
#[derive(Clone)]
pub struct WatcherConfig {
    /// The master's name, as Sentinel knows it.
    pub master: String,
    /// Sentinels known from the start; more are discovered from them.
    pub sentinels: Vec<HostPort>,
    /// Who to be towards sentinels.
    pub sentinel_credentials: Option<Credentials>,
    /// Who to be towards nodes: the watcher asks them for their ROLE.
    pub node_credentials: Option<Credentials>,
    /// Where announced addresses are reached. Configured sentinels are taken as written.
    pub address_map: AddressMap,
    /// How far behind a replica may be and still be read.
    pub max_replica_lag: Option<Lag>,
    /// Deadline of one connection attempt.
    pub connect_timeout: Duration,
    /// Deadline of one answer, of a sentinel or a node.
    pub node_timeout: Duration,
}

/// How far a replica is behind its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// Bytes of the replication stream.
    Bytes(u64),
    /// Time since the replica had all that the primary had.
    Time(Duration),
}

/// Text that is no lag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LagError(String);

// === impl WatcherConfig ===

impl WatcherConfig {
    /// The master `name` behind `sentinels`, where nobody asks for a password and addresses are as announced; each
    /// connection and each answer may take a second.
    #[must_use]
    pub fn new(name: &str, sentinels: Vec<HostPort>) -> Self {
        Self {
            master: name.to_owned(),
            sentinels,
            sentinel_credentials: None,
            node_credentials: None,
            address_map: AddressMap::default(),
            max_replica_lag: None,
            connect_timeout: Duration::from_secs(1),
            node_timeout: Duration::from_secs(1),
        }
    }
}

// === impl Lag ===

/// `5s`, `500ms`, `1m`, or a size: `64kb`, `16mb`, `1gb`, `1048576` (bytes). `m` is minutes.
impl FromStr for Lag {
    type Err = LagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || LagError(text.to_owned());
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let bytes = |shift: u32| number.checked_mul(1 << shift).map(Lag::Bytes).ok_or_else(wrong);
        match unit.to_ascii_lowercase().as_str() {
            "" | "b" => bytes(0),
            "kb" => bytes(10),
            "mb" => bytes(20),
            "gb" => bytes(30),
            "ms" => Ok(Self::Time(Duration::from_millis(number))),
            "s" => Ok(Self::Time(Duration::from_secs(number))),
            "m" => Ok(Self::Time(Duration::from_secs(
                number.checked_mul(60).ok_or_else(wrong)?,
            ))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for LagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is no lag: takes a size (64kb, 16mb) or a duration (500ms, 5s)",
            self.0
        )
    }
}

impl std::error::Error for LagError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_reads_sizes_and_durations() {
        for (text, lag) in [
            ("0", Lag::Bytes(0)),
            ("64kb", Lag::Bytes(65_536)),
            ("1GB", Lag::Bytes(1 << 30)),
            ("500ms", Lag::Time(Duration::from_millis(500))),
            ("2m", Lag::Time(Duration::from_secs(120))),
        ] {
            assert_eq!(text.parse(), Ok(lag), "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1 s", "99999999999gb", "1.5s"] {
            assert!(text.parse::<Lag>().is_err(), "{text}");
        }
    }
}
