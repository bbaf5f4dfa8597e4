//! From a name to its row: an open-addressed index, laid out by the compiler.

use super::class::{access_of, class_of, is_script};
use super::table::ROWS;
use super::{Access, COUNT, Class, CommandFlags, CommandId, CommandSpec, TABLE};

/// The whole table: generated rows, our classes, and the unknown command at the end.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // The compiler runs it, and checks.
pub(super) const fn build() -> [CommandSpec; COUNT] {
    let mut table = [const { unknown() }; COUNT];
    let mut at = 0;
    while at < ROWS.len() {
        let row = &ROWS[at];
        let flags = if is_script(row.name) {
            row.flags.union(CommandFlags::SCRIPT)
        } else {
            row.flags
        };
        table[at] = CommandSpec {
            id: CommandId(at as u16),
            name: row.name,
            arity: row.arity,
            access: access_of(flags),
            flags,
            class: class_of(row.name, flags),
            keys: row.keys,
            subcommands: subcommands(at),
        };
        at += 1;
    }
    table
}

const fn unknown() -> CommandSpec {
    CommandSpec {
        id: CommandId(ROWS.len() as u16),
        name: "other",
        arity: -1,
        access: Access::Write,
        flags: CommandFlags::SCRIPT,
        class: Class::Unknown,
        keys: &[],
        subcommands: 0,
    }
}

pub(super) static PROXY: CommandSpec = CommandSpec {
    name: "proxy",
    class: Class::Own,
    access: Access::Neither,
    ..unknown()
};

/// What is in no table: the proxy's own command, or nobody knows what.
#[cold]
pub(super) fn unlisted(name: &[u8]) -> &'static CommandSpec {
    if name.eq_ignore_ascii_case(PROXY.name.as_bytes()) {
        CommandSpec::PROXY
    } else {
        CommandSpec::UNKNOWN
    }
}

/// How many rows behind row `at` are its subcommands.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // The compiler runs it, and checks.
const fn subcommands(at: usize) -> u16 {
    let mut count = 0;
    if !is_subcommand(ROWS[at].name) {
        while at + count + 1 < ROWS.len() && is_subcommand(ROWS[at + count + 1].name) {
            count += 1;
        }
    }
    count as u16
}

#[inline]
pub(super) fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    let folded = fold(name);
    let mut slot = if name.len() < 8 {
        mix(folded, LOWER, name.len())
    } else {
        hash(name)
    };
    loop {
        let row = usize::from(*INDEX.get(slot % INDEX_LEN)?);
        let spec = TABLE.get(row)?;
        let same = match FOLDED.get(row) {
            Some(&short) if short != 0 => short == folded && spec.name.len() == name.len(),
            _ => spec.name.as_bytes().eq_ignore_ascii_case(name),
        };
        if same {
            return Some(spec);
        }
        slot = slot.wrapping_add(1);
    }
}

/// Names of up to eight bytes, all of them letters, folded: two of equal length are the same command if these are
/// equal, since bit 5 of a letter is its case alone. 0 for the other names.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // The compiler runs it, and checks.
static FOLDED: [u64; ROWS.len()] = {
    let mut folded = [0; ROWS.len()];
    let mut at = 0;
    while at < ROWS.len() {
        let name = ROWS[at].name.as_bytes();
        if name.len() <= 8 && is_letters(name) {
            folded[at] = fold(name);
        }
        at += 1;
    }
    folded
};

/// A name of up to eight bytes as one number, in lower case where they are letters.
#[inline]
const fn fold(name: &[u8]) -> u64 {
    if name.len() > 8 {
        return 0;
    }
    let (mut number, mut rest) = (0, name);
    while let [byte, more @ ..] = rest {
        number = number << 8 | *byte as u64;
        rest = more;
    }
    number | LOWER
}

const fn is_letters(name: &[u8]) -> bool {
    let mut rest = name;
    while let [byte, more @ ..] = rest {
        if !byte.is_ascii_lowercase() {
            return false;
        }
        rest = more;
    }
    true
}

pub(super) fn find_subcommand(container: &CommandSpec, name: &[u8]) -> Option<&'static CommandSpec> {
    let first = container.id.index().checked_add(1)?;
    let behind_bar = container.name.len().checked_add(1)?;
    let mut subcommands = TABLE
        .get(first..)?
        .iter()
        .take(usize::from(container.subcommands));
    subcommands.find(|spec| {
        let own = spec.name.as_bytes().get(behind_bar..);
        own.is_some_and(|own| own.eq_ignore_ascii_case(name))
    })
}

const INDEX_LEN: usize = 1024;

/// No row: past the end of the table.
const EMPTY: u16 = u16::MAX;

/// Rows of top-level commands by the hash of their name, collisions in the next free entry.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // The compiler runs it, and checks.
static INDEX: [u16; INDEX_LEN] = {
    let mut index = [EMPTY; INDEX_LEN];
    let mut at = 0;
    while at < ROWS.len() {
        if !is_subcommand(ROWS[at].name) {
            let mut slot = hash(ROWS[at].name.as_bytes()) % INDEX_LEN;
            while index[slot] != EMPTY {
                slot = (slot + 1) % INDEX_LEN;
            }
            index[slot] = at as u16;
        }
        at += 1;
    }
    index
};

/// Equal for names that differ in case alone: bit 5 is all that tells upper from lower.
#[inline]
const fn hash(name: &[u8]) -> usize {
    match (name.first_chunk(), name.last_chunk()) {
        (Some(head), Some(tail)) => mix(
            u64::from_le_bytes(*head) | LOWER,
            u64::from_le_bytes(*tail) | LOWER,
            name.len(),
        ),
        _ => mix(fold(name), LOWER, name.len()),
    }
}

#[inline]
const fn mix(head: u64, tail: u64, len: usize) -> usize {
    let folded = head ^ tail.rotate_left(29) ^ len as u64;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
}

/// Bit 5 of each byte.
const LOWER: u64 = 0x2020_2020_2020_2020;

const fn is_subcommand(name: &str) -> bool {
    let mut rest = name.as_bytes();
    while let [byte, more @ ..] = rest {
        if *byte == b'|' {
            return true;
        }
        rest = more;
    }
    false
}

pub(super) const fn same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([first, rest @ ..], [like, others @ ..]) = (one, other) {
        if *first != *like {
            return false;
        }
        one = rest;
        other = others;
    }
    one.is_empty() && other.is_empty()
}
