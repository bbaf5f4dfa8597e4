//! A request with its arguments, read in place.

use crate::frame::{RequestFrame, RequestShape};
use crate::scan::{Opening, inline, number};
use crate::spec::{Class, CommandSpec};
use std::ops::Range;

/// A request frame, its arguments and its row of the command table.
///
/// Arguments are read from the frame each time, in order: [`Self::args`] costs a few nanoseconds an argument,
/// [`Self::arg`] walks to the one asked for. Nothing is allocated but for inline requests.
#[derive(Debug)]
pub struct Command<B> {
    frame: B,
    found: RequestFrame,
    spec: &'static CommandSpec,
    inline: Option<Box<Inline>>,
}

/// An inline request with its quotes and escapes resolved.
#[derive(Debug)]
struct Inline {
    /// The arguments, one behind the other.
    text: Vec<u8>,
    args: Vec<Range<usize>>,
}

// === impl Command ===

impl<B: AsRef<[u8]>> Command<B> {
    /// Takes the frame that `found` was found in; `frame` holds exactly its bytes.
    #[inline]
    pub fn new(frame: B, found: RequestFrame) -> Self {
        let inline = match found.shape {
            RequestShape::Inline => Some(Box::new(Inline::new(frame.as_ref()))),
            RequestShape::Multibulk | RequestShape::Empty => None,
        };
        let spec = match &inline {
            Some(inline) => resolve(&inline.text, inline.args.iter().cloned()),
            None => match plain_name(frame.as_ref()).map(CommandSpec::of) {
                Some(spec) if !spec.is_container() => spec,
                _ => resolve(frame.as_ref(), Multibulk::new(frame.as_ref(), found.argc)),
            },
        };
        Self {
            frame,
            found,
            spec,
            inline,
        }
    }

    /// What further frames of this command start with. `None` where it takes more than a short name to tell them.
    #[inline]
    pub fn opening(&self) -> Option<Opening> {
        let name = plain_name(self.frame.as_ref())?;
        // A subcommand's row has the longer name.
        let tells = name.len() == self.spec.name.len()
            && !self.spec.is_container()
            && self.spec.id != CommandSpec::UNKNOWN.id;
        let len = PLAIN_HEADER.saturating_add(name.len()).saturating_add(2);
        if tells {
            Opening::new(self.frame.as_ref(), len, self.argc())
        } else {
            None
        }
    }

    /// The same command over the same bytes in another holder.
    #[inline]
    pub fn with_frame<C: AsRef<[u8]>>(self, frame: C) -> Command<C> {
        Command {
            frame,
            found: self.found,
            spec: self.spec,
            inline: self.inline,
        }
    }

    /// The frame, byte for byte as it came.
    #[inline]
    pub fn frame(&self) -> &B {
        &self.frame
    }

    /// The frame, byte for byte as it came.
    #[inline]
    pub fn into_frame(self) -> B {
        self.frame
    }

    /// Arguments, the name included. 0 for an empty request.
    #[inline]
    pub fn argc(&self) -> usize {
        self.found.argc
    }

    /// The `i`-th argument; 0 is the name. Walks there: for more than one, use [`Self::args`].
    #[inline]
    pub fn arg(&self, i: usize) -> Option<&[u8]> {
        self.args().nth(i)
    }

    /// The arguments, the name first.
    #[inline]
    pub fn args(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.text();
        self.arg_ranges().map(|range| text.get(range).unwrap_or_default())
    }

    /// Where the arguments stand in [`Self::text`].
    #[inline]
    pub fn arg_ranges(&self) -> impl Iterator<Item = Range<usize>> {
        match &self.inline {
            Some(inline) => ArgRanges::Inline(inline.args.iter()),
            None => ArgRanges::Multibulk(Multibulk::new(self.frame.as_ref(), self.found.argc)),
        }
    }

    /// What the ranges of arguments and keys point into: the frame, or for an inline request its arguments with
    /// quotes and escapes resolved.
    #[inline]
    pub fn text(&self) -> &[u8] {
        self.inline
            .as_ref()
            .map_or(self.frame.as_ref(), |inline| &inline.text)
    }

