//! What every flag is set to: for `PROXY SHOW CONFIG`, and for what a reload changes. Shows no secrets.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use clap::{Arg, ArgMatches, Command};

use crate::file::OF_THE_COMMAND_LINE;

/// Every flag that has a value, by its name without dashes.
#[derive(Clone, Default)]
pub(crate) struct Facts(BTreeMap<String, Fact>);

/// One flag.
#[derive(Clone)]
struct Fact {
    /// As an operator may see it.
    shown: String,
    /// Of the value, and of the files that it names.
    digest: u64,
}

// === impl Facts ===

impl Facts {
    pub(crate) fn of(matches: &ArgMatches, command: &Command) -> Self {
        let flags = command.get_arguments().filter_map(|flag| {
            let name = flag
                .get_long()
                .filter(|name| !OF_THE_COMMAND_LINE.contains(name))?;
            let values = matches.get_raw(flag.get_id().as_str())?;
            Some((name.to_owned(), Fact::of(flag, &values.collect::<Vec<_>>())))
        });
        Self(flags.collect())
    }

    /// `key = value`, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.0.iter().map(|(key, fact)| format!("{key} = {}", fact.shown));
        lines.collect()
    }

    /// The keys that are something else in `newer`.
    pub(crate) fn changed(&self, newer: &Self) -> Vec<String> {
        let mut keys: Vec<_> = self.0.keys().chain(newer.0.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| self.digest(key) != newer.digest(key));
        keys
    }

    fn digest(&self, key: &str) -> Option<u64> {
        self.0.get(key).map(|fact| fact.digest)
    }

    /// Takes `keys` back to what they are in `earlier`.
    pub(crate) fn keep(&mut self, keys: &[String], earlier: &Self) {
        for key in keys {
            match earlier.0.get(key) {
                Some(fact) => drop(self.0.insert(key.clone(), fact.clone())),
                None => drop(self.0.remove(key)),
            }
        }
    }
}

// === impl Fact ===

impl Fact {
    fn of(flag: &Arg, values: &[&OsStr]) -> Self {
        let kind = flag
            .get_value_names()
            .and_then(|names| names.first())
            .map(|name| name.as_str());
        let mut hasher = DefaultHasher::new();
        values.hash(&mut hasher);
        if kind == Some("FILE") {
            for path in values {
                // One that cannot be read is found out where it is used.
                std::fs::read(path).unwrap_or_default().hash(&mut hasher);
            }
        }
        let shown: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
        Self {
            shown: match kind {
                Some("SECRET") => "(not shown)".to_owned(),
                _ => shown.join(","),
            },
            digest: hasher.finish(),
        }
    }
}
