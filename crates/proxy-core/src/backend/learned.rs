//! What a node has said of commands that the table does not know: newer servers', and modules'.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::limits;

/// What an unknown command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// The node flags it `readonly`.
    Reads,
    /// It may write: the node says so, or does not know it either.
    Writes,
    /// The node flags it `blocking`.
    Blocks,
}

/// The answers of one node, by names in lower case.
#[derive(Default)]
pub(crate) struct Learned(RefCell<BTreeMap<Box<[u8]>, Nature>>);

// === impl Learned ===

impl Learned {
    /// What the node has said of `name`. Names that are not asked after count as writing.
    pub(crate) fn nature_of(&self, name: &[u8]) -> Option<Nature> {
        if name.len() > limits::COMMAND_NAME_BYTES {
            return Some(Nature::Writes);
        }
        let natures = self.0.borrow();
        let full = natures.len() >= limits::COMMANDS_LEARNED;
        let known = natures.get(&*name.to_ascii_lowercase()).copied();
        known.or(full.then_some(Nature::Writes))
    }

    /// Keeps the node's answer to `COMMAND INFO name`. `None`: it would not say.
    pub(crate) fn learn(&self, name: &[u8], answer: &[u8]) -> Option<Nature> {
        let nature = nature(answer)?;
        self.0
            .borrow_mut()
            .insert(name.to_ascii_lowercase().into(), nature);
        Some(nature)
    }
}

/// Reads an answer to COMMAND INFO of one command, in either RESP version, up to the command's flags: what follows
/// is more than a decoder of values should be trusted with.
fn nature(answer: &[u8]) -> Option<Nature> {
    let mut lines = answer.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    if lines.next()? != b"*1" {
        return None;
    }
    if matches!(lines.next()?, b"*-1" | b"$-1" | b"_") {
        return Some(Nature::Writes);
    }
    let [_length, _name, _arity] = [lines.next()?, lines.next()?, lines.next()?];
    let (b'*' | b'~', count) = lines.next()?.split_first()? else {
        return None;
    };
    let count: usize = std::str::from_utf8(count).ok()?.parse().ok()?;
    let flags: Vec<_> = lines.take(count).collect();
    let has = |flag: &[u8]| flags.iter().any(|line| line.strip_prefix(b"+") == Some(flag));
    Some(if has(b"blocking") {
        Nature::Blocks
    } else if has(b"readonly") && !has(b"write") {
        Nature::Reads
    } else {
        Nature::Writes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &str, want: Option<Nature>) {
        assert_eq!(nature(answer.replace(' ', "\r\n").as_bytes()), want, "{answer}");
    }

    #[test]
    fn a_nature_is_read_from_the_flags_of_the_command_alone() {
        check(
            "*1 *10 $3 foo :2 *2 +readonly +fast :1 :1 :1 ",
            Some(Nature::Reads),
        );
        check(
            "*1 *10 $3 foo :2 ~2 +readonly +fast :1 :1 :1 ",
            Some(Nature::Reads),
        );
        check("*1 *10 $3 foo :-2 *2 +write +blocking :1 ", Some(Nature::Blocks));
        check("*1 *10 $3 foo :2 *1 +write :1 :1 :1 ", Some(Nature::Writes));
        check(
            "*1 *10 $3 foo :-2 *0 :0 :0 :0 *0 *0 *0 *1 *10 $7 foo|get :2 *1 +readonly ",
            Some(Nature::Writes),
        );
        for unknown in ["*1 *-1 ", "*1 $-1 ", "*1 _ "] {
            check(unknown, Some(Nature::Writes));
        }
        check("-NOPERM no ", None);
    }

    #[test]
    fn what_is_learned_is_bounded() {
        let learned = Learned::default();
        assert_eq!(learned.nature_of(b"x"), None);
        for number in 0..limits::COMMANDS_LEARNED {
            learned.learn(
                format!("X{number}").as_bytes(),
                b"*1\r\n*10\r\n$1\r\nx\r\n:1\r\n*1\r\n+readonly\r\n",
            );
        }
        assert_eq!(learned.nature_of(b"x7"), Some(Nature::Reads));
        assert_eq!(learned.nature_of(b"another"), Some(Nature::Writes));
        assert_eq!(learned.nature_of(&[b'x'; 65]), Some(Nature::Writes));
    }
}
