//! Inline requests, split as Redis splits them (`sdssplitargs`): blanks part, quotes hold together, `"\x41\n"`
//! and `'it\'s'` escape.

/// The quotes of a line do not match, or text follows a closing quote without a blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unbalanced;

/// The arguments of one line, one after the other.
pub(crate) struct Split<'a> {
    rest: &'a [u8],
}

// === impl Split ===

impl<'a> Split<'a> {
    pub(crate) fn new(line: &'a [u8]) -> Self {
        Self { rest: line }
    }

    /// Hands the bytes of the next argument to `push`. `Ok(false)` once there is none.
    pub(crate) fn next_arg(&mut self, mut push: impl FnMut(u8)) -> Result<bool, Unbalanced> {
        while let [blank, rest @ ..] = self.rest
            && is_space(*blank)
        {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        while let [byte, rest @ ..] = self.rest {
            self.rest = rest;
            match byte {
                // Fewer than `is_space` knows: a vertical tab inside a word stays in it.
                b' ' | b'\n' | b'\r' | b'\t' | 0 => return Ok(true),
                b'"' => return self.double_quoted(push),
                b'\'' => return self.single_quoted(push),
                plain => push(*plain),
            }
        }
        Ok(true)
    }

    fn double_quoted(&mut self, mut push: impl FnMut(u8)) -> Result<bool, Unbalanced> {
        loop {
            match self.rest {
                [b'\\', b'x', high, low, rest @ ..]
                    if let (Some(high), Some(low)) = (hex(*high), hex(*low)) =>
                {
                    push(high << 4 | low);
                    self.rest = rest;
                }
                [b'\\', escaped, rest @ ..] => {
                    push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 0x08,
                        b'a' => 0x07,
                        other => *other,
                    });
                    self.rest = rest;
                }
                [b'"', rest @ ..] => return self.closed(rest),
                [plain, rest @ ..] => {
                    push(*plain);
                    self.rest = rest;
                }
                [] => return Err(Unbalanced),
            }
        }
    }

    fn single_quoted(&mut self, mut push: impl FnMut(u8)) -> Result<bool, Unbalanced> {
        loop {
            match self.rest {
                [b'\\', b'\'', rest @ ..] => {
                    push(b'\'');
                    self.rest = rest;
                }
                [b'\'', rest @ ..] => return self.closed(rest),
                [plain, rest @ ..] => {
                    push(*plain);
                    self.rest = rest;
                }
                [] => return Err(Unbalanced),
            }
        }
    }

    /// A closing quote ends the argument, and a blank or the line's end must follow it.
    fn closed(&mut self, rest: &'a [u8]) -> Result<bool, Unbalanced> {
        if rest.first().is_some_and(|next| !is_space(*next)) {
            return Err(Unbalanced);
        }
        self.rest = rest;
        Ok(true)
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[u8], want: Result<&[&[u8]], Unbalanced>) {
        let mut split = Split::new(line);
        let mut got = Vec::new();
        let outcome = loop {
            let mut arg = Vec::new();
            match split.next_arg(|byte| arg.push(byte)) {
                Ok(true) => got.push(arg),
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let want = want.map(|args| args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>());
        assert_eq!(outcome.map(|()| got), want, "{:?}", String::from_utf8_lossy(line));
    }

    #[test]
    fn splits_as_sdssplitargs() {
        check(b"", Ok(&[]));
        check(b" \t\x0b\x0c ", Ok(&[]));
        check(b"get k", Ok(&[b"get", b"k"]));
        check(b"  get \t k  ", Ok(&[b"get", b"k"]));
        check(b"a\x0bb", Ok(&[b"a\x0bb"]));
        check(br#""a b" 'c d'"#, Ok(&[b"a b", b"c d"]));
        check(br#"pre"fix" x"#, Ok(&[b"prefix", b"x"]));
        check(br#""\x41\n\r\t\b\a\q\\""#, Ok(&[b"A\n\r\t\x08\x07q\\"]));
        check(br#""\xzz" "\x4""#, Ok(&[b"xzz", b"x4"]));
        check(br#"'it\'s \n'"#, Ok(&[br"it's \n"]));
        check(br#""" ''"#, Ok(&[b"", b""]));
        check(br#""open"#, Err(Unbalanced));
        check(br#"'open"#, Err(Unbalanced));
        check(br#""closed"x"#, Err(Unbalanced));
        check(br#"'closed'x"#, Err(Unbalanced));
        check(br#""ends with \"#, Err(Unbalanced));
        check(br#"say "a"'b'"#, Err(Unbalanced));
    }
}
