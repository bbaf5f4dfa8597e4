//! Loopback ports that no parallel test takes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// Below the range from which kernels number outgoing connections (Linux 32768, macOS 49152), so that no
/// client's own end takes a port between its choice and the server's bind.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A TCP port of 127.0.0.1 that is ours until dropped.
///
/// The claim is the UDP port of the same number: the kernel gives it to one process at a time and takes it back
/// when that process dies, so it is a lock across test processes that never goes stale and leaves no files.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UdpSocket,
}

// === impl Port ===

impl Port {
    /// Claims a port on which nothing listens.
    ///
    /// # Errors
    /// When all of the range is taken.
    pub fn free() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Test processes start apart, so that they seldom try each other's ports.
        let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
            if let Some(port) = Self::claim(FIRST + offset) {
                return Ok(port);
            }
        }
        bail!("no free port from {FIRST} to {}", FIRST + COUNT - 1)
    }

    /// Claims this very port, if nobody has it.
    #[must_use]
    pub fn claim(number: u16) -> Option<Self> {
        let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self {
            number,
            _claim: claim,
        })
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// 127.0.0.1 and the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_nobody_elses_until_dropped() {
        let port = Port::free().unwrap();
        assert!(Port::claim(port.number()).is_none());
        let number = port.number();
        drop(port);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert!(Port::claim(number).is_none(), "a listener's port was given away");
        drop(listener);
        assert!(Port::claim(number).is_some());
    }
}
