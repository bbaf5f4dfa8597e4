//! Where a request ends, by the rules of `processMultibulkBuffer` and `processInlineBuffer`.
//!
//! Whoever stands before a node must cut requests exactly as it does. Where Redis 7 and Valkey 8 differ, the
//! stricter one is followed: Redis skips the bytes at a line end's place unseen, Valkey refuses what is no `\r\n`.
//! So nothing that passes here is refused by either, and no client's bytes break a connection that others share.

use super::inline::Split;
use super::number;
use crate::error::RequestError;
use crate::frame::{RequestFrame, RequestShape};
use crate::limits::RequestLimits;

/// Finds the end of one request in a buffer that grows.
///
/// Most requests are small and come whole: those are read in one go. Holds a few numbers, whatever a header announces.
#[derive(Debug, Default)]
pub struct RequestScan {
    stage: Stage,
    /// Where the open line or body starts.
    at: usize,
    /// Bytes of the open line known to hold no line end.
    searched: usize,
    /// Arguments announced.
    argc: usize,
    /// Arguments not yet complete.
    left: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// At the first byte of a request.
    #[default]
    Start,
    /// In a line without `*` at its start.
    Inline,
    /// In `*3\r\n`.
    Count,
    /// In `$5\r\n`.
    Length,
    /// In a body, whose line end included this many bytes.
    Body(usize),
}

// === impl RequestScan ===

impl RequestScan {
    /// Looks for the end of the request that starts at `buf[0]`. `None` means more bytes are needed: call again
    /// with the same bytes and more behind them. After a frame or an error the scan is new again.
    ///
    /// # Errors
    /// As Redis answers them, see [`RequestError`].
    #[inline]
    pub fn advance(
        &mut self,
        buf: &[u8],
        limits: &RequestLimits,
    ) -> Result<Option<RequestFrame>, RequestError> {
        if matches!(self.stage, Stage::Start)
            && let Some(frame) = plain(buf, limits)
        {
            return Ok(Some(frame));
        }
        let outcome = self.resume(buf, limits);
        if !matches!(outcome, Ok(None)) {
            *self = Self::default();
        }
        outcome
    }

    /// What has been announced of the request that is open: its arguments, and how many bytes it takes at the least.
    /// `None` before its count has come, and for an inline request. With the bytes that came it makes a
    /// [`Command`](crate::Command) whose last arguments are missing or cut short.
    #[inline]
    pub fn announced(&self) -> Option<RequestFrame> {
        let body = match self.stage {
            Stage::Start | Stage::Inline | Stage::Count => return None,
            Stage::Length => 0,
            Stage::Body(len) => len,
        };
        Some(RequestFrame {
            len: self.at.saturating_add(body),
            argc: self.argc,
            shape: RequestShape::Multibulk,
        })
    }

    /// For who passes a request on as it comes: how many of the `len` bytes shown need not be shown again. The next
    /// call shows what stands behind them, and a frame's length counts from there. The end of a request is never
    /// forgotten before it was found.
    pub fn forget(&mut self, len: usize) -> usize {
        let gone = match self.stage {
            Stage::Start | Stage::Inline | Stage::Count => 0,
            Stage::Length => self.at.min(len),
            Stage::Body(body) => {
                let end = self.at.saturating_add(body).saturating_sub(LINE_END);
                let gone = end.min(len);
                self.stage = Stage::Body(body.saturating_sub(gone.saturating_sub(self.at)));
                gone
            }
        };
        self.at = self.at.saturating_sub(gone);
        gone
    }

