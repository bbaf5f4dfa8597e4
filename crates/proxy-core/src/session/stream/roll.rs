//! What a session is subscribed to, learnt from the node's own confirmations.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use resp_codec::write;

use crate::push::words;

/// Channels, patterns and shard channels.
#[derive(Default)]
pub(super) struct Roll {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    shards: BTreeSet<Bytes>,
    /// Confirmations still to come of subscriptions that were repeated on a new node.
    repeated: usize,
}

/// What a frame is to a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// A published message.
    Message,
    /// A confirmation; its command, if it named no channel, is answered with so many of them from here on.
    Confirmed { frames: usize },
    /// Something else: another command's reply, or another push.
    Other,
}

// === impl Roll ===

impl Roll {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.counts().iter().sum()
    }

    /// Of channels, patterns and shard channels.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.channels.len(), self.patterns.len(), self.shards.len()]
    }

    /// The same by name.
    pub(super) fn names(&self) -> [Vec<Bytes>; 3] {
        [&self.channels, &self.patterns, &self.shards].map(|set| set.iter().cloned().collect())
    }

    /// It was subscribed to these in another process.
    pub(super) fn resume(&mut self, [channels, patterns, shards]: [Vec<Bytes>; 3]) {
        self.channels.extend(channels);
        self.patterns.extend(patterns);
        self.shards.extend(shards);
    }

    /// It is subscribed to this channel.
    pub(super) fn has(&self, channel: &[u8]) -> bool {
        self.channels.contains(channel)
    }

    /// Some repeated subscription is not confirmed yet.
    pub(super) fn is_repeating(&self) -> bool {
        self.repeated > 0
    }

    /// A confirmation of a repeated subscription, which the client has seen long ago, is to be swallowed.
    pub(super) fn swallows(&mut self, frame: &[u8]) -> bool {
        let confirms = matches!(
            words(frame),
            Some((b"subscribe" | b"psubscribe" | b"ssubscribe", Some(_)))
        );
        if self.repeated > 0 && confirms {
            self.repeated -= 1;
            return true;
        }
        false
    }

    /// Learns from a frame of the node.
    pub(super) fn note(&mut self, frame: &[u8]) -> Noted {
        let Some((word, channel)) = words(frame) else {
            return Noted::Other;
        };
        let (set, joins) = match word {
            b"message" | b"pmessage" | b"smessage" => return Noted::Message,
            b"subscribe" => (&mut self.channels, true),
            b"psubscribe" => (&mut self.patterns, true),
            b"ssubscribe" => (&mut self.shards, true),
            b"unsubscribe" => (&mut self.channels, false),
            b"punsubscribe" => (&mut self.patterns, false),
            b"sunsubscribe" => (&mut self.shards, false),
            _ => return Noted::Other,
        };
        let frames = set.len().max(1);
        if let Some(channel) = channel {
            if joins {
                set.insert(Bytes::copy_from_slice(channel));
            } else {
                set.remove(channel);
            }
        }
        Noted::Confirmed { frames }
    }

    /// The commands that subscribe a fresh connection to all of it.
    pub(super) fn subscribe_again(&mut self) -> Bytes {
        self.repeated = self.len();
        let mut out = BytesMut::new();
        for (name, set) in [
            (&b"SUBSCRIBE"[..], &self.channels),
            (b"PSUBSCRIBE", &self.patterns),
        ] {
            if !set.is_empty() {
                let args: Vec<&[u8]> = std::iter::once(name)
                    .chain(set.iter().map(|name| &name[..]))
                    .collect();
                write::command(&mut out, &args);
            }
        }
        for channel in &self.shards {
            // One by one: shard channels of one command must share a slot where there are slots.
            write::command(&mut out, &[b"SSUBSCRIBE", channel]);
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(word: &str, channel: Option<&str>, count: usize) -> Vec<u8> {
        let channel = channel.map_or("$-1\r\n".to_owned(), |name| {
            format!("${}\r\n{name}\r\n", name.len())
        });
        format!("*3\r\n${}\r\n{word}\r\n{channel}:{count}\r\n", word.len()).into_bytes()
    }

    #[test]
    fn confirmations_are_learnt_and_messages_are_not() {
        let mut roll = Roll::default();
        assert_eq!(
            roll.note(&frame("subscribe", Some("a"), 1)),
            Noted::Confirmed { frames: 1 }
        );
        roll.note(&frame("psubscribe", Some("b*"), 2));
        roll.note(&frame("subscribe", Some("c"), 3));
        assert_eq!(roll.note(&frame("message", Some("a"), 3)), Noted::Message);
        assert_eq!(roll.len(), 3);
        assert_eq!(
            roll.subscribe_again(),
            &b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nc\r\n*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\nb*\r\n"[..]
        );
        assert_eq!(
            roll.note(&frame("unsubscribe", Some("a"), 2)),
            Noted::Confirmed { frames: 2 }
        );
        roll.note(&frame("unsubscribe", Some("c"), 1));
        roll.note(&frame("punsubscribe", Some("b*"), 0));
        assert!(roll.is_empty());
        assert_eq!(
            roll.note(&frame("unsubscribe", None, 0)),
            Noted::Confirmed { frames: 1 }
        );
    }

    #[test]
    fn repeated_confirmations_are_swallowed_once() {
        let mut roll = Roll::default();
        roll.note(&frame("subscribe", Some("a"), 1));
        let again = frame("subscribe", Some("a"), 1);
        assert!(!roll.swallows(&again));
        roll.subscribe_again();
        assert!(!roll.swallows(&frame("message", Some("a"), 1)));
        assert!(roll.swallows(&again));
        assert!(!roll.swallows(&again));
    }

    #[test]
    fn other_replies_are_left_alone() {
        let mut roll = Roll::default();
        for reply in [
            &b"+OK\r\n"[..],
            b"*2\r\n$4\r\npong\r\n$0\r\n\r\n",
            b"*0\r\n",
            b"*1\r\n$1\r\na\r\n",
            b">",
        ] {
            assert_eq!(roll.note(reply), Noted::Other);
        }
    }
}