    /// What is known of the command, its subcommand resolved.
    #[inline]
    pub fn spec(&self) -> &'static CommandSpec {
        self.spec
    }

    /// Whether the command takes so many arguments.
    #[inline]
    pub fn arity_ok(&self) -> bool {
        self.spec.accepts(self.argc())
    }

    /// Whether the node may keep silent until somebody writes: all of [`Class::Blocking`], XREAD and XREADGROUP
    /// only with BLOCK.
    pub fn may_block(&self) -> bool {
        self.spec.class == Class::Blocking
            && (!matches!(self.spec.name, "xread" | "xreadgroup") || self.has_block_option())
    }

    /// Whether this is a line of HTTP (`POST`, `Host:`). The servers take it for an attack through a browser and
    /// close the connection without a reply: on a shared connection that would cost every session theirs.
    #[inline]
    pub fn is_http(&self) -> bool {
        let is = |name: &[u8]| name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:");
        self.spec.id == CommandSpec::UNKNOWN.id && self.arg(0).is_some_and(is)
    }

    /// BLOCK among XREAD's options, that is before STREAMS, and not as the value of another option.
    fn has_block_option(&self) -> bool {
        let mut args = self.args().skip(1);
        while let Some(option) = args.next() {
            if option.eq_ignore_ascii_case(b"BLOCK") {
                return true;
            } else if option.eq_ignore_ascii_case(b"STREAMS") {
                return false;
            } else if option.eq_ignore_ascii_case(b"GROUP") {
                args.nth(1);
            } else if option.eq_ignore_ascii_case(b"COUNT") {
                args.next();
            }
        }
        false
    }
}

/// Bytes before a [`plain_name`]: `*3\r\n$3\r\n`.
const PLAIN_HEADER: usize = 8;

/// The name, where it is short and its frame has few arguments: most of the time.
#[inline]
fn plain_name(frame: &[u8]) -> Option<&[u8]> {
    match frame {
        [
            b'*',
            _,
            b'\r',
            b'\n',
            b'$',
            len @ b'1'..=b'9',
            b'\r',
            b'\n',
            rest @ ..,
        ] => rest.get(..usize::from(len.wrapping_sub(b'0'))),
        _ => None,
    }
}

/// The row of the command with these arguments, of its subcommand if it has one.
#[inline]
fn resolve(text: &[u8], mut args: impl Iterator<Item = Range<usize>>) -> &'static CommandSpec {
    let mut next = || args.next().and_then(|range| text.get(range));
    let spec = next().map_or(CommandSpec::UNKNOWN, CommandSpec::of);
    if spec.is_container() {
        return next().and_then(|name| spec.subcommand(name)).unwrap_or(spec);
    }
    spec
}

// === impl Inline ===

impl Inline {
    fn new(frame: &[u8]) -> Self {
        let line = frame.strip_suffix(b"\n").unwrap_or(frame);
        let mut split = inline::Split::new(line.strip_suffix(b"\r").unwrap_or(line));
        let (mut text, mut args, mut start) = (Vec::new(), Vec::new(), 0);
        // The scanner has split this very line without an error.
        while let Ok(true) = split.next_arg(|byte| text.push(byte)) {
            args.push(start..text.len());
            start = text.len();
        }
        Self { text, args }
    }
}

/// Steps through the arguments of a request.
enum ArgRanges<'a> {
    Multibulk(Multibulk<'a>),
    Inline(std::slice::Iter<'a, Range<usize>>),
}

/// Steps through the arguments of a multibulk frame.
struct Multibulk<'a> {
    frame: &'a [u8],
    at: usize,
    left: usize,
}

// === impl ArgRanges ===

impl Iterator for ArgRanges<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        match self {
            Self::Multibulk(args) => args.next(),
            Self::Inline(args) => args.next().cloned(),
        }
    }
}

// === impl Multibulk ===

