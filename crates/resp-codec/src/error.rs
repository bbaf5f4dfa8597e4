//! What can be wrong with bytes. Incomplete is not an error.

use bytes::BytesMut;
use std::borrow::Cow;
use std::fmt;

/// A request that Redis answers with a protocol error before it closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The argument count is no number, or past the limit.
    InvalidMultibulkLength,
    /// More arguments than a client may send before it has authenticated.
    UnauthenticatedMultibulkLength,
    /// 64 KiB of a multibulk header without its end.
    TooBigMultibulkCount,
    /// The argument length is no number, negative, or past the limit.
    InvalidBulkLength,
    /// A longer argument than a client may send before it has authenticated.
    UnauthenticatedBulkLength,
    /// 64 KiB of an argument header without its end.
    TooBigBulkCount,
    /// An argument that starts with this byte and not with `$`.
    ExpectedBulk(u8),
    /// A header or an argument without `\r\n` where it belongs.
    InvalidLineEnd,
    /// 64 KiB of an inline request without its end.
    TooBigInline,
    /// An inline request whose quotes do not match.
    UnbalancedQuotes,
}

/// A reply that is not RESP as Redis writes it. Nothing after it can be trusted: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// No type of RESP2 or RESP3 starts with this byte.
    UnexpectedType(u8),
    /// A length or count that is no number, negative where that means nothing, or absurd.
    InvalidLength,
    /// A bulk, or a header, without its line end where it belongs.
    MissingLineEnd,
    /// Aggregates nested deeper than [`crate::limits::MAX_REPLY_DEPTH`].
    TooDeep,
    /// RESP3's streamed types (`$?`, `*?`), which Redis never sends.
    Streamed,
    /// Where one whole frame was expected, less or more.
    Incomplete,
    /// A line that does not hold what its type says.
    Malformed,
}

/// Why the keys of a command are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The command is not in the table: only the node can tell (`COMMAND GETKEYS`).
    UnknownCommand,
    /// The arguments do not fit the command: the node will refuse it.
    InvalidArguments,
}

// === impl RequestError ===

impl RequestError {
    /// The text that Redis puts after `-ERR `. The byte in [`Self::ExpectedBulk`] is shown as a character of
    /// Latin-1; [`Self::write_reply`] writes it as it came.
    pub fn message(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::InvalidMultibulkLength => "Protocol error: invalid multibulk length",
            Self::UnauthenticatedMultibulkLength => "Protocol error: unauthenticated multibulk length",
            Self::TooBigMultibulkCount => "Protocol error: too big mbulk count string",
            Self::InvalidBulkLength => "Protocol error: invalid bulk length",
            Self::UnauthenticatedBulkLength => "Protocol error: unauthenticated bulk length",
            Self::TooBigBulkCount => "Protocol error: too big bulk count string",
            Self::ExpectedBulk(got) => {
                return Cow::Owned(format!("{EXPECTED_BULK}{}'", char::from(printable(got))));
            }
            Self::InvalidLineEnd => "Protocol error: invalid CRLF in request",
            Self::TooBigInline => "Protocol error: too big inline request",
            Self::UnbalancedQuotes => "Protocol error: unbalanced quotes in request",
        })
    }

    /// Appends the whole error reply, byte for byte as Redis sends it.
    pub fn write_reply(self, out: &mut BytesMut) {
        out.extend_from_slice(b"-ERR ");
        match self {
            Self::ExpectedBulk(got) => {
                out.extend_from_slice(EXPECTED_BULK.as_bytes());
                out.extend_from_slice(&[printable(got), b'\'']);
            }
            other => out.extend_from_slice(other.message().as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

const EXPECTED_BULK: &str = "Protocol error: expected '$', got '";

/// Redis keeps line ends out of error replies by writing a space for each.
fn printable(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for RequestError {}

// === impl ReplyError ===

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedType(byte) => write!(f, "no reply starts with byte {byte:#04x}"),
            Self::InvalidLength => f.write_str("invalid length in a reply"),
            Self::MissingLineEnd => f.write_str("a reply lacks a line end"),
            Self::TooDeep => f.write_str("a reply is nested too deep"),
            Self::Streamed => f.write_str("streamed replies are not spoken here"),
            Self::Incomplete => f.write_str("not exactly one reply"),
            Self::Malformed => f.write_str("a reply does not hold what its type says"),
        }
    }
}

impl std::error::Error for ReplyError {}

// === impl KeyError ===

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownCommand => "the command is unknown, and so are its keys",
            Self::InvalidArguments => "Invalid arguments specified for command",
        })
    }
}

impl std::error::Error for KeyError {}
