//! Which cursors of a session mean something to which node.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher as _};

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, write};

use crate::backend::NodeKey;
use crate::limits;

/// The scans of one session.
pub(in crate::session) struct Scans {
    /// Where they run.
    pub(in crate::session) node: NodeKey,
    begun: Begun,
}

/// Which scans have begun where they run now.
enum Begun {
    /// All: the session has scanned nowhere else.
    All,
    /// These, by command and key; others have a cursor of another node.
    Only(BTreeSet<u64>),
}

// === impl Scans ===

impl Scans {
    /// Of a session that has not scanned before. `moved`: since it began, another node has taken over.
    pub(super) fn new(node: NodeKey, moved: bool) -> Self {
        let begun = if moved {
            Begun::Only(BTreeSet::new())
        } else {
            Begun::All
        };
        Self { node, begun }
    }

    /// All of them run there.
    pub(in crate::session) fn whole(node: NodeKey) -> Self {
        Self::new(node, false)
    }

    /// None of them began elsewhere.
    pub(in crate::session) fn is_whole(&self) -> bool {
        matches!(self.begun, Begun::All)
    }

    /// Whether the cursor of `command` means something to `node`, which is about to be asked.
    pub(super) fn may_go_on<B: AsRef<[u8]>>(&mut self, node: &NodeKey, command: &Command<B>) -> bool {
        if self.node != *node {
            *self = Self::new(node.clone(), true);
        }
        let Some((_, cursor)) = cursor(command) else {
            return true;
        };
        match &mut self.begun {
            Begun::All => true,
            // As many scans at once as nobody makes: from here on, cursors are believed.
            Begun::Only(scans) if scans.len() >= limits::SCANS_KNOWN => true,
            Begun::Only(scans) if cursor == 0 => {
                scans.insert(scan(command));
                true
            }
            Begun::Only(scans) => scans.contains(&scan(command)),
        }
    }
}

/// The scan started again from 0: duplicates are legal, gaps are not.
pub(super) fn from_the_start<B: AsRef<[u8]>>(command: &Command<B>) -> Bytes {
    let at = cursor(command).map(|(at, _)| at);
    let args = command.args().enumerate();
    let args: Vec<&[u8]> = args
        .map(|(number, arg)| if Some(number) == at { b"0" } else { arg })
        .collect();
    let mut again = BytesMut::new();
    write::command(&mut again, &args);
    again.freeze()
}

/// Where the cursor of a scan stands, and what it is; none where the node will refuse it.
fn cursor<B: AsRef<[u8]>>(command: &Command<B>) -> Option<(usize, u64)> {
    let at = if command.spec().name == "scan" { 1 } else { 2 };
    let text = std::str::from_utf8(command.arg(at)?).ok()?;
    Some((at, text.parse().ok()?))
}

/// What tells one scan from another.
fn scan<B: AsRef<[u8]>>(command: &Command<B>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(command.spec().name.as_bytes());
    if command.spec().name != "scan" {
        hasher.write(command.arg(1).unwrap_or_default());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use resp_codec::{RequestLimits, RequestScan};
    use sentinel_watcher::{Epoch, HostPort};

    use super::*;

    fn node(term: u64) -> NodeKey {
        NodeKey {
            address: HostPort::new("n", 1),
            term: Some(Epoch(term)),
        }
    }

    fn with<T>(line: &str, work: impl FnOnce(&Command<&[u8]>) -> T) -> T {
        let line = format!("{line}\r\n");
        let found = RequestScan::default().advance(line.as_bytes(), &RequestLimits::AUTHENTICATED);
        work(&Command::new(line.as_bytes(), found.unwrap().unwrap()))
    }

    fn check(scans: &mut Scans, term: u64, line: &str, want: bool) {
        let found = with(line, |command| scans.may_go_on(&node(term), command));
        assert_eq!(found, want, "{line} in term {term}");
    }

    #[test]
    fn a_cursor_of_another_node_means_nothing() {
        let mut scans = Scans::new(node(1), false);
        check(&mut scans, 1, "SCAN 7", true);
        check(&mut scans, 1, "HSCAN h 7", true);
        check(&mut scans, 2, "SCAN 7", false);
        check(&mut scans, 2, "SCAN 0", true);
        check(&mut scans, 2, "SCAN 9", true);
        check(&mut scans, 2, "HSCAN h 7", false);
        check(&mut scans, 2, "HSCAN h 0", true);
        check(&mut scans, 2, "HSCAN h 7", true);
        check(&mut scans, 2, "HSCAN g 7", false);
        check(&mut scans, 2, "SCAN nonsense", true);
        check(&mut scans, 3, "SCAN 9", false);
    }

    #[test]
    fn it_starts_again_with_all_its_options() {
        let again = with("HSCAN h 17 COUNT 17", |scan| from_the_start(scan).to_vec());
        assert_eq!(
            again,
            b"*5\r\n$5\r\nHSCAN\r\n$1\r\nh\r\n$1\r\n0\r\n$5\r\nCOUNT\r\n$2\r\n17\r\n"
        );
    }
}
