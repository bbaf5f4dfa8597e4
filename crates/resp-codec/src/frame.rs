//! What the scanners found: where a frame ends and what it is.

use crate::RequestLimits;

/// A complete request, measured from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFrame {
    /// Bytes of the frame, line end included.
    pub len: usize,
    /// Arguments, the command's name included.
    pub argc: usize,
    /// How it was written.
    pub shape: RequestShape,
}

/// How a request was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestShape {
    /// `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`
    Multibulk,
    /// `GET k\r\n`
    Inline,
    /// A blank line, `*0\r\n` or a negative count: Redis skips it and sends no reply.
    Empty,
}

/// How far a chunk of reply bytes brought the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A reply ended in this chunk.
    Complete {
        /// Bytes of this chunk that belong to it.
        used: usize,
        /// What it is.
        kind: ReplyKind,
    },
    /// The whole chunk was consumed and the reply goes on.
    Partial,
}

/// The outermost value of a reply. An attribute belongs to the value that it precedes and is no kind of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplyKind {
    /// `+`
    #[default]
    Simple,
    /// `-`
    Error,
    /// `:`
    Integer,
    /// `$`
    Bulk,
    /// `*`
    Array,
    /// `%`
    Map,
    /// `~`
    Set,
    /// `>`
    Push,
    /// `_`, `$-1` or `*-1`
    Null,
    /// `,`
    Double,
    /// `#`
    Bool,
    /// `(`
    BigNumber,
    /// `=`
    Verbatim,
    /// `!`
    BlobError,
}

// === impl RequestFrame ===

impl RequestFrame {
    /// Whether it is an inline request of a length that a server takes only where it has read all of it at once.
    pub fn is_long_line(&self) -> bool {
        self.shape == RequestShape::Inline && self.len > RequestLimits::AUTHENTICATED.max_inline
    }
}

// === impl ReplyKind ===

impl ReplyKind {
    /// Whether the reply is an error, in either of RESP3's spellings.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Error | Self::BlobError)
    }
}
