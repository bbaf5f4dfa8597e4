//! Every bound of the codec, in one place.

/// What a request may ask for before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Largest argument count of a multibulk header.
    pub max_args: i64,
    /// Largest argument, in bytes.
    pub max_bulk_len: i64,
    /// Longest header line, in bytes without its line end, and longest inline request whose end has not come.
    pub max_inline: usize,
    /// Whether the session has proven who it is: only the words of the errors depend on it.
    pub authenticated: bool,
}

impl RequestLimits {
    /// Redis' own limits for a client that may issue commands: `INT_MAX` arguments, the default
    /// `proto-max-bulk-len` of 512 MiB, and `PROTO_INLINE_MAX_SIZE` of 64 KiB.
    pub const AUTHENTICATED: Self = Self {
        max_args: i32::MAX as i64,
        max_bulk_len: 512 << 20,
        max_inline: 64 << 10,
        authenticated: true,
    };

    /// Redis' own limits for a client that still has to authenticate: 10 arguments of 16 KiB.
    pub const UNAUTHENTICATED: Self = Self {
        max_args: 10,
        max_bulk_len: 16 << 10,
        max_inline: 64 << 10,
        authenticated: false,
    };
}

/// How deep aggregates may nest in a reply that is passed on. Redis' own replies nest about ten deep; a script may
/// return some thousands.
pub const MAX_REPLY_DEPTH: usize = 16 << 10;

/// How deep aggregates may nest in a reply that is decoded: it bounds the recursion of the library behind
/// [`crate::value::decode`].
pub const MAX_VALUE_DEPTH: usize = 128;
