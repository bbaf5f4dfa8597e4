//! From a name to its row: an open-addressed index, laid out by the compiler.

// Indexing here is checked while compiling; `find` itself takes no index from outside.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::class::{access_of, class_of, is_script};
use super::table::ROWS;
use super::{Access, COUNT, Class, CommandFlags, CommandId, CommandSpec, TABLE};

/// The whole table: generated rows, our classes, and the unknown command at the end.
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
        class: Class::Data,
        keys: &[],
        subcommands: 0,
    }
}

/// How many rows behind row `at` are its subcommands.
const fn subcommands(at: usize) -> u16 {
    let mut count = 0;
    if bar(ROWS[at].name).is_none() {
        while at + count + 1 < ROWS.len() && bar(ROWS[at + count + 1].name).is_some() {
            count += 1;
        }
    }
    count as u16
}

#[inline]
pub(super) fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut slot = hash(name);
    loop {
        let entry = INDEX[slot % INDEX_LEN];
        if entry == EMPTY {
            return None;
        }
        let spec = &TABLE[usize::from(entry)];
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        slot += 1;
    }
}

pub(super) fn find_subcommand(container: &CommandSpec, name: &[u8]) -> Option<&'static CommandSpec> {
    let first = container.id.index() + 1;
    let behind_bar = container.name.len() + 1;
    TABLE
        .get(first..first + usize::from(container.subcommands))?
        .iter()
        .find(|spec| spec.name.as_bytes()[behind_bar..].eq_ignore_ascii_case(name))
}

const INDEX_LEN: usize = 1024;
const EMPTY: u16 = u16::MAX;

/// Rows of top-level commands by the hash of their name, collisions in the next free entry.
static INDEX: [u16; INDEX_LEN] = {
    let mut index = [EMPTY; INDEX_LEN];
    let mut at = 0;
    while at < ROWS.len() {
        if bar(ROWS[at].name).is_none() {
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
    let len = name.len();
    let (head, tail) = if len >= 8 {
        (word(name, 0), word(name, len - 8))
    } else {
        let mut head = 0;
        let mut at = 0;
        while at < len {
            head = head << 8 | (name[at] | 0x20) as u64;
            at += 1;
        }
        (head, 0)
    };
    let mixed = (head ^ tail.rotate_left(29) ^ len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize
}

#[inline]
const fn word(name: &[u8], at: usize) -> u64 {
    let bytes = [
        name[at],
        name[at + 1],
        name[at + 2],
        name[at + 3],
        name[at + 4],
        name[at + 5],
        name[at + 6],
        name[at + 7],
    ];
    u64::from_le_bytes(bytes) | 0x2020_2020_2020_2020
}

/// Where the `|` of a subcommand's name stands.
const fn bar(name: &str) -> Option<usize> {
    let name = name.as_bytes();
    let mut at = 0;
    while at < name.len() {
        if name[at] == b'|' {
            return Some(at);
        }
        at += 1;
    }
    None
}

pub(super) const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}
