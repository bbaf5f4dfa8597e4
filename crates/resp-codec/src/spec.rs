//! What is known of each command: generated from live servers' `COMMAND` replies, with our class beside it.

mod class;
mod flags;
mod lookup;
#[rustfmt::skip]
mod table;

pub use class::{Access, Class};
pub use flags::CommandFlags;

use table::ROWS;

/// Rows of [`TABLE`]: per-command metrics are arrays of this length.
pub const COUNT: usize = ROWS.len() + 1;

/// Every command known, sorted by name, each container followed by its subcommands; the last row is
/// [`CommandSpec::UNKNOWN`].
pub static TABLE: [CommandSpec; COUNT] = lookup::build();

/// A row of [`TABLE`].
#[derive(Debug)]
pub struct CommandSpec {
    /// Its index in [`TABLE`].
    pub id: CommandId,
    /// In lower case, a subcommand behind its container: `client|setname`. The unknown command is `other`.
    pub name: &'static str,
    /// Arguments that it takes, its name (and its container's) included; below 0: at least so many.
    pub arity: i16,
    /// What it does to the dataset.
    pub access: Access,
    /// What the servers say of it.
    pub flags: CommandFlags,
    /// How it travels.
    pub class: Class,
    /// Where its keys stand.
    pub keys: &'static [KeySpec],
    /// How many rows behind this one are its subcommands.
    subcommands: u16,
}

/// A dense index into [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(u16);

/// Where some keys of a command stand, in the words of Redis' key specifications. Positions count arguments, the
/// command's name being 0.
#[derive(Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Where to start.
    pub begin: Begin,
    /// Which of the arguments from there on are keys.
    pub find: Find,
}

/// Where to start looking for keys.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    Index(u16),
    /// Behind the first argument that is this word, searched from this position on.
    Keyword(&'static str, u16),
}

/// Which arguments are keys, seen from the start.
#[derive(Debug, PartialEq, Eq)]
pub enum Find {
    /// Up to `last` (counted from the start, or from the end if negative), each `step`-th. With a `limit` above 1
    /// only the first `limit`-th part of what remains.
    Range {
        /// The last key.
        last: i16,
        /// From one key to the next.
        step: u16,
        /// 0 and 1 mean no limit.
        limit: u16,
    },
    /// As many as an argument says.
    Count {
        /// Where the number stands, from the start.
        at: u16,
        /// Where the first key stands, from the start.
        first: u16,
        /// From one key to the next.
        step: u16,
    },
}

// === impl CommandSpec ===

impl CommandSpec {
    /// Any command that is not in the table. It may do anything: it counts as a write and as a script.
    pub const UNKNOWN: &'static Self = &TABLE[COUNT - 1];

    /// `PROXY`: it is in no server's table, and not in this one.
    pub const PROXY: &'static Self = &lookup::PROXY;

    /// The row of the command that is called `name`, in any case. Subcommands are found by [`Self::subcommand`].
    #[inline]
    pub fn of(name: &[u8]) -> &'static Self {
        lookup::find(name).unwrap_or_else(|| lookup::unlisted(name))
    }

    /// The row of a container's subcommand, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Self> {
        lookup::find_subcommand(self, name)
    }

    /// Whether the command only groups others (`CLIENT`, `CONFIG`).
    #[inline]
    pub fn is_container(&self) -> bool {
        self.subcommands > 0
    }

    /// Whether `argc` arguments are a number that it takes.
    #[inline]
    pub fn accepts(&self, argc: usize) -> bool {
        let least = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 {
            argc >= least
        } else {
            argc == least
        }
    }
}

// === impl CommandId ===

impl CommandId {
    /// As an index into [`TABLE`] and arrays of [`COUNT`] entries.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Its row.
    pub fn spec(self) -> &'static CommandSpec {
        TABLE.get(self.index()).unwrap_or(CommandSpec::UNKNOWN)
    }
}

/// A row as the generator writes it.
struct Row {
    name: &'static str,
    arity: i16,
    flags: CommandFlags,
    keys: &'static [KeySpec],
}

/// The shorthand of the generated table.
const fn row(name: &'static str, arity: i16, flags: u32, keys: &'static [KeySpec]) -> Row {
    Row {
        name,
        arity,
        flags: CommandFlags::from_bits(flags),
        keys,
    }
}

const fn keys(begin: Begin, find: Find) -> KeySpec {
    KeySpec { begin, find }
}

const fn at(index: u16) -> Begin {
    Begin::Index(index)
}

const fn behind(word: &'static str, from: u16) -> Begin {
    Begin::Keyword(word, from)
}

const fn range(last: i16, step: u16, limit: u16) -> Find {
    Find::Range { last, step, limit }
}

const fn count(at: u16, first: u16, step: u16) -> Find {
    Find::Count { at, first, step }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for spec in &TABLE[..COUNT - 1] {
            let found = |name: &str| match name.split_once('|') {
                Some((container, sub)) => CommandSpec::of(container.as_bytes())
                    .subcommand(sub.as_bytes())
                    .expect("a subcommand"),
                None => CommandSpec::of(name.as_bytes()),
            };
            assert_eq!(found(spec.name).id, spec.id, "{}", spec.name);
            assert_eq!(found(&spec.name.to_uppercase()).id, spec.id, "{}", spec.name);
            assert_eq!(spec.id.spec().name, spec.name);
        }
    }

    #[test]
    fn a_name_that_is_almost_known_is_unknown() {
        for name in [
            "",
            "ge",
            "gett",
            "GET\0",
            "client|setname",
            "g\u{45}\u{f}",
            "json.set",
            "get\u{e9}",
        ] {
            assert_eq!(
                CommandSpec::of(name.as_bytes()).id,
                CommandSpec::UNKNOWN.id,
                "{name:?}"
            );
        }
        assert!(CommandSpec::of(b"client").subcommand(b"nosuch").is_none());
        assert!(CommandSpec::of(b"get").subcommand(b"get").is_none());
    }

    #[test]
    fn arity_counts_the_name() {
        let accepts = |name: &str, argc| CommandSpec::of(name.as_bytes()).accepts(argc);
        assert!(accepts("get", 2) && !accepts("get", 1) && !accepts("get", 3));
        assert!(accepts("mget", 2) && accepts("mget", 90) && !accepts("mget", 1));
    }
}
