//! Where a reply ends, while its bytes pass by.
//!
//! Only boundaries are judged: what stands in a line (`:12x`, `,abc`) is the reader's business.

use super::number;
use crate::error::ReplyError;
use crate::frame::{Progress, ReplyKind};
use crate::limits::MAX_REPLY_DEPTH;

/// Finds the ends of replies in a stream of chunks. Nothing of a chunk need be kept for the next call.
#[derive(Debug)]
pub struct ReplyScan {
    stage: Stage,
    /// Values still to come in the innermost open aggregate; 0 between frames.
    left: u64,
    /// The same for the aggregates around it, outermost first. Flat replies never push a second level, and the
    /// memory of the first is kept.
    around: Vec<u64>,
    /// How deep aggregates may nest.
    max_depth: usize,
    kind: ReplyKind,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// At the type byte of a value.
    #[default]
    Type,
    /// In the header of a value of this type.
    Header(u8, Count),
    /// In a line, before its `\r`.
    Line,
    /// In a line, behind a `\r`.
    LineEnd,
    /// In a body with this many bytes to come, its line end not counted.
    Body(u64),
    /// Behind a body, before its `\r`.
    BodyReturn,
    /// Behind a body, before its `\n`.
    BodyNewline,
}

/// A header's number, as far as it came.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    text: [u8; MAX_COUNT_LEN],
    len: u8,
    returned: bool,
}

/// `-9223372036854775808`
const MAX_COUNT_LEN: usize = 20;

// === impl ReplyScan ===

impl Default for ReplyScan {
    fn default() -> Self {
        Self::no_deeper_than(MAX_REPLY_DEPTH)
    }
}

impl ReplyScan {
    /// A scan that refuses replies which nest deeper than this.
    #[inline]
    pub(crate) fn no_deeper_than(max_depth: usize) -> Self {
        Self {
            stage: Stage::default(),
            left: 0,
            around: Vec::new(),
            max_depth,
            kind: ReplyKind::default(),
        }
    }

    /// Consumes bytes of `chunk` up to the end of the reply that is open, or all of them. After
    /// [`Progress::Complete`] the next call starts with the rest of the chunk, or with the next one.
    ///
    /// # Errors
    /// See [`ReplyError`]; the stream has no meaning behind one.
    #[inline]
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Progress, ReplyError> {
        if self.is_idle()
            && let Some((used, kind)) = short_reply(chunk)
        {
            return Ok(Progress::Complete { used, kind });
        }
        self.walk(chunk)
    }

    /// How many whole replies `chunk` starts with, at most `most`, and how many bytes they take: the common case of
    /// many short ones in one go. None of them is an error or a push. 0 says no more than "feed it".
    #[inline]
    pub fn run(&self, chunk: &[u8], most: u64) -> (u64, usize) {
        let (mut count, mut used) = (0_u64, 0_usize);
        if !self.is_idle() {
            return (count, used);
        }
        while count < most {
            match chunk.get(used..).and_then(short_reply) {
                Some((len, kind)) if !kind.is_error() => used = used.saturating_add(len),
                _ => break,
            }
            count = count.saturating_add(1);
        }
        (count, used)
    }

