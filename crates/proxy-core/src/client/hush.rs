//! CLIENT REPLY OFF and SKIP: what of the replies does not reach the client.

use resp_codec::{Progress, ReplyKind, ReplyScan};

/// Which replies are kept from the client. Pushes are not.
pub(crate) enum Hush {
    /// All of them.
    All,
    /// The next one, as far as it has come by.
    Next(Box<ReplyScan>),
}

// === impl Hush ===

impl Hush {
    /// The next reply alone.
    pub(crate) fn next() -> Self {
        Self::Next(Box::default())
    }

    /// Takes out of `bytes`, which are replies, what is kept from the client. True: nothing more is.
    pub(super) fn keep_from(&mut self, bytes: &mut &[u8]) -> bool {
        let Self::Next(scan) = self else {
            *bytes = &[];
            return false;
        };
        match scan.feed(bytes) {
            Ok(Progress::Complete { used, kind }) => {
                // A push is no reply, and RESP3 pushes do not come in front of one here.
                debug_assert_ne!(kind, ReplyKind::Push, "pushes are written past this");
                *bytes = bytes.get(used..).unwrap_or_default();
                true
            }
            Ok(Progress::Partial) => {
                *bytes = &[];
                false
            }
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_reply_alone_is_kept_back_however_it_comes() {
        let replies = b"*2\r\n+a\r\n$1\r\nb\r\n+c\r\n";
        for split in 0..replies.len() {
            let mut hush = Hush::next();
            let (mut first, mut second) = replies.split_at(split);
            let done = hush.keep_from(&mut first);
            assert!(done || first.is_empty());
            if !done {
                assert!(hush.keep_from(&mut second));
            }
            assert_eq!([first, second].concat(), b"+c\r\n");
        }
    }

    #[test]
    fn all_means_all() {
        let mut replies = &b"+a\r\n"[..];
        assert!(!Hush::All.keep_from(&mut replies));
        assert!(replies.is_empty());
    }
}
