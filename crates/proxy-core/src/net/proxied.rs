//! The PROXY protocol, versions 1 and 2: what a load balancer says of its client before the client's own bytes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};
use std::time::Duration;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use sentinel_watcher::BoxIo;
use tokio::io::AsyncReadExt;

use super::{Accepted, Address, Incoming, Listen, NotOpened, Opening};
use crate::limits;
use crate::metrics::RefuseReason;

/// A listener whose clients come through a load balancer. Whoever can reach it can say any address: it is for load
/// balancers alone.
pub struct ProxiedListen(Box<dyn Listen>);

/// A client whose header has still to come.
struct ProxiedIncoming(Box<dyn Incoming>);

/// How a header of version 2 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version, family, and the length of the rest.
const FIXED: usize = 16;

// === impl ProxiedListen ===

impl ProxiedListen {
    /// Each client of `inner` begins with a header.
    #[must_use]
    pub fn new(inner: Box<dyn Listen>) -> Self {
        Self(inner)
    }
}

impl Listen for ProxiedListen {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        self.0.poll_accept(cx).map_ok(|accepted| Accepted {
            socket: Box::new(ProxiedIncoming(accepted.socket)),
            ..accepted
        })
    }

    fn share(&self) -> io::Result<Box<dyn Listen>> {
        Ok(Box::new(Self(self.0.share()?)))
    }

    fn address(&self) -> Address {
        self.0.address()
    }

    fn is_proxied(&self) -> bool {
        true
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.0.socket()
    }
}

impl Incoming for ProxiedIncoming {
    fn open(self: Box<Self>, keepalive: Duration) -> Opening {
        Box::pin(async move {
            let mut opened = self.0.open(keepalive).await?;
            opened.ends = header(&mut opened.io).await.map_err(|cause| NotOpened {
                reason: RefuseReason::ProxyHeader,
                cause,
            })?;
            Ok(opened)
        })
    }
}

/// Reads the header and not a byte behind it. `None`: the load balancer speaks for itself, to see whether we live.
async fn header(io: &mut BoxIo) -> io::Result<Option<[SocketAddr; 2]>> {
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let mut bytes = Vec::new();
    loop {
        let start = bytes.len();
        let end = start + missing(&bytes);
        if end > limits::PROXY_HEADER_BYTES {
            return Err(malformed());
        }
        bytes.resize(end, 0);
        io.read_exact(bytes.get_mut(start..).unwrap_or_default()).await?;
        match ProxyHeader::parse(&bytes, config) {
            Ok((header, used)) if used == bytes.len() => {
                let known = header.proxied_address();
                return Ok(known.map(|ends| [ends.source, ends.destination]));
            }
            // A line that has ended is as long as it will be.
            Err(Error::BufferTooShort) if bytes.starts_with(SIGNATURE) || !bytes.ends_with(b"\n") => {}
            _ => return Err(malformed()),
        }
    }
}

/// How many bytes must at least come: a line of version 1 says nowhere how long it is.
fn missing(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return SIGNATURE.len();
    }
    match bytes.get(FIXED - 2..FIXED) {
        _ if !bytes.starts_with(SIGNATURE) => 1,
        None => FIXED - bytes.len(),
        Some(length) => length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
            .max(1),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no PROXY header")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of `bytes`, and what is left of them; `None`: they are refused.
    async fn read(bytes: &[u8]) -> Option<(Option<String>, Vec<u8>)> {
        let (mut near, far) = tokio::io::duplex(64);
        let (sent, mut io) = (bytes.to_vec(), Box::new(far) as BoxIo);
        let sending = async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut near, &sent).await;
        };
        let reading = async move {
            let ends = header(&mut io).await.ok()?;
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.ok()?;
            Some((ends.map(|[from, to]| format!("{from} {to}")), rest))
        };
        tokio::join!(reading, sending).0
    }

    #[tokio::test]
    async fn headers_of_both_versions_are_read_to_the_byte() {
        let two = |rest: &[u8]| [SIGNATURE, rest].concat();
        for (bytes, ends) in [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 6379\r\n".to_vec(),
                Some("192.0.2.1:5000 198.51.100.2:6379"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 5000 6379\r\n".to_vec(),
                Some("[2001:db8::1]:5000 [::1]:6379"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (two(b"\x20\x00\x00\x00"), None),
            (
                two(b"\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\x13\x88\x18\xeb"),
                Some("192.0.2.1:5000 198.51.100.2:6379"),
            ),
            // With a field that says nothing (NOOP) behind the addresses.
            (
                two(b"\x21\x11\x00\x10\xc0\x00\x02\x01\xc6\x33\x64\x02\x13\x88\x18\xeb\x04\x00\x01\x00"),
                Some("192.0.2.1:5000 198.51.100.2:6379"),
            ),
        ] {
            for behind in [&b"PING\r\n"[..], b""] {
                let read = read(&[&bytes, behind].concat()).await;
                let expected = (ends.map(str::to_owned), behind.to_vec());
                assert_eq!(read, Some(expected), "{}", bytes.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let two = |rest: &[u8]| [SIGNATURE, rest].concat();
        for bytes in [
            b"*1\r\n$4\r\nPING\r\n".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1\r\n ".to_vec(),
            b"PROXY TCP9 \r\n".to_vec(),
            b"PROXY TCP4 999.0.2.1 198.51.100.2 5000 6379\r\n".to_vec(),
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
            two(b"\x31\x11\x00\x00"),
            two(b"\x21\x11\x00\x00"),
            two(b"\x21\x11\xff\xff"),
            two(b"\x21\x11\x00\x0c\xc0\x00"),
            b"PROXY".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(read(&bytes).await, None, "{}", bytes.escape_ascii());
        }
    }
}