    /// Whether the stream stands between two frames: nothing of a reply has come.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.left == 0 && self.around.is_empty()
    }

    fn walk(&mut self, chunk: &[u8]) -> Result<Progress, ReplyError> {
        if chunk.is_empty() {
            return Ok(Progress::Partial);
        }
        if self.is_idle() {
            self.left = 1;
        }
        let mut rest = chunk;
        while !rest.is_empty() {
            let ended = match self.stage {
                Stage::Type => self.skip_element(&mut rest) || self.on_type(&mut rest)?,
                Stage::Header(kind, count) => self.on_header(kind, count, &mut rest)?,
                Stage::Line => {
                    let at = memchr::memchr(b'\r', rest);
                    rest = at
                        .and_then(|at| rest.get(at.saturating_add(1)..))
                        .unwrap_or_default();
                    if at.is_some() {
                        self.stage = Stage::LineEnd;
                    }
                    false
                }
                Stage::LineEnd => match take(&mut rest) {
                    Some(b'\n') => true,
                    Some(b'\r') => false,
                    _ => {
                        self.stage = Stage::Line;
                        false
                    }
                },
                Stage::Body(len) => {
                    let here = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
                    rest = rest.get(here..).unwrap_or_default();
                    self.stage = match len.saturating_sub(here as u64) {
                        0 => Stage::BodyReturn,
                        more => Stage::Body(more),
                    };
                    false
                }
                Stage::BodyReturn => {
                    expect(&mut rest, b'\r')?;
                    self.stage = Stage::BodyNewline;
                    false
                }
                Stage::BodyNewline => {
                    expect(&mut rest, b'\n')?;
                    true
                }
            };
            if ended {
                self.stage = Stage::Type;
                if self.close_value() {
                    let used = chunk.len().saturating_sub(rest.len());
                    return Ok(Progress::Complete {
                        used,
                        kind: self.kind,
                    });
                }
            }
        }
        Ok(Progress::Partial)
    }

    /// Skips one value of many that lies in `rest` whole. (One that stands alone [`Self::feed`] has looked at so.)
    #[inline]
    fn skip_element(&self, rest: &mut &[u8]) -> bool {
        let whole = if self.around.is_empty() {
            None
        } else {
            short_reply(rest)
        };
        if let Some((len, _)) = whole {
            *rest = rest.get(len..).unwrap_or_default();
        }
        whole.is_some()
    }

    /// Enters the next value. True if it ended at once.
    #[inline]
    fn on_type(&mut self, rest: &mut &[u8]) -> Result<bool, ReplyError> {
        let Some(byte) = take(rest) else { return Ok(false) };
        let kind = match byte {
            ATTRIBUTE => self.kind,
            byte => kind_of(byte).ok_or(match byte {
                b';' | b'.' => ReplyError::Streamed,
                other => ReplyError::UnexpectedType(other),
            })?,
        };
        if self.around.is_empty() {
            self.kind = kind;
        }
        if is_line(byte) {
            self.stage = Stage::Line;
            return Ok(false);
        }
        if let Some((number, len)) = number::short_line(rest) {
            *rest = rest.get(len..).unwrap_or_default();
            return self.open(byte, number);
        }
        self.stage = Stage::Header(byte, Count::default());
        Ok(false)
    }

    /// Collects a header that came in pieces or is no short positive number.
    #[cold]
    fn on_header(&mut self, kind: u8, mut count: Count, rest: &mut &[u8]) -> Result<bool, ReplyError> {
        while let Some(byte) = take(rest) {
            match byte {
                b'\n' if count.returned => {
                    let text = count.text.get(..usize::from(count.len)).unwrap_or_default();
                    let number = number::parse(text).ok_or(ReplyError::InvalidLength)?;
                    return self.open(kind, number);
                }
                _ if count.returned => return Err(ReplyError::MissingLineEnd),
                b'\r' => count.returned = true,
                b'?' if count.len == 0 => return Err(ReplyError::Streamed),
                byte => {
                    let slot = count.text.get_mut(usize::from(count.len));
                    *slot.ok_or(ReplyError::InvalidLength)? = byte;
                    count.len = count.len.saturating_add(1);
                }
            }
        }
        self.stage = Stage::Header(kind, count);
        Ok(false)
    }

    /// Opens a value whose header is complete. True if nothing of it is to come.
    fn open(&mut self, kind: u8, number: i64) -> Result<bool, ReplyError> {
        let Ok(number) = u64::try_from(number) else {
            if number != -1 || !matches!(kind, b'$' | b'*') {
                return Err(ReplyError::InvalidLength);
            }
            if self.around.is_empty() {
                self.kind = ReplyKind::Null;
            }
            return Ok(true);
        };
        let (values, outer) = match kind {
            b'$' | b'!' | b'=' => {
                self.stage = if number == 0 {
                    Stage::BodyReturn
                } else {
                    Stage::Body(number)
                };
                return Ok(false);
            }
            // Doubling cannot overflow: the number was an i64. An attribute is no value, the one that it precedes is still to come.
            ATTRIBUTE => (number.saturating_mul(2), self.left),
            b'%' => (number.saturating_mul(2), self.left.saturating_sub(1)),
            _ => (number, self.left.saturating_sub(1)),
        };
        self.stage = Stage::Type;
        match values {
            0 => Ok(kind != ATTRIBUTE),
            values => {
                if self.around.len() >= self.max_depth {
                    return Err(ReplyError::TooDeep);
                }
                self.around.push(outer);
                self.left = values;
                Ok(false)
            }
        }
    }

    /// Counts one value as done, and every aggregate that it completes. True if the frame is.
    fn close_value(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        while self.left == 0 {
            match self.around.pop() {
                Some(left) => self.left = left,
                None => return true,
            }
        }
        false
    }
}

const ATTRIBUTE: u8 = b'|';

/// The replies that nearly all are: a line, a bulk that lies in the chunk whole, or none.
#[inline]
fn short_reply(chunk: &[u8]) -> Option<(usize, ReplyKind)> {
    if chunk.starts_with(b"+OK\r\n") {
        return Some((5, ReplyKind::Simple));
    }
    let [byte, rest @ ..] = chunk else { return None };
    match byte {
        b'$' => {
            let Some((len, header)) = number::short_line(rest) else {
                return rest.starts_with(b"-1\r\n").then_some((5, ReplyKind::Null));
            };
            let body = usize::try_from(len).ok()?;
            let end = header.saturating_add(body).saturating_add(1);
            let used = end.saturating_add(2);
            (chunk.get(end..used) == Some(b"\r\n")).then_some((used, ReplyKind::Bulk))
        }
        b'+' | b':' | b'-' | b'_' => {
            let end = memchr::memchr(b'\r', rest)?.saturating_add(2);
            let kind = match byte {
                b'+' => ReplyKind::Simple,
                b':' => ReplyKind::Integer,
                b'_' => ReplyKind::Null,
                _ => ReplyKind::Error,
            };
            (chunk.get(end) == Some(&b'\n')).then_some((end.saturating_add(1), kind))
        }
        _ => None,
    }
}

fn kind_of(byte: u8) -> Option<ReplyKind> {
    Some(match byte {
        b'+' => ReplyKind::Simple,
        b'-' => ReplyKind::Error,
        b':' => ReplyKind::Integer,
        b'$' => ReplyKind::Bulk,
        b'*' => ReplyKind::Array,
        b'%' => ReplyKind::Map,
        b'~' => ReplyKind::Set,
        b'>' => ReplyKind::Push,
        b'_' => ReplyKind::Null,
        b',' => ReplyKind::Double,
        b'#' => ReplyKind::Bool,
        b'(' => ReplyKind::BigNumber,
        b'=' => ReplyKind::Verbatim,
        b'!' => ReplyKind::BlobError,
        _ => return None,
    })
}

/// Types that are one line, without a length.
fn is_line(byte: u8) -> bool {
    matches!(byte, b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(')
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(*first)
}

fn expect(rest: &mut &[u8], byte: u8) -> Result<(), ReplyError> {
    if take(rest) == Some(byte) {
        Ok(())
    } else {
        Err(ReplyError::MissingLineEnd)
    }
}
