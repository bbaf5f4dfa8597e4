//! What the suite printed, test by test.

use std::collections::BTreeMap;

/// The verdict on each test of one file. A name may stand there more than once.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    tests: Vec<(Test, Verdict)>,
}

/// A test's name, and which one of that name it is.
type Test = (String, usize);

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// With the suite's reason.
    Failed(String),
}

// === impl Verdicts ===

impl Verdicts {
    /// Reads what the suite prints: `[ok]: name (3 ms)`, and `[err]: name in tests/unit/file.tcl` with a reason below.
    pub(super) fn read(printed: &str) -> Self {
        let mut verdicts = Self::default();
        let mut seen = BTreeMap::new();
        let mut lines = printed.lines().map(plain).peekable();
        while let Some(line) = lines.next() {
            let (name, verdict) = if let Some(name) = line.strip_prefix("[ok]: ") {
                (without_time(name), Verdict::Passed)
            } else if let Some(name) = line.strip_prefix("[err]: ") {
                let reason = lines.next_if(|next| !next.starts_with('['));
                let name = name.rsplit_once(" in tests/").map_or(name, |(name, _)| name);
                (name.to_owned(), Verdict::Failed(reason.unwrap_or_default()))
            } else if let Some((_, name)) = line.split_once("(IN PROGRESS) ") {
                (name.to_owned(), Verdict::Failed("no progress".to_owned()))
            } else {
                continue;
            };
            // At the end all that failed is listed again.
            if line.starts_with("!!!") {
                break;
            }
            let nth = seen.entry(name.clone()).or_insert(0);
            *nth += 1;
            verdicts.tests.push(((name, *nth), verdict));
        }
        verdicts
    }

    pub(super) fn passed(&self) -> usize {
        let passed = self
            .tests
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Passed);
        passed.count()
    }

    /// A line for each test that passed here and not there.
    pub(super) fn not_passed_by(&self, other: &Self) -> Vec<String> {
        let others: BTreeMap<_, _> = other
            .tests
            .iter()
            .map(|(test, verdict)| (test, verdict))
            .collect();
        let passed = self
            .tests
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Passed);
        passed
            .filter_map(|(test, _)| match others.get(test) {
                Some(Verdict::Passed) => None,
                Some(Verdict::Failed(reason)) => Some(format!("{}: {reason}", test.0)),
                None => Some(format!("{}: not run", test.0)),
            })
            .collect()
    }
}

/// A line without its colours.
fn plain(line: &str) -> String {
    let mut pieces = line.split('\u{1b}');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push_str(piece.split_once('m').map_or(piece, |(_, rest)| rest));
    }
    text
}

fn without_time(name: &str) -> String {
    name.rsplit_once(" (").map_or(name, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_here_and_not_there_is_told_with_its_reason() {
        let direct = Verdicts::read(
            "[ok]: a (1 ms)\n[ok]: b (with) (0 ms)\n[ok]: a (2 ms)\n[ok]: c (0 ms)\n[err]: d in tests/x.tcl\nno\n",
        );
        let through = Verdicts::read(
            "\u{1b}[0;32m[ok]\u{1b}[0m: a (1 ms)\n[\u{1b}[0;32mok\u{1b}[0m]: a (1 ms)\n[err]: b (with) in tests/x.tcl\nExpected 1\n\
             [TIMEOUT]: clients state report follows.\nsock1 => (IN PROGRESS) c\n!!! WARNING\n[err]: b (with) in tests/x.tcl\n",
        );
        assert_eq!(direct.passed(), 4);
        assert_eq!(
            direct.not_passed_by(&through),
            ["b (with): Expected 1", "c: no progress"]
        );
    }
}
