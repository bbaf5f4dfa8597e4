//! CLIENT TRACKING … REDIRECT: a client names another of this proxy's clients, and the node is told which of its
//! connections that one streams on.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, write};
use tokio::time::Instant;

use crate::backend::NodeKey;
use crate::door::{Door, Streams};

/// Another client, and its connection to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    client: i64,
    connection: i64,
}

/// How long a client that is named may be busy with other things: blocked, or in a transaction.
const SUMMON_TIMEOUT: Duration = Duration::from_secs(3);

/// No connection of any node: what the node says of a client that is not there.
const NOBODY: i64 = i64::MAX;

/// In front of the number of a connection that is gone.
const BROKEN: &[u8] = b">2\r\n$21\r\ntracking-redir-broken\r\n:";

/// In front of a connection's number in CLIENT TRACKINGINFO.
const REDIRECT: &[u8] = b"$8\r\nredirect\r\n:";

/// Has the client that is about to be named take a connection of its own, if it has none and is there at all.
pub(super) async fn summon(client: i64, door: &Door, node: &NodeKey) {
    let Ok(client) = u64::try_from(client) else { return };
    if door.streams.find(client, node).is_some() {
        return;
    }
    let upstream = door.fleet.upstream();
    if !door.worker.roster.summon(upstream, client).await {
        return;
    }
    let until = Instant::now() + SUMMON_TIMEOUT;
    while door.streams.find(client, node).is_none() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The client that CLIENT TRACKING sends invalidations to, where it names one.
pub(super) fn target(command: &Command<Bytes>) -> Option<i64> {
    let at = named_at(command)?;
    std::str::from_utf8(command.arg(at)?).ok()?.parse().ok()
}

/// `command` in the node's own numbers.
pub(super) fn translate(
    command: &Command<Bytes>,
    streams: &Streams,
    node: &NodeKey,
) -> (Bytes, Option<Redirect>) {
    let (Some(at), Some(client)) = (named_at(command), target(command)) else {
        return (command.frame().clone(), None);
    };
    let known = u64::try_from(client).ok().and_then(|id| streams.find(id, node));
    let connection = known.unwrap_or(NOBODY);
    let number = connection.to_string();
    let args: Vec<&[u8]> = command
        .args()
        .enumerate()
        .map(|(i, arg)| if i == at { number.as_bytes() } else { arg })
        .collect();
    let mut frame = BytesMut::new();
    write::command(&mut frame, &args);
    let redirect = known.map(|connection| Redirect { client, connection });
    (frame.freeze(), redirect)
}

fn named_at(command: &Command<Bytes>) -> Option<usize> {
    if command.spec().name != "client|tracking" {
        return None;
    }
    let word = command
        .args()
        .position(|arg| arg.eq_ignore_ascii_case(b"redirect"))?;
    (word + 1 < command.argc()).then_some(word + 1)
}

// === impl Redirect ===

impl Redirect {
    /// The push that says that the connection is gone, of the client in its place; any other push as it is.
    pub(super) fn translate_push(self, push: Bytes) -> Bytes {
        if push.starts_with(BROKEN) {
            self.translate(&push, BROKEN.len())
        } else {
            push
        }
    }

    /// The answer to CLIENT GETREDIR or TRACKINGINFO.
    pub(super) fn translate_answer(self, answer: Bytes) -> Bytes {
        let number = match answer.first() {
            Some(b':') => Some(1),
            _ => find(&answer, REDIRECT).map(|at| at + REDIRECT.len()),
        };
        match number {
            Some(at) => self.translate(&answer, at),
            None => answer,
        }
    }

    /// What the client hears when the other one is gone.
    pub(super) fn broken(client: i64) -> Bytes {
        let mut out = BytesMut::from(BROKEN);
        out.extend_from_slice(format!("{client}\r\n").as_bytes());
        out.freeze()
    }

    /// `frame` with the client in the place of the connection whose number stands at `at`.
    fn translate(self, frame: &Bytes, at: usize) -> Bytes {
        let number = format!("{}\r\n", self.connection);
        let (head, tail) = frame.split_at(at);
        let Some(tail) = tail.strip_prefix(number.as_bytes()) else {
            return frame.clone();
        };
        let mut out = BytesMut::from(head);
        out.extend_from_slice(format!("{}\r\n", self.client).as_bytes());
        out.extend_from_slice(tail);
        out.freeze()
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_never_speaks_of_its_own_connections() {
        let redirect = Redirect {
            client: 7,
            connection: 4711,
        };
        let check = |frame: &str, shown: &str| {
            let frame = Bytes::copy_from_slice(frame.as_bytes());
            let found = match frame.first() {
                Some(b'>') => redirect.translate_push(frame),
                _ => redirect.translate_answer(frame),
            };
            assert_eq!(found, shown);
        };
        check(":4711\r\n", ":7\r\n");
        check(":-1\r\n", ":-1\r\n");
        check(
            ">2\r\n$21\r\ntracking-redir-broken\r\n:4711\r\n",
            ">2\r\n$21\r\ntracking-redir-broken\r\n:7\r\n",
        );
        check(
            "*4\r\n$8\r\nredirect\r\n:4711\r\n$8\r\nprefixes\r\n*0\r\n",
            "*4\r\n$8\r\nredirect\r\n:7\r\n$8\r\nprefixes\r\n*0\r\n",
        );
        check(
            ">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\n4711\r\n",
            ">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\n4711\r\n",
        );
        assert_eq!(
            Redirect::broken(7),
            ">2\r\n$21\r\ntracking-redir-broken\r\n:7\r\n"
        );
    }
}