impl<'a> Multibulk<'a> {
    #[inline]
    fn new(frame: &'a [u8], argc: usize) -> Self {
        let at = header(frame, 0).map_or(frame.len(), |(_, body)| body);
        Self {
            frame,
            at,
            left: argc,
        }
    }
}

impl Iterator for Multibulk<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        self.left = self.left.checked_sub(1)?;
        let (len, start) = header(self.frame, self.at)?;
        let end = start.saturating_add(len);
        self.at = end.saturating_add(2);
        Some(start..end)
    }
}

/// The number in the header line at `at`, and where its body starts.
#[inline(always)]
fn header(frame: &[u8], at: usize) -> Option<(usize, usize)> {
    let digits = at.saturating_add(1);
    let line = frame.get(digits..)?;
    let (number, len) = number::short_line(line).or_else(|| long_line(line))?;
    Some((usize::try_from(number).ok()?, digits.saturating_add(len)))
}

/// Header lines that the scanner let pass and [`number::short_line`] does not know.
#[cold]
fn long_line(line: &[u8]) -> Option<(i64, usize)> {
    let end = memchr::memchr(b'\r', line)?;
    Some((number::parse(line.get(..end)?)?, end.saturating_add(2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RequestLimits, RequestScan};

    fn command(bytes: &[u8]) -> Command<&[u8]> {
        let found = RequestScan::default().advance(bytes, &RequestLimits::AUTHENTICATED);
        Command::new(bytes, found.expect("well-formed").expect("complete"))
    }

    #[test]
    fn subcommands_are_resolved_and_all_else_is_not() {
        for (line, want) in [
            (&b"GET k\r\n"[..], "get"),
            (b"Client SetName x\r\n", "client|setname"),
            (b"client nosuch\r\n", "client"),
            (b"client\r\n", "client"),
            (b"get setname\r\n", "get"),
            (b"client|setname x\r\n", "other"),
            (b"json.set k . 1\r\n", "other"),
            (b"*2\r\n$6\r\nCONFIG\r\n$3\r\nget\r\n", "config|get"),
            (b"\r\n", "other"),
        ] {
            assert_eq!(
                command(line).spec().name,
                want,
                "{:?}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn what_may_block() {
        for (line, want) in [
            (&b"BLPOP a 0\r\n"[..], true),
            (b"XREAD STREAMS a 0\r\n", false),
            (b"XREAD BLOCK 0 STREAMS a 0\r\n", true),
            (b"XREAD COUNT 5 block 0 STREAMS a 0\r\n", true),
            (b"XREAD COUNT block STREAMS a 0\r\n", false),
            (b"XREAD STREAMS block 0\r\n", false),
            (b"XREADGROUP GROUP block streams STREAMS a >\r\n", false),
            (b"XREADGROUP GROUP g c NOACK BLOCK 0 STREAMS a >\r\n", true),
            (b"GET block\r\n", false),
            (b"WAIT 1 0\r\n", false),
        ] {
            assert_eq!(
                command(line).may_block(),
                want,
                "{:?}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn http_is_told_from_unknown_commands() {
        for (line, want) in [
            (&b"POST / HTTP/1.1\r\n"[..], true),
            (b"host: example.com\r\n", true),
            (b"*1\r\n$4\r\npost\r\n", true),
            (b"GET / HTTP/1.1\r\n", false),
            (b"POSTS\r\n", false),
            (b"\r\n", false),
        ] {
            assert_eq!(
                command(line).is_http(),
                want,
                "{:?}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn another_holder_keeps_the_arguments() {
        let frame = b"SET 'a b' \"\\x00\"\r\n";
        let borrowed = command(frame);
        let owned = borrowed.with_frame(bytes::Bytes::copy_from_slice(frame));
        assert_eq!(
            owned.args().collect::<Vec<_>>(),
            [b"SET".as_slice(), b"a b", b"\0"]
        );
        assert_eq!(owned.frame().as_ref(), frame);
        assert_eq!(owned.into_frame().as_ref(), frame);
    }
}