    fn resume(&mut self, buf: &[u8], limits: &RequestLimits) -> Result<Option<RequestFrame>, RequestError> {
        loop {
            match self.stage {
                Stage::Start => match buf.first() {
                    Some(b'*') => self.stage = Stage::Count,
                    Some(_) => self.stage = Stage::Inline,
                    None => return Ok(None),
                },
                Stage::Inline => return self.inline(buf, limits),
                Stage::Count => {
                    let Some(count) = self.number(buf, limits, Header::COUNT)? else {
                        return Ok(None);
                    };
                    let Some(argc) = check_count(count, limits)? else {
                        return Ok(Some(self.frame(RequestShape::Empty)));
                    };
                    self.argc = argc;
                    self.left = argc;
                    self.stage = Stage::Length;
                }
                Stage::Length => {
                    let Some(len) = self.number(buf, limits, Header::LENGTH)? else {
                        return Ok(None);
                    };
                    self.stage = Stage::Body(check_length(len, limits)?.saturating_add(LINE_END));
                }
                Stage::Body(len) => {
                    let end = self.at.saturating_add(len);
                    let Some(line_end) = buf.get(end.saturating_sub(LINE_END)..end) else {
                        return Ok(None);
                    };
                    if line_end != b"\r\n" {
                        return Err(RequestError::InvalidLineEnd);
                    }
                    self.at = end;
                    self.left = self.left.saturating_sub(1);
                    if self.left == 0 {
                        return Ok(Some(self.frame(RequestShape::Multibulk)));
                    }
                    self.stage = Stage::Length;
                }
            }
        }
    }

    /// Reads the header line at `self.at` and steps over it.
    #[inline]
    fn number(
        &mut self,
        buf: &[u8],
        limits: &RequestLimits,
        header: Header,
    ) -> Result<Option<i64>, RequestError> {
        let line = buf.get(self.at..).unwrap_or_default();
        if let [prefix, rest @ ..] = line
            && *prefix == header.prefix
            && let Some((value, len)) = number::short_line(rest)
        {
            self.at = self.at.saturating_add(len).saturating_add(1);
            self.searched = 0;
            return Ok(Some(value));
        }
        self.odd_number(line, limits, header)
    }

    /// The header lines that are long, late or wrong.
    #[cold]
    fn odd_number(
        &mut self,
        line: &[u8],
        limits: &RequestLimits,
        header: Header,
    ) -> Result<Option<i64>, RequestError> {
        let Some(end) = self
            .find_end(line, b'\r', None, limits)
            .map_err(|TooLong| header.too_long)?
        else {
            return Ok(None);
        };
        let Some(newline) = line.get(end.saturating_add(1)) else {
            return Ok(None);
        };
        let (prefix, text) = match line.get(..end).unwrap_or_default() {
            [prefix, text @ ..] => (*prefix, text),
            [] => (b'\r', Default::default()),
        };
        if prefix != header.prefix {
            return Err(RequestError::ExpectedBulk(prefix));
        }
        if *newline != b'\n' {
            return Err(RequestError::InvalidLineEnd);
        }
        self.at = self.at.saturating_add(end).saturating_add(LINE_END);
        self.searched = 0;
        number::parse(text).map(Some).ok_or(header.invalid)
    }

    fn inline(&mut self, buf: &[u8], limits: &RequestLimits) -> Result<Option<RequestFrame>, RequestError> {
        let Some(end) = self
            .find_end(buf, b'\n', Some(0), limits)
            .map_err(|TooLong| RequestError::TooBigInline)?
        else {
            return Ok(None);
        };
        let line = buf.get(..end).unwrap_or_default();
        let mut args = Split::new(line.strip_suffix(b"\r").unwrap_or(line));
        while args
            .next_arg(|_| ())
            .map_err(|_| RequestError::UnbalancedQuotes)?
        {
            self.argc = self.argc.saturating_add(1);
        }
        self.at = end.saturating_add(1);
        Ok(Some(self.frame(if self.argc == 0 {
            RequestShape::Empty
        } else {
            RequestShape::Inline
        })))
    }

    /// Where in `line` the first `end` stands, and never behind a `hider`: the servers look for the end of an inline
    /// request with `strchr`, which stops at a NUL. A header ends within the limit; an inline request may be longer where
    /// its end is at hand.
    fn find_end(
        &mut self,
        line: &[u8],
        end: u8,
        hider: Option<u8>,
        limits: &RequestLimits,
    ) -> Result<Option<usize>, TooLong> {
        let within = match hider {
            Some(_) => line.len(),
            None => line.len().min(limits.max_inline.saturating_add(1)),
        };
        let fresh = line.get(self.searched..within).unwrap_or_default();
        match memchr::memchr2(end, hider.unwrap_or(end), fresh) {
            Some(at) if fresh.get(at) == Some(&end) => Ok(Some(self.searched.saturating_add(at))),
            _ if line.len() > limits.max_inline => Err(TooLong),
            // The hider stays the first thing found.
            Some(at) => {
                self.searched = self.searched.saturating_add(at);
                Ok(None)
            }
            None => {
                self.searched = within;
                Ok(None)
            }
        }
    }

