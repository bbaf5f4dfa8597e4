//! The seam through which every outgoing connection is made.

use std::any::Any;
use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::topology::HostPort;

/// A byte stream in both directions: a TCP socket, a TLS session, or a simulated link. `Any`, so that a plain socket can
/// be told from the others when it is to leave the process.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + Any {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Any> Io for T {}

/// An owned stream of either kind.
pub type BoxIo = Box<dyn Io>;

/// A connection being made. `Send`, because pools ask it.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<BoxIo>> + Send + 'a>>;

/// Makes connections. Two implementations: the network, and the simulation.
///
/// A dial has its own deadline (`--connect-timeout`) and fails with [`io::ErrorKind::TimedOut`] past it.
pub trait Dial: Send + Sync {
    /// Connects to `to`, resolving its host name anew each time.
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a>;
}
