//! Counts complete requests in a stream of bytes without keeping any of them.

use super::canned::Answer;

/// Where the stream of one connection stands. Multibulk requests only: redis-benchmark sends no others.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    state: State,
    /// Arguments of the current request that are still to come.
    args: usize,
    /// The number being read, or the bytes of the current argument still to come (its line end included).
    number: usize,
    answer: Option<Answer>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// Between requests, or inside `*<n>\r\n`.
    #[default]
    Count,
    /// Inside `$<n>\r\n`.
    Length,
    /// Inside an argument.
    Argument,
}

/// The bytes are no multibulk request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

// === impl Scan ===

impl Scan {
    /// Takes all of `bytes` and calls `found` for each request that they complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Answer)) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match self.state {
                State::Count => {
                    if self.line(&mut bytes, b'*')? {
                        self.args = std::mem::take(&mut self.number);
                        self.state = if self.args == 0 {
                            State::Count
                        } else {
                            State::Length
                        };
                    }
                }
                State::Length => {
                    if self.line(&mut bytes, b'$')? {
                        self.number += 2;
                        self.state = State::Argument;
                    }
                }
                State::Argument => {
                    let (argument, rest) = bytes.split_at(self.number.min(bytes.len()));
                    bytes = rest;
                    self.answer.get_or_insert_with(|| Answer::to(argument));
                    self.number -= argument.len();
                    if self.number == 0 {
                        self.argument_ended(&mut found);
                    }
                }
            }
        }
        Ok(())
    }

    fn argument_ended(&mut self, found: &mut impl FnMut(Answer)) {
        self.args -= 1;
        self.state = State::Length;
        if self.args == 0 {
            self.state = State::Count;
            found(self.answer.take().unwrap_or(Answer::Ok));
        }
    }

    /// Reads `<mark><digits>\r\n` as far as it is there; true once it has ended.
    fn line(&mut self, bytes: &mut &[u8], mark: u8) -> Result<bool, Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            match byte {
                b'0'..=b'9' => self.number = self.number * 10 + usize::from(byte - b'0'),
                b'\n' => return Ok(true),
                b'\r' => {}
                _ if byte == mark => {}
                _ => return Err(Malformed),
            }
            if self.number > 1 << 32 {
                return Err(Malformed);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(chunks: &[&[u8]]) -> Result<Vec<Answer>, Malformed> {
        let mut scan = Scan::default();
        let mut found = Vec::new();
        for chunk in chunks {
            scan.feed(chunk, |answer| found.push(answer))?;
        }
        Ok(found)
    }

    #[test]
    fn every_split_finds_the_same_requests() {
        let wire: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$3\r\nset\r\n$1\r\nk\r\n$4\r\n*\r\n$\r\n*1\r\n$4\r\nPING\r\n";
        let all = [Answer::Value, Answer::Ok, Answer::Pong];
        for at in 0..=wire.len() {
            let (head, tail) = wire.split_at(at);
            assert_eq!(answers(&[head, tail]).unwrap(), all, "split at {at}");
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(answers(&bytes).unwrap(), all);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(answers(&[b"GET k\r\n"]), Err(Malformed));
        assert_eq!(answers(&[b"*99999999999999999999\r\n"]), Err(Malformed));
    }
}
