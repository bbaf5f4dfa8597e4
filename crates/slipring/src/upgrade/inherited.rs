//! Listening sockets that were there before this process: a predecessor's, or the service manager's (LISTEN_FDS).

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use listenfd::ListenFd;
use proxy_core::{Address, Listen, listen_on};
use rustix::net::{self, SocketAddrUnix, SocketType};

/// Listening sockets that nobody has taken up yet.
#[derive(Default)]
pub(crate) struct Inherited(Vec<OwnedFd>);

// === impl Inherited ===

impl Inherited {
    pub(super) fn new(sockets: Vec<OwnedFd>) -> Self {
        Self(sockets)
    }

    /// What the service manager has passed.
    pub(crate) fn from_service_manager() -> Self {
        let mut passed = ListenFd::from_env();
        let count = passed.len();
        let socket = |at| {
            let tcp = passed.take_tcp_listener(at).ok().flatten().map(OwnedFd::from);
            tcp.or_else(|| passed.take_unix_listener(at).ok().flatten().map(OwnedFd::from))
        };
        Self((0..count).filter_map(socket).collect())
    }

    /// The one that listens at `address`.
    pub(crate) fn take(&mut self, address: &Address) -> std::io::Result<Option<Box<dyn Listen>>> {
        let listens_there = |socket: &OwnedFd| {
            is_of(socket, SocketType::STREAM)
                && socket
                    .try_clone()
                    .and_then(listen_on)
                    .is_ok_and(|listen| listen.address() == *address)
        };
        let found = self.0.iter().position(listens_there);
        found.map(|at| listen_on(self.0.swap_remove(at))).transpose()
    }

    /// The one on which a successor is awaited at `path`.
    pub(super) fn take_offer(&mut self, path: &Path) -> Option<OwnedFd> {
        let wanted = SocketAddrUnix::new(path).ok()?;
        let awaits_there = |socket: &OwnedFd| {
            let address = net::getsockname(socket).ok();
            let address = address.and_then(|address| SocketAddrUnix::try_from(address).ok());
            is_of(socket, SocketType::SEQPACKET) && address == Some(wanted.clone())
        };
        let found = self.0.iter().position(awaits_there)?;
        Some(self.0.swap_remove(found))
    }

    /// How many nobody has asked for. They are closed with this.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }
}

fn is_of(socket: &OwnedFd, kind: SocketType) -> bool {
    net::sockopt::socket_type(socket.as_fd()).is_ok_and(|found| found == kind)
}
