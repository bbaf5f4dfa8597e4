//! What may differ: `exceptions.txt`, whose every line points to the words of docs/SEMANTICS.md that explain it.

use anyhow::{Context as _, Result, ensure};
use testkit::Flavor;

const LIST: &str = include_str!("exceptions.txt");
const SEMANTICS: &str = include_str!("../../../../docs/SEMANTICS.md");

pub(crate) struct Exceptions {
    all: Vec<Exception>,
}

struct Exception {
    /// The scenario's name; a `*` stands for any text.
    pattern: &'static str,
    /// It may be the same: at times, or already.
    may_be_same: bool,
    played: bool,
    differed: bool,
}

// === impl Exceptions ===

impl Exceptions {
    /// Those of this server, and of shared subscriptions where they are.
    pub(crate) fn read(flavor: Flavor, sharing: bool) -> Result<Self> {
        let mut all = Vec::new();
        for line in LIST.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, words) = line
                .split_once(" | ")
                .with_context(|| format!("no reason: {line}"))?;
            let pending = words.starts_with("pending:");
            let at_times = words.strip_prefix("at times: ");
            let words = at_times.unwrap_or(words);
            ensure!(
                pending || flat(SEMANTICS).contains(&flat(words)),
                "SEMANTICS does not say {words:?}"
            );
            let (place, named) = pattern.split_once(" with ").unwrap_or(("", pattern));
            let is_here = |word: &str| word == flavor.to_string() || (sharing && word == "sharing");
            if place.split_whitespace().all(is_here) {
                all.push(Exception {
                    pattern: named.trim(),
                    may_be_same: pending || at_times.is_some(),
                    played: false,
                    differed: false,
                });
            }
        }
        Ok(Self { all })
    }

    /// Whether this scenario may differ. Remembers whether it did.
    pub(crate) fn allow(&mut self, name: &str, differs: bool) -> bool {
        let mut allowed = false;
        for exception in self
            .all
            .iter_mut()
            .filter(|exception| matches(exception.pattern, name))
        {
            allowed = true;
            exception.played = true;
            exception.differed |= differs;
        }
        allowed
    }

    /// Those that were played and did not differ: the list is to stay short.
    pub(crate) fn rotten(&self) -> impl Iterator<Item = String> {
        let rotten = self
            .all
            .iter()
            .filter(|exception| exception.played && !exception.differed && !exception.may_be_same);
        rotten.map(|exception| format!("{} differs no more: take it from the list", exception.pattern))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|behind| {
            let mut ends = behind.char_indices().map(|(at, _)| at).chain([behind.len()]);
            ends.any(|at| matches(rest, &behind[at..]))
        }),
    }
}

/// Text without its line breaks and marks.
fn flat(text: &str) -> String {
    let words = text.split(|char: char| char.is_whitespace() || char == '`');
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_star_stands_for_any_text() {
    let check = |pattern: &str, name: &str, expected: bool| assert_eq!(matches(pattern, name), expected);
    check("a: b", "a: b", true);
    check("a: b", "a: bc", false);
    check("a: *", "a: bc", true);
    check("a: *d", "a: bcd", true);
    check("a: *d", "a: bcde", false);
    check("*b*", "abc", true);
    check("x*", "abc", false);
}
