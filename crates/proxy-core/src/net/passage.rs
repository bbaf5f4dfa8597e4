//! Sockets that leave the process, and those that come from another one, or from the service manager.

use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use sentinel_watcher::BoxIo;
use socket2::Socket;
use tokio::net::{TcpStream, UnixStream};

use super::tcp::{TcpIncoming, TcpListen};
use super::unix::{UnixIncoming, UnixListen};
use super::{Address, Incoming, Listen};

/// Whether a client's connection is a socket and nothing else. TLS keeps its keys in this process.
#[must_use]
pub fn is_plain(io: &BoxIo) -> bool {
    let io: &dyn Any = &**io;
    io.is::<TcpStream>() || io.is::<UnixStream>()
}

/// The socket of a connection that [`is_plain`].
///
/// # Errors
/// It is not, or what the operating system says.
pub fn into_socket(io: BoxIo) -> io::Result<OwnedFd> {
    let io: Box<dyn Any> = io;
    match io.downcast::<TcpStream>() {
        Ok(tcp) => Ok(tcp.into_std()?.into()),
        Err(io) => match io.downcast::<UnixStream>() {
            Ok(unix) => Ok(unix.into_std()?.into()),
            Err(_) => Err(io::ErrorKind::Unsupported.into()),
        },
    }
}

/// A client's connection again, and its number.
///
/// # Errors
/// It is no socket of a kind that clients come on, or what the operating system says.
pub fn from_socket(socket: OwnedFd) -> io::Result<(Box<dyn Incoming>, i32)> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(true)?;
    let descriptor = socket.as_raw_fd();
    let incoming: Box<dyn Incoming> = match socket.local_addr()?.is_unix() {
        true => Box::new(UnixIncoming(OwnedFd::from(socket).into())),
        false => Box::new(TcpIncoming::new(socket.into())),
    };
    Ok((incoming, descriptor))
}

/// A socket that listens already.
///
/// # Errors
/// It is none, or what the operating system says.
pub fn listen_on(socket: OwnedFd) -> io::Result<Box<dyn Listen>> {
    let socket = Socket::from(socket);
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    socket.set_nonblocking(true)?;
    match address_of(&socket)? {
        Address::Inet(_) => Ok(Box::new(TcpListen::from_std(socket.into())?)),
        Address::Unix(path) => Ok(Box::new(UnixListen::from_std(OwnedFd::from(socket).into(), path))),
    }
}

fn address_of(socket: &Socket) -> io::Result<Address> {
    let address = socket.local_addr()?;
    let path = || Some(Address::Unix(Arc::<Path>::from(address.as_pathname()?)));
    let found = address.as_socket().map(Address::Inet).or_else(path);
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no address"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_socket_goes_and_comes() {
        let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let (near, _) = from_socket(near.into()).unwrap();
        let io = near.open(Duration::ZERO).await.unwrap().io;
        assert!(is_plain(&io));
        far.write_all(b"unread").unwrap();
        let (again, _) = from_socket(into_socket(io).unwrap()).unwrap();
        let mut read = [0; 6];
        again
            .open(Duration::ZERO)
            .await
            .unwrap()
            .io
            .read_exact(&mut read)
            .await
            .unwrap();
        assert_eq!(&read, b"unread");

        let io: BoxIo = Box::new(tokio::io::duplex(1).0);
        assert!(!is_plain(&io));
        assert!(into_socket(io).is_err());
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    async fn a_listener_keeps_its_address_and_its_backlog() {
        let first = TcpListen::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = first.address().inet().unwrap();
        let waiting = TcpStream::connect(address).await.unwrap();
        let socket = first.socket().unwrap().try_clone_to_owned().unwrap();
        drop(first);
        let mut second = listen_on(socket).unwrap();
        assert_eq!(second.address(), address.into());
        let accepted = std::future::poll_fn(|cx| second.poll_accept(cx)).await.unwrap();
        assert_eq!(accepted.peer, waiting.local_addr().unwrap().into());
        assert!(listen_on(waiting.into_std().unwrap().into()).is_err());
    }
}
