//! What Sentinel announces is not always what can be reached: NAT, containers, port forwarding.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::topology::HostPort;

/// Rewrites announced addresses of nodes and sentinels (`--address-map FROM=TO`).
///
/// An entry for `host:port` wins over one for the whole host. Addresses without an entry stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressMap {
    exact: BTreeMap<HostPort, HostPort>,
    hosts: BTreeMap<Arc<str>, Arc<str>>,
}

/// One `FROM=TO`: `host:port=host:port`, or `host=host` for every port of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMapEntry(Rewrite);

/// Text that is no `FROM=TO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMapError(String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rewrite {
    Exact(HostPort, HostPort),
    Host(Arc<str>, Arc<str>),
}

// === impl AddressMap ===

impl AddressMap {
    /// Adds an entry; a later one for the same address replaces the earlier.
    pub fn insert(&mut self, entry: AddressMapEntry) {
        match entry.0 {
            Rewrite::Exact(from, to) => drop(self.exact.insert(from, to)),
            Rewrite::Host(from, to) => drop(self.hosts.insert(from, to)),
        }
    }

    /// Where `announced` is reached from here.
    #[must_use]
    pub fn reach(&self, announced: HostPort) -> HostPort {
        if let Some(to) = self.exact.get(&announced) {
            return to.clone();
        }
        match self.hosts.get(&announced.host) {
            Some(host) => HostPort {
                host: Arc::clone(host),
                port: announced.port,
            },
            None => announced,
        }
    }
}

impl FromIterator<AddressMapEntry> for AddressMap {
    fn from_iter<I: IntoIterator<Item = AddressMapEntry>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|entry| map.insert(entry));
        map
    }
}

/// A single `FROM=TO`.
impl FromStr for AddressMap {
    type Err = AddressMapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from_iter([text.parse::<AddressMapEntry>()?]))
    }
}

impl Extend<AddressMapEntry> for AddressMap {
    fn extend<I: IntoIterator<Item = AddressMapEntry>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.insert(entry));
    }
}

// === impl AddressMapEntry ===

impl FromStr for AddressMapEntry {
    type Err = AddressMapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AddressMapError(text.to_owned());
        let (from, to) = text.split_once('=').ok_or_else(wrong)?;
        if let (Ok(from), Ok(to)) = (from.parse(), to.parse()) {
            return Ok(Self(Rewrite::Exact(from, to)));
        }
        let host = |text: &str| {
            let name = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let plain = !text.is_empty() && !text.contains(':');
            name.or(plain.then_some(text)).map(Arc::<str>::from)
        };
        match (host(from), host(to)) {
            (Some(from), Some(to)) => Ok(Self(Rewrite::Host(from, to))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for AddressMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is no host:port=host:port and no host=host", self.0)
    }
}

impl std::error::Error for AddressMapError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_entries_win_over_hosts() {
        let entries = ["10.0.0.1=localhost", "10.0.0.1:6380=127.0.0.1:16380", "[::1]=v6"];
        let map: AddressMap = entries
            .iter()
            .map(|text| text.parse::<AddressMapEntry>().unwrap())
            .collect();
        for (from, to) in [
            ("10.0.0.1:6379", "localhost:6379"),
            ("10.0.0.1:6380", "127.0.0.1:16380"),
            ("[::1]:1", "v6:1"),
            ("10.0.0.2:6379", "10.0.0.2:6379"),
        ] {
            assert_eq!(map.reach(from.parse().unwrap()).to_string(), to);
        }
    }

    #[test]
    fn half_an_entry_is_refused() {
        for text in ["", "=", "a=", "a:1=b", "a=b:1", "a:1", "a:b=c"] {
            assert!(text.parse::<AddressMapEntry>().is_err(), "{text}");
        }
    }
}
