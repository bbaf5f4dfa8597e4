//! The replies, written out once at the start.

/// Shorter replies are repeated up to this many bytes, so that a pipeline's replies leave as one slice.
const REPEATED_BYTES: usize = 64 << 10;

/// Which canned reply a command gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `+OK`: SET, MSET and whatever else is asked.
    Ok,
    /// The value: GET.
    Value,
    /// `+PONG`: PING.
    Pong,
    /// An empty setting: CONFIG GET, which redis-benchmark sends before it begins.
    Setting,
}

impl Answer {
    /// The answer to a command of this name (any case).
    pub(crate) fn to(name: &[u8]) -> Self {
        match name.first().map(u8::to_ascii_uppercase) {
            Some(b'G') => Self::Value,
            Some(b'P') => Self::Pong,
            Some(b'C') => Self::Setting,
            _ => Self::Ok,
        }
    }
}

/// All canned replies, each repeated.
pub(crate) struct Canned {
    replies: [Repeated; 4],
}

struct Repeated {
    /// A whole number of copies of the reply.
    bytes: Vec<u8>,
    /// Length of one copy.
    len: usize,
}

// === impl Canned ===

impl Canned {
    pub(crate) fn new(value_bytes: usize) -> Self {
        let mut value = format!("${value_bytes}\r\n").into_bytes();
        value.resize(value.len() + value_bytes, b'x');
        value.extend_from_slice(b"\r\n");
        // In the order of the variants of `Answer`.
        let replies = [
            Repeated::new(b"+OK\r\n"),
            Repeated::new(&value),
            Repeated::new(b"+PONG\r\n"),
            Repeated::new(b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ];
        Self { replies }
    }

    /// Bytes of one reply.
    pub(crate) fn len(&self, answer: Answer) -> usize {
        self.replies[answer as usize].len
    }

    /// The bytes with which the last `left` bytes of a run of equal replies begin: all of them, or as many as there are
    /// copies at hand.
    pub(crate) fn slice(&self, answer: Answer, left: usize) -> &[u8] {
        let Repeated { bytes, len } = &self.replies[answer as usize];
        // The run ends with a whole reply, so what is over of a division is the tail of one that was begun.
        let start = (len - left % len) % len;
        &bytes[start..bytes.len().min(start + left)]
    }
}

// === impl Repeated ===

impl Repeated {
    fn new(reply: &[u8]) -> Self {
        let copies = (REPEATED_BYTES / reply.len()).max(1);
        Self {
            bytes: reply.repeat(copies),
            len: reply.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_rest_of_a_run_is_its_tail() {
        let canned = Canned::new(16);
        let one = b"$16\r\nxxxxxxxxxxxxxxxx\r\n";
        assert_eq!(canned.len(Answer::Value), one.len());
        let whole = one.repeat(5_000);
        for left in [1, 7, one.len(), one.len() + 1, 70_000, whole.len()] {
            let mut written = 0;
            while written < left {
                let slice = canned.slice(Answer::Value, left - written);
                assert_eq!(
                    slice,
                    &whole[whole.len() - left + written..][..slice.len()],
                    "{left} bytes left"
                );
                written += slice.len();
            }
        }
    }
}
