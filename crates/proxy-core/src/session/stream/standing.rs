//! What a session has made of its connection besides subscribing, to be made of the next one too.

use bytes::Bytes;
use resp_codec::Command;

use crate::backend::profile::is_own_spelling;
use crate::limits;

/// MONITOR, CLIENT TRACKING and the like.
#[derive(Default)]
pub(super) struct Standing {
    /// In the order in which they were given.
    orders: Vec<(&'static str, Bytes)>,
    bytes: usize,
    /// CLIENT CACHING, until the command comes that it is for.
    caching: Option<Bytes>,
    /// The connection has state that no command takes back and no other connection can be given: the session keeps it.
    lasting: bool,
}

// === impl Standing ===

impl Standing {
    /// Learns from a command that the node has taken.
    pub(super) fn note(&mut self, command: &Command<Bytes>) {
        let name = command.spec().name;
        self.caching = None;
        match name {
            "client|tracking" if is_off(command) => self.forget(name),
            "client|tracking" => self.keep(name, command.frame()),
            "client|no-evict" | "client|no-touch" | "client|import-source" => {
                self.forget(name);
                if !is_off(command) {
                    self.keep(name, command.frame());
                }
            }
            "monitor" | "replconf" => self.keep(name, command.frame()),
            "client|caching" => self.caching = Some(command.frame().clone()),
            "script|debug" | "client" => self.lasting = true,
            _ => {}
        }
    }

    /// The session keeps its connection, whatever comes.
    pub(super) fn last(&mut self) {
        self.lasting = true;
    }

    /// Nothing stands.
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty() && !self.lasting
    }

    /// The session keeps its connection.
    pub(super) fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// The node tells of every command that it executes.
    pub(super) fn monitors(&self) -> bool {
        self.has("monitor")
    }

    /// The client keeps what it reads, and the node tells it what has changed.
    pub(super) fn tracks(&self) -> bool {
        self.has("client|tracking")
    }

    /// All of it, in an order in which each is answered by one frame. `None`: there was too much of it to be kept.
    pub(super) fn orders(&self) -> Option<impl Iterator<Item = &Bytes>> {
        let kept = self.bytes <= limits::STANDING_BYTES;
        let last = |name: &str| name == "monitor";
        let first = self.orders.iter().filter(move |(name, _)| !last(name));
        let all = first.chain(self.orders.iter().filter(move |(name, _)| last(name)));
        kept.then(|| all.map(|(_, order)| order).chain(&self.caching))
    }

    /// It could not be given again.
    pub(super) fn forget_order(&mut self, order: &Bytes) {
        self.orders.retain(|(_, known)| known != order);
        self.count();
    }

    fn has(&self, wanted: &str) -> bool {
        self.orders.iter().any(|(name, _)| *name == wanted)
    }

    fn keep(&mut self, name: &'static str, order: &Bytes) {
        if self.orders.iter().any(|(_, known)| known == order) {
            return;
        }
        self.bytes += order.len();
        if self.bytes <= limits::STANDING_BYTES {
            self.orders.push((name, order.clone()));
        }
    }

    fn forget(&mut self, wanted: &str) {
        self.orders.retain(|(name, _)| *name != wanted);
        self.count();
    }

    fn count(&mut self) {
        self.bytes = self.orders.iter().map(|(_, order)| order.len()).sum();
    }
}

fn is_off(command: &Command<Bytes>) -> bool {
    command
        .arg(2)
        .is_some_and(|mode| mode.eq_ignore_ascii_case(b"off"))
}

/// A line in which MONITOR tells of a command: `+1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
pub(super) fn is_monitors(frame: &[u8]) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let Some(line) = frame.strip_prefix(b"+") else {
        return false;
    };
    let (seconds, rest) = line.split_at(digits(line));
    let Some(rest) = rest.strip_prefix(b".") else {
        return false;
    };
    !seconds.is_empty()
        && rest
            .get(digits(rest)..)
            .is_some_and(|rest| rest.starts_with(b" ["))
}