    fn frame(&self, shape: RequestShape) -> RequestFrame {
        RequestFrame {
            len: self.at,
            argc: self.argc,
            shape,
        }
    }
}

/// An open line past the limit.
struct TooLong;

/// What the two header lines of a multibulk request differ in.
#[derive(Clone, Copy)]
struct Header {
    prefix: u8,
    invalid: RequestError,
    too_long: RequestError,
}

// === impl Header ===

impl Header {
    const COUNT: Self = Self {
        prefix: b'*',
        invalid: RequestError::InvalidMultibulkLength,
        too_long: RequestError::TooBigMultibulkCount,
    };
    const LENGTH: Self = Self {
        prefix: b'$',
        invalid: RequestError::InvalidBulkLength,
        too_long: RequestError::TooBigBulkCount,
    };
}

const LINE_END: usize = 2;

/// The common case in one go: a whole request of at most 99 arguments, each shorter than 100 bytes. `None` means no more
/// than "look closer".
#[inline]
fn plain(buf: &[u8], limits: &RequestLimits) -> Option<RequestFrame> {
    let (argc, rest) = plain_header(buf, b'*')?;
    if argc == 0 || argc as i64 > limits.max_args {
        return None;
    }
    let behind = plain_args(rest, argc)?;
    Some(RequestFrame {
        len: buf.len().wrapping_sub(behind.len()),
        argc,
        shape: RequestShape::Multibulk,
    })
}

/// What stands behind `count` whole arguments, each shorter than 100 bytes.
#[inline(always)]
pub(super) fn plain_args(mut rest: &[u8], count: usize) -> Option<&[u8]> {
    for _ in 0..count {
        let (len, body) = plain_header(rest, b'$')?;
        rest = match body.get(len..)? {
            [b'\r', b'\n', behind @ ..] => behind,
            _ => return None,
        };
    }
    Some(rest)
}

/// The number, of one or two digits, that a whole line behind `kind` writes, and what stands behind the line.
#[inline(always)]
fn plain_header(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let digit = |byte: u8| usize::from(byte.wrapping_sub(b'0'));
    match bytes {
        [first, ones @ b'0'..=b'9', b'\r', b'\n', behind @ ..] if *first == kind => {
            Some((digit(*ones), behind))
        }
        [
            first,
            tens @ b'1'..=b'9',
            ones @ b'0'..=b'9',
            b'\r',
            b'\n',
            behind @ ..,
        ] if *first == kind => Some((digit(*tens).wrapping_mul(10).wrapping_add(digit(*ones)), behind)),
        _ => None,
    }
}

/// `None` for a count that announces nothing.
fn check_count(count: i64, limits: &RequestLimits) -> Result<Option<usize>, RequestError> {
    if count > limits.max_args {
        let known = !limits.authenticated && count <= RequestLimits::AUTHENTICATED.max_args;
        return Err(if known {
            RequestError::UnauthenticatedMultibulkLength
        } else {
            RequestError::InvalidMultibulkLength
        });
    }
    Ok(usize::try_from(count).ok().filter(|argc| *argc > 0))
}

fn check_length(len: i64, limits: &RequestLimits) -> Result<usize, RequestError> {
    if len > limits.max_bulk_len {
        let known = !limits.authenticated && len <= RequestLimits::AUTHENTICATED.max_bulk_len;
        return Err(if known {
            RequestError::UnauthenticatedBulkLength
        } else {
            RequestError::InvalidBulkLength
        });
    }
    usize::try_from(len).map_err(|_| RequestError::InvalidBulkLength)
}
