//! The scanners as tokio-util codecs, for connections that are not on the hot path.

use crate::command::Command;
use crate::error::{ReplyError, RequestError};
use crate::frame::{Progress, RequestShape};
use crate::limits::RequestLimits;
use crate::scan::{ReplyScan, RequestScan};
use crate::write;
use bytes::{Bytes, BytesMut};
use std::{fmt, io};
use tokio_util::codec::{Decoder, Encoder};

/// The server's side of a connection: reads commands, writes finished reply frames. Empty requests are skipped.
#[derive(Debug)]
pub struct CommandDecoder {
    scan: RequestScan,
    limits: RequestLimits,
}

/// The client's side of a connection: reads reply frames, writes commands.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    scan: ReplyScan,
    /// Bytes at the front of the buffer that the scan has seen.
    scanned: usize,
}

/// Why a framed connection ended.
#[derive(Debug)]
pub enum CodecError {
    /// The connection failed, or ended within a frame.
    Io(io::Error),
    /// The client sent what is no request.
    Request(RequestError),
    /// The node sent what is no reply.
    Reply(ReplyError),
}

// === impl CommandDecoder ===

impl CommandDecoder {
    /// A decoder that holds clients to `limits`.
    pub fn new(limits: RequestLimits) -> Self {
        Self {
            scan: RequestScan::default(),
            limits,
        }
    }

    /// From the next request on, holds the client to `limits`.
    pub fn set_limits(&mut self, limits: RequestLimits) {
        self.limits = limits;
    }
}

impl Decoder for CommandDecoder {
    type Item = Command<Bytes>;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        while let Some(found) = self
            .scan
            .advance(src, &self.limits)
            .map_err(CodecError::Request)?
        {
            let frame = src.split_to(found.len).freeze();
            if found.shape != RequestShape::Empty {
                return Ok(Some(Command::new(frame, found)));
            }
        }
        Ok(None)
    }
}

impl Encoder<Bytes> for CommandDecoder {
    type Error = CodecError;

    fn encode(&mut self, reply: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&reply);
        Ok(())
    }
}

// === impl ReplyDecoder ===

impl Decoder for ReplyDecoder {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let fresh = src.get(self.scanned..).unwrap_or_default();
        match self.scan.feed(fresh).map_err(CodecError::Reply)? {
            Progress::Complete { used, .. } => {
                let len = self.scanned.saturating_add(used);
                self.scanned = 0;
                Ok(Some(src.split_to(len).freeze()))
            }
            Progress::Partial => {
                self.scanned = src.len();
                Ok(None)
            }
        }
    }
}

impl Encoder<&[&[u8]]> for ReplyDecoder {
    type Error = CodecError;

    fn encode(&mut self, args: &[&[u8]], dst: &mut BytesMut) -> Result<(), CodecError> {
        write::command(dst, args);
        Ok(())
    }
}

// === impl CodecError ===

impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::Reply(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CodecError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_out_whole_and_empty_requests_do_not() {
        let mut decoder = CommandDecoder::new(RequestLimits::AUTHENTICATED);
        let mut buf = BytesMut::from("\r\n*0\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r");
        let ping = decoder.decode(&mut buf).expect("well-formed").expect("complete");
        assert_eq!(ping.frame().as_ref(), b"PING\r\n");
        assert!(decoder.decode(&mut buf).expect("well-formed").is_none());
        buf.extend_from_slice(b"\n");
        let get = decoder.decode(&mut buf).expect("well-formed").expect("complete");
        assert_eq!(get.args().collect::<Vec<_>>(), [b"GET".as_slice(), b"k"]);
        assert!(buf.is_empty());
    }

    #[test]
    fn replies_come_out_whole() {
        let mut decoder = ReplyDecoder::default();
        let mut buf = BytesMut::new();
        let mut got = Vec::new();
        for byte in b"+OK\r\n*2\r\n$1\r\na\r\n:1\r\n$-1\r\n" {
            buf.extend_from_slice(&[*byte]);
            got.extend(decoder.decode(&mut buf).expect("well-formed"));
        }
        assert_eq!(
            got,
            [b"+OK\r\n".as_slice(), b"*2\r\n$1\r\na\r\n:1\r\n", b"$-1\r\n"]
        );
    }
}
