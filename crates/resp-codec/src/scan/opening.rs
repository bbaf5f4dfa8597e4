//! Many frames of one command, seen in one go.

use super::request::plain_args;

/// What the frames of one command start with: `*3\r\n$3\r\nSET\r\n`. It tells which command it is and how many
/// arguments it has, so that those that follow need not be looked up.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The first bytes, little-endian; 0 behind them.
    bytes: u128,
    /// Set where `bytes` counts.
    mask: u128,
    len: usize,
    /// Arguments behind the name.
    args: usize,
}

// === impl Opening ===

impl Opening {
    /// The frames that start with the first `len` bytes of `frame`, which has `argc` arguments. `None` if they are too
    /// many to compare at once.
    pub(crate) fn new(frame: &[u8], len: usize, argc: usize) -> Option<Self> {
        let mut bytes = [0; size_of::<u128>()];
        let mut mask = bytes;
        bytes.get_mut(..len)?.copy_from_slice(frame.get(..len)?);
        mask.get_mut(..len)?.fill(u8::MAX);
        Some(Self {
            bytes: u128::from_le_bytes(bytes),
            mask: u128::from_le_bytes(mask),
            len,
            args: argc.checked_sub(1)?,
        })
    }

    /// How many frames of this command `buf` starts with, at most `most`, and how many bytes they take. Counted are
    /// only those that are whole and have at most nine arguments, each shorter than 100 bytes: within every limit of
    /// [`RequestLimits`](crate::RequestLimits). 0 says no more than "look closer".
    #[inline]
    pub fn run(&self, buf: &[u8], most: u64) -> (u64, usize) {
        let (mut count, mut rest) = (0_u64, buf);
        while count < most
            && let Some(head) = rest.first_chunk()
            && u128::from_le_bytes(*head) & self.mask == self.bytes
            && let Some(args) = rest.get(self.len..)
            && let Some(behind) = plain_args(args, self.args)
        {
            count = count.saturating_add(1);
            rest = behind;
        }
        (count, buf.len().saturating_sub(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Command, RequestLimits, RequestScan};

    /// What the opening of the first frame of `input` finds behind it.
    fn run(input: &[u8], most: u64) -> Option<(u64, usize)> {
        let frame = RequestScan::default()
            .advance(input, &RequestLimits::AUTHENTICATED)
            .unwrap()
            .unwrap();
        let command = Command::new(&input[..frame.len], frame);
        Some(command.opening()?.run(&input[frame.len..], most))
    }

    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";

    #[test]
    fn counts_whole_frames_of_the_same_command() {
        let longer = b"*2\r\n$3\r\nGET\r\n$12\r\nabcdefghijkl\r\n";
        let many = [GET, GET, longer, GET, b"*2\r\n$3\r\nTTL\r\n$1\r\nk\r\n", GET].concat();
        let len = 2 * GET.len() + longer.len();
        assert_eq!(run(&many, 9), Some((3, len)));
        assert_eq!(run(&many, 2), Some((2, GET.len() + longer.len())));
        assert_eq!(run(&many, 0), Some((0, 0)));
    }

    #[test]
    fn leaves_what_is_not_whole_or_not_plain() {
        for end in GET.len()..2 * GET.len() {
            assert_eq!(run(&GET.repeat(2)[..end], 9), Some((0, 0)), "{end}");
        }
        for next in [
            &b"*2\r\n$3\r\nget\r\n$1\r\nk\r\n"[..],
            b"*2\r\n$3\r\nGET\r\n$1\r\nkk\r\n",
            b"*2\r\n$3\r\nGET\r\n$01\r\nk\r\n",
            b"*2\r\n$3\r\nGET\r\n$-1\r\nk\r\n",
            b"*2\r\n$3\r\nGET\r\n:1\r\nk\r\n",
            b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\n$1\r\nl\r\n",
            b"GET k\r\n",
        ] {
            assert_eq!(run(&[GET, next].concat(), 9), Some((0, 0)), "{next:?}");
        }
    }

    #[test]
    fn a_name_that_does_not_tell_the_command_has_none() {
        for frame in [
            &b"*3\r\n$6\r\nOBJECT\r\n$8\r\nENCODING\r\n$1\r\nk\r\n"[..],
            b"*2\r\n$6\r\nCLIENT\r\n$5\r\nwrong\r\n",
            b"*2\r\n$7\r\nno.such\r\n$1\r\nk\r\n",
            b"*10\r\n$4\r\nMGET\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n5\r\n$1\r\n6\r\n$1\r\n7\r\n$1\r\n8\r\n$1\r\n9\r\n",
            b"GET k\r\n",
        ] {
            assert_eq!(run(frame, 9), None, "{frame:?}");
        }
    }
}