/// MONITOR tells of a command by which slipring makes a connection ready, or looks after a node: no client has sent it.
pub(super) fn is_our_own(frame: &[u8]) -> bool {
    let end_of_address = b"] \"";
    let mut rests = frame.windows(end_of_address.len()).zip(end_of_address.len()..);
    let command = rests
        .find(|(here, _)| here == end_of_address)
        .and_then(|(_, at)| frame.get(at..));
    let word = command.and_then(|command| command.split(|byte| *byte == b'"').next());
    is_monitors(frame) && word.is_some_and(is_own_spelling)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command<Bytes> {
        let bytes = Bytes::from(format!("{line}\r\n"));
        let frame = resp_codec::RequestScan::default()
            .advance(&bytes, &resp_codec::RequestLimits::AUTHENTICATED)
            .unwrap()
            .unwrap();
        Command::new(bytes, frame)
    }

    fn check(given: &[&str], standing: Option<&[&str]>) {
        let mut orders = Standing::default();
        given.iter().for_each(|line| orders.note(&command(line)));
        let lines = |bytes: &Bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let found: Option<Vec<_>> = orders.orders().map(|orders| orders.map(lines).collect());
        assert_eq!(
            found.as_deref(),
            standing
                .map(|lines| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
                .as_deref()
        );
    }

    #[test]
    fn what_stands_is_what_was_not_taken_back() {
        check(&[], Some(&[]));
        check(
            &[
                "MONITOR",
                "CLIENT TRACKING ON",
                "CLIENT TRACKING on",
                "CLIENT NO-EVICT on",
            ],
            Some(&[
                "CLIENT TRACKING ON",
                "CLIENT TRACKING on",
                "CLIENT NO-EVICT on",
                "MONITOR",
            ]),
        );
        check(&["CLIENT NO-EVICT on", "CLIENT NO-EVICT off"], Some(&[]));
        check(
            &[
                "CLIENT TRACKING ON BCAST PREFIX a",
                "CLIENT TRACKING ON BCAST PREFIX b",
                "CLIENT TRACKING OFF",
            ],
            Some(&[]),
        );
    }

    #[test]
    fn caching_is_for_one_command() {
        let tracking = "CLIENT TRACKING ON OPTIN";
        check(
            &[tracking, "CLIENT CACHING YES"],
            Some(&[tracking, "CLIENT CACHING YES"]),
        );
        check(&[tracking, "CLIENT CACHING YES", "GET k"], Some(&[tracking]));
    }

    #[test]
    fn too_much_is_not_kept() {
        let prefix = |n: usize| format!("CLIENT TRACKING ON BCAST PREFIX {n:0>1000}");
        let lines: Vec<_> = (0..100).map(prefix).collect();
        let mut given: Vec<_> = lines.iter().map(String::as_str).collect();
        check(&given, None);
        given.push("CLIENT TRACKING OFF");
        check(&given, Some(&[]));
    }

    #[test]
    fn monitors_lines_about_slipring_itself_are_known() {
        for (line, ours) in [
            ("+1.2 [9 127.0.0.1:1] \"sElEcT\" \"9\"\r\n", true),
            ("+1.2 [9 [::1]:1] \"sElEcT\" \"9\"\r\n", true),
            ("+1.2 [0 127.0.0.1:1] \"aUtH\" \"(redacted)\"\r\n", true),
            ("+1.2 [0 127.0.0.1:1] \"pInG\"\r\n", true),
            ("+1.2 [0 127.0.0.1:1] \"Ping\"\r\n", false),
            ("+1.2 [0 127.0.0.1:1] \"pInGer\"\r\n", false),
            ("+1.2 [9 127.0.0.1:1] \"select\" \"9\"\r\n", false),
            ("+1.2 [9 lua] \"set\" \"sElEcT\"\r\n", false),
            ("+1.2 [9 127.0.0.1:1] \"set\" \"] \\\"sElEcT\"\r\n", false),
            ("+OK\r\n", false),
        ] {
            assert_eq!(is_our_own(line.as_bytes()), ours, "{line}");
        }
    }

    #[test]
    fn monitors_lines_are_told_from_replies() {
        assert!(is_monitors(
            b"+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n"
        ));
        for reply in [
            &b"+OK\r\n"[..],
            b"+1\r\n",
            b"+1.5\r\n",
            b"+.5 [\r\n",
            b"$1\r\na\r\n",
        ] {
            assert!(!is_monitors(reply));
        }
    }
}
