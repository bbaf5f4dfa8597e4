//! The slow log: the last commands that took long, cut as Redis' SLOWLOG cuts them, without what is secret.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use resp_codec::Command;
use sentinel_watcher::HostPort;
use tokio::time::Instant;

use super::{Answered, Sight, quoted};
use crate::limits;

/// The newest last.
#[derive(Debug, Default)]
pub(super) struct SlowLog {
    entries: VecDeque<SlowEntry>,
    /// How many there have been since the start.
    count: u64,
}

/// One slow command, or the first of several that were answered together.
#[derive(Debug)]
pub(super) struct SlowEntry {
    ended: Instant,
    took: Duration,
    commands: u64,
    node: HostPort,
    peer: String,
    name: Box<[u8]>,
    arguments: Vec<String>,
}

const REDACTED: &[u8] = b"(redacted)";

// === impl SlowLog ===

impl SlowLog {
    pub(super) fn push(&mut self, entry: SlowEntry) {
        self.count += 1;
        self.entries.push_back(entry);
        while self.entries.len() > limits::SLOWLOG_ENTRIES {
            self.entries.pop_front();
        }
    }

    pub(super) fn lines(&self, now: Instant) -> Vec<String> {
        if self.entries.is_empty() {
            return vec!["none since the start".to_owned()];
        }
        let newest = self.entries.iter().rev().zip((1..=self.count).rev());
        newest.map(|(entry, number)| entry.line(number, now)).collect()
    }
}

// === impl SlowEntry ===

impl SlowEntry {
    pub(super) fn new(command: &Command<&[u8]>, sight: &Sight<'_>, answered: &Answered<'_>) -> Self {
        Self {
            ended: answered.at,
            took: answered.took,
            commands: answered.count,
            node: sight.node.clone(),
            peer: sight.client.peer.to_string(),
            name: sight.client.name.clone(),
            arguments: shown(&arguments(command)),
        }
    }

    fn line(&self, number: u64, now: Instant) -> String {
        format!(
            "{} s ago: number={number} took_us={} commands={} client={} name={} node={} {}",
            now.saturating_duration_since(self.ended).as_secs(),
            self.took.as_micros(),
            self.commands,
            self.peer,
            quoted(&self.name, limits::SLOWLOG_ARGUMENT_BYTES, 0),
            self.node,
            self.arguments.join(" ")
        )
    }
}

/// The arguments, each with how many bytes of it are not there: of a large request only the head is.
fn arguments<'a>(command: &'a Command<&[u8]>) -> Vec<(&'a [u8], usize)> {
    let text = command.text();
    let cut = |range: Range<usize>| {
        let seen = text
            .get(range.start..range.end.min(text.len()))
            .unwrap_or_default();
        (seen, range.len() - seen.len())
    };
    command.arg_ranges().map(cut).collect()
}

/// Arguments as they may be kept.
fn shown(arguments: &[(&[u8], usize)]) -> Vec<String> {
    let most = limits::SLOWLOG_ARGUMENTS;
    let kept = if arguments.len() > most {
        most - 1
    } else {
        arguments.len()
    };
    let redacted = redacted(&arguments.iter().map(|(seen, _)| *seen).collect::<Vec<_>>());
    let mut shown: Vec<_> = redacted
        .iter()
        .zip(arguments)
        .take(kept)
        .map(|(argument, (_, unseen))| quoted(argument, limits::SLOWLOG_ARGUMENT_BYTES, *unseen))
        .collect();
    if kept < arguments.len() {
        shown.push(format!("\"... ({} more arguments)\"", arguments.len() - kept));
    }
    shown
}

/// The same without passwords.
fn redacted<'a>(arguments: &[&'a [u8]]) -> Vec<Cow<'a, [u8]>> {
    let is = |at: usize, word: &str| {
        arguments
            .get(at)
            .is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    };
    let follows = |at: usize, word: &str, far: usize| (1..=far).any(|back| at > back && is(at - back, word));
    let secret = |at: usize| match at {
        0 => false,
        _ if is(0, "auth") => true,
        // AUTH user password; its user is not hidden by Redis either, but goes with it here.
        _ if is(0, "hello") => follows(at, "auth", 2),
        _ if is(0, "acl") && is(1, "setuser") => at > 2,
        _ if is(0, "config") && is(1, "set") => {
            at > 2
                && at % 2 == 1
                && arguments
                    .get(at - 1)
                    .is_some_and(|name| tells_a_secret(&name.to_ascii_lowercase()))
        }
        _ if is(0, "migrate") => at > 5 && (follows(at, "auth", 1) || follows(at, "auth2", 2)),
        _ => false,
    };
    let one =
        |(at, argument): (usize, &&'a [u8])| Cow::Borrowed(if secret(at) { REDACTED } else { *argument });
    arguments.iter().enumerate().map(one).collect()
}

/// `requirepass`, `masterauth`, `primaryuser`, `tls-key-file-pass`, and what later versions may add.
fn tells_a_secret(name: &[u8]) -> bool {
    [&b"pass"[..], b"auth", b"user", b"secret"]
        .iter()
        .any(|word| name.windows(word.len()).any(|window| window == *word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(line: &str) -> String {
        let words: Vec<_> = line.split(' ').map(|word| (word.as_bytes(), 0)).collect();
        shown(&words).join(" ").replace('"', "")
    }

    #[test]
    fn secrets_are_not_kept() {
        for (line, expected) in [
            ("GET auth", "GET auth"),
            ("AUTH s3cret", "AUTH (redacted)"),
            ("auth u s3cret", "auth (redacted) (redacted)"),
            (
                "HELLO 3 AUTH u s3cret SETNAME n",
                "HELLO 3 AUTH (redacted) (redacted) SETNAME n",
            ),
            (
                "ACL SETUSER u on >s3cret ~*",
                "ACL SETUSER u (redacted) (redacted) (redacted)",
            ),
            (
                "config set maxmemory 1 requirepass s3cret",
                "config set maxmemory 1 requirepass (redacted)",
            ),
            ("CONFIG SET MasterAuth s3cret", "CONFIG SET MasterAuth (redacted)"),
            ("CONFIG GET requirepass", "CONFIG GET requirepass"),
            (
                "MIGRATE h 1 k 0 9 AUTH2 u s3cret KEYS a",
                "MIGRATE h 1 k 0 9 AUTH2 (redacted) (redacted) KEYS a",
            ),
            (
                "MIGRATE h 1 k 0 9 AUTH s3cret",
                "MIGRATE h 1 k 0 9 AUTH (redacted)",
            ),
        ] {
            assert_eq!(kept(line), expected);
        }
    }

    #[test]
    fn arguments_are_cut() {
        let long = "x".repeat(200);
        assert_eq!(
            kept(&format!("SET k {long}")),
            format!("SET k {}... (72 more bytes)", "x".repeat(128))
        );
        let many = format!("MSET{}", " k".repeat(40));
        let kept = kept(&many);
        assert!(kept.ends_with("k ... (10 more arguments)"), "{kept}");
    }
}
