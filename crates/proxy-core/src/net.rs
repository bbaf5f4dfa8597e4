//! Sockets: the network behind the seams [`Dial`](sentinel_watcher::Dial) and [`Listen`].

mod passage;
mod proxied;
mod tcp;
mod tls;
mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sentinel_watcher::BoxIo;

use crate::metrics::RefuseReason;
pub use passage::{from_socket, into_socket, is_plain, listen_on};

pub use proxied::ProxiedListen;
pub use tcp::{TcpDial, TcpListen};
pub use tls::{ClientTls, ServerTls, TlsDial, TlsListen};
pub use unix::UnixListen;

/// One end of a connection. Shown as Redis shows it: `127.0.0.1:6379`, `/run/slipring.sock:0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IP and port.
    Inet(SocketAddr),
    /// The path of the listening socket; its clients have no name of their own.
    Unix(Arc<Path>),
}

/// An accepted client that no worker has adopted yet, so that it can cross threads.
pub trait Incoming: Send {
    /// Registers the socket with the worker that runs this, and does what comes before the first request. How long
    /// that may take is the worker's affair. `keepalive`: after so much silence the kernel asks whether the client lives;
    /// zero: never.
    fn open(self: Box<Self>, keepalive: Duration) -> Opening;
}

/// A client on its way in.
pub type Opening = Pin<Box<dyn Future<Output = Result<Opened, NotOpened>> + Send>>;

/// A client that is ready to make requests.
pub struct Opened {
    /// Its connection.
    pub io: BoxIo,
    /// Its own address and the one it came to, as a load balancer has said.
    pub ends: Option<[SocketAddr; 2]>,
}

/// Why a client did not get as far as its first request.
#[derive(Debug)]
pub struct NotOpened {
    /// As the metrics count it.
    pub reason: RefuseReason,
    /// What the operating system says, or what is wrong with its handshake.
    pub cause: io::Error,
}

/// One client at the door.
pub struct Accepted {
    /// Its socket.
    pub socket: Box<dyn Incoming>,
    /// Its address.
    pub peer: Address,
    /// The address it came to.
    pub local: Address,
    /// Number of its socket, as CLIENT LIST shows it.
    pub descriptor: i32,
}

/// A listening socket as one worker sees it. The network's, one that adds TLS, and the simulation's.
pub trait Listen: Send {
    /// The next client.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>>;
    /// The same socket for another worker.
    ///
    /// # Errors
    /// What the operating system says.
    fn share(&self) -> io::Result<Box<dyn Listen>>;
    /// Where it listens.
    fn address(&self) -> Address;
    /// The socket itself, for another process; `None` in a simulation.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// What its clients send cannot be read on the way.
    fn is_encrypted(&self) -> bool {
        false
    }
    /// Its clients come through a load balancer, which says who they are once they are opened.
    fn is_proxied(&self) -> bool {
        false
    }
}

// === impl Opened ===

impl From<BoxIo> for Opened {
    fn from(io: BoxIo) -> Self {
        Self { io, ends: None }
    }
}

// === impl NotOpened ===

impl From<io::Error> for NotOpened {
    fn from(cause: io::Error) -> Self {
        Self {
            reason: RefuseReason::Socket,
            cause,
        }
    }
}

impl From<NotOpened> for io::Error {
    fn from(refused: NotOpened) -> Self {
        refused.cause
    }
}

// === impl Address ===

impl Address {
    /// Nobody but this machine can come here.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Inet(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Its IP and port, where it has them.
    #[must_use]
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}:0", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}
