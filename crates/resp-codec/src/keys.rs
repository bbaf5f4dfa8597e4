//! Which arguments are keys, as the servers' `COMMAND GETKEYS` answers.

use crate::command::Command;
use crate::error::KeyError;
use crate::scan::number;
use crate::spec::{Begin, CommandFlags, CommandSpec, Find, KeySpec};
use std::ops::Range;

/// The arguments of one command, addressed by position as key specifications do.
struct Args<'a> {
    text: &'a [u8],
    ranges: Vec<Range<usize>>,
}

// === impl Command ===

impl<B: AsRef<[u8]>> Command<B> {
    /// Where the keys stand in [`Self::text`], in the order of the arguments. Empty for a command without keys.
    ///
    /// # Errors
    /// The command is unknown, or its arguments do not say where its keys are.
    pub fn keys(&self) -> Result<Vec<Range<usize>>, KeyError> {
        let spec = self.spec();
        if spec.id == CommandSpec::UNKNOWN.id {
            return Err(KeyError::UnknownCommand);
        }
        if !self.arity_ok() {
            return Err(KeyError::InvalidArguments);
        }
        if spec.keys.is_empty() {
            return Ok(Vec::new());
        }
        let args = Args {
            text: self.text(),
            ranges: self.arg_ranges().collect(),
        };
        let mut keys = Vec::new();
        match spec.name {
            // The table only says that these have more keys than it can tell.
            "sort" => args.sort(&mut keys),
            "migrate" => args.migrate(&mut keys),
            _ => {
                for spec in spec.keys {
                    args.find(spec, &mut keys)?;
                }
            }
        }
        if keys.is_empty() && !spec.flags.contains(CommandFlags::NO_MANDATORY_KEYS) {
            return Err(KeyError::InvalidArguments);
        }
        Ok(keys)
    }
}

// === impl Args ===

impl Args<'_> {
    fn get(&self, at: usize) -> Option<&[u8]> {
        self.text.get(self.ranges.get(at)?.clone())
    }

    fn is(&self, at: usize, word: &str) -> bool {
        self.get(at)
            .is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }

    fn push(&self, at: usize, keys: &mut Vec<Range<usize>>) {
        keys.extend(self.ranges.get(at).cloned());
    }

    fn find(&self, spec: &KeySpec, keys: &mut Vec<Range<usize>>) -> Result<(), KeyError> {
        let argc = self.ranges.len();
        let begin = match spec.begin {
            Begin::Index(at) => usize::from(at),
            Begin::Keyword(word, from) => match self.behind(word, from) {
                Some(at) => at,
                None => return Ok(()),
            },
        };
        let (first, end, step) = match spec.find {
            Find::Range { last, step, limit } => {
                let span = usize::from(last.unsigned_abs());
                let end = match (last, limit) {
                    (0.., _) => begin.saturating_add(span).saturating_add(1),
                    (_, 0 | 1) => argc.saturating_add(1).saturating_sub(span),
                    // Counted backwards from the end of the first `limit`-th part.
                    (_, limit) => {
                        let part = argc
                            .saturating_sub(begin)
                            .checked_div(usize::from(limit))
                            .unwrap_or(0);
                        begin.saturating_add(part).saturating_add(1).saturating_sub(span)
                    }
                };
                (begin, end, step)
            }
            Find::Count { at, first, step } => {
                let said = self
                    .get(begin.saturating_add(usize::from(at)))
                    .and_then(number::parse);
                let count = said
                    .and_then(|count| usize::try_from(count).ok())
                    .ok_or(KeyError::InvalidArguments)?;
                let first = begin.saturating_add(usize::from(first));
                let end = first.saturating_add(count.saturating_mul(usize::from(step)));
                if end > argc {
                    return Err(KeyError::InvalidArguments);
                }
                (first, end, step)
            }
        };
        (first..end.min(argc))
            .step_by(usize::from(step).max(1))
            .for_each(|at| self.push(at, keys));
        Ok(())
    }

    /// The position behind the keyword.
    fn behind(&self, word: &str, from: u16) -> Option<usize> {
        let at = (usize::from(from)..self.ranges.len()).find(|at| self.is(*at, word))?;
        Some(at.saturating_add(1))
    }

    /// The list, and the target of the last STORE.
    fn sort(&self, keys: &mut Vec<Range<usize>>) {
        self.push(1, keys);
        let mut store = None;
        let mut at = 2_usize;
        while at < self.ranges.len() {
            if self.is(at, "limit") {
                at = at.saturating_add(2);
            } else if self.is(at, "get") || self.is(at, "by") {
                at = at.saturating_add(1);
            } else if self.is(at, "store") && at.saturating_add(1) < self.ranges.len() {
                store = Some(at.saturating_add(1));
            }
            at = at.saturating_add(1);
        }
        if let Some(at) = store {
            self.push(at, keys);
        }
    }

    /// The one key, or all behind KEYS.
    fn migrate(&self, keys: &mut Vec<Range<usize>>) {
        let mut at = 6_usize;
        while at < self.ranges.len() {
            if self.is(at, "keys") {
                if self.get(3).is_some_and(<[u8]>::is_empty) {
                    (at.saturating_add(1)..self.ranges.len()).for_each(|at| self.push(at, keys));
                }
                return;
            } else if self.is(at, "auth") {
                at = at.saturating_add(1);
            } else if self.is(at, "auth2") {
                at = at.saturating_add(2);
            }
            at = at.saturating_add(1);
        }
        self.push(3, keys);
    }
}
