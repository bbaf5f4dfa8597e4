//! TCP: without delay, with keepalive.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use sentinel_watcher::{BoxIo, Dial, Dialing, HostPort};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Handle};

use super::{Accepted, Address, Incoming, Listen, Opening};
use crate::limits;

/// Connections over TCP, without delay, with keepalive.
#[derive(Clone, Debug)]
pub struct TcpDial {
    /// Deadline of one attempt, name resolution included.
    pub timeout: Duration,
}

/// A bound TCP socket. It joins a worker's reactor at its first accept.
#[derive(Debug)]
pub struct TcpListen {
    socket: std::net::TcpListener,
    registered: Option<TcpListener>,
    address: SocketAddr,
}

/// A client's socket.
pub(super) struct TcpIncoming {
    socket: Socket,
    /// The keepalive that it has from the socket it came on, if that is known.
    keepalive: Option<Duration>,
}

enum Socket {
    /// It belongs to this worker's reactor already.
    Registered(TcpStream, runtime::Id),
    Bare(std::net::TcpStream),
}

/// Redis' own default of `tcp-keepalive`: towards nodes and sentinels, and of clients unless the settings say otherwise.
const KEEPALIVE: Duration = Duration::from_secs(300);

// === impl TcpDial ===

impl Dial for TcpDial {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a> {
        Box::pin(async move {
            let attempt = TcpStream::connect((&*to.host, to.port));
            let stream = tokio::time::timeout(self.timeout, attempt).await??;
            stream.set_nodelay(true)?;
            set_keepalive(&socket2::SockRef::from(&stream), KEEPALIVE)?;
            unpace(&socket2::SockRef::from(&stream), stream.peer_addr()?);
            Ok(Box::new(stream) as BoxIo)
        })
    }
}

// === impl TcpListen ===

impl TcpListen {
    /// Binds `address`, with SO_REUSEADDR and a backlog of 4096.
    ///
    /// # Errors
    /// What the operating system says, for instance that the port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        unpace(&socket2::SockRef::from(&socket), address);
        socket.listen(4096)?;
        Self::from_std(socket.into())
    }

    /// Takes a socket that listens already and does not block. What is set on it, those that it accepts have: to set it
    /// on each would take six system calls a client.
    pub(super) fn from_std(socket: std::net::TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let listening = socket2::SockRef::from(&socket);
        listening.set_tcp_nodelay(true)?;
        set_keepalive(&listening, KEEPALIVE)?;
        // A kernel that does not know it keeps its own bound.
        let _ = listening.set_tcp_notsent_lowat(limits::OUTPUT_UNSENT_BYTES);
        Ok(Self {
            socket,
            registered: None,
            address,
        })
    }
}

impl Listen for TcpListen {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let listener = match &self.registered {
            Some(listener) => listener,
            None => self
                .registered
                .insert(TcpListener::from_std(self.socket.try_clone()?)?),
        };
        listener.poll_accept(cx).map(|accepted| {
            let (stream, peer) = accepted?;
            let local = match self.address.ip().is_unspecified() {
                true => stream.local_addr()?,
                false => self.address,
            };
            Ok(Accepted {
                descriptor: stream.as_raw_fd(),
                socket: Box::new(TcpIncoming {
                    socket: Socket::Registered(stream, Handle::current().id()),
                    keepalive: Some(KEEPALIVE),
                }),
                peer: peer.into(),
                local: local.into(),
            })
        })
    }

    fn share(&self) -> io::Result<Box<dyn Listen>> {
        Ok(Box::new(Self {
            socket: self.socket.try_clone()?,
            registered: None,
            address: self.address,
        }))
    }

    fn address(&self) -> Address {
        self.address.into()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

// === impl TcpIncoming ===

impl TcpIncoming {
    /// A socket of which nobody knows how it was made.
    pub(super) fn new(socket: std::net::TcpStream) -> Self {
        Self {
            socket: Socket::Bare(socket),
            keepalive: None,
        }
    }
}

impl Incoming for TcpIncoming {
    fn open(self: Box<Self>, keepalive: Duration) -> Opening {
        Box::pin(async move {
            let stream = match self.socket {
                Socket::Registered(stream, with) if with == Handle::current().id() => stream,
                Socket::Registered(stream, _) => TcpStream::from_std(stream.into_std()?)?,
                Socket::Bare(socket) => TcpStream::from_std(socket)?,
            };
            if self.keepalive != Some(keepalive) {
                set_keepalive(&socket2::SockRef::from(&stream), keepalive)?;
            }
            Ok((Box::new(stream) as BoxIo).into())
        })
    }
}

/// Between processes of one machine there is no congestion, and an algorithm that paces what it sends (bbr) costs a third of
/// a large value in timers. Sockets inherit it from the one that they are accepted on.
fn unpace(socket: &socket2::SockRef<'_>, with: SocketAddr) {
    if with.ip().to_canonical().is_loopback() {
        // Where it is refused, the system's own algorithm serves.
        let _ = socket.set_tcp_congestion(b"reno");
    }
}

/// As Redis does it: the first probe after `time`, then three at a third of that; none if that is zero.
fn set_keepalive(socket: &socket2::SockRef<'_>, time: Duration) -> io::Result<()> {
    if time.is_zero() {
        return socket.set_keepalive(false);
    }
    let whole = |time: Duration| Duration::from_secs(time.as_secs().max(1));
    let probes = socket2::TcpKeepalive::new()
        .with_time(whole(time))
        .with_interval(whole(time / 3))
        .with_retries(3);
    socket.set_tcp_keepalive(&probes)
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::future::poll_fn;

    use super::*;

    /// Without the zeros that the kernel fills it up with.
    fn congestion(socket: &socket2::SockRef<'_>) -> String {
        let name = socket.tcp_congestion().unwrap();
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    }

    #[tokio::test]
    async fn what_stays_on_this_machine_is_not_paced() {
        let mut listen = TcpListen::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let dial = TcpDial {
            timeout: Duration::from_secs(30),
        };
        let address = listen.address().inet().unwrap();
        let dialled = dial
            .dial(&HostPort::new("127.0.0.1", address.port()))
            .await
            .unwrap();
        let dialled = (&*dialled as &dyn Any).downcast_ref::<TcpStream>().unwrap();
        assert_eq!(congestion(&dialled.into()), "reno");
        let accepted = poll_fn(|cx| listen.poll_accept(cx)).await.unwrap();
        let accepted = opened(accepted, KEEPALIVE).await;
        assert_eq!(congestion(&(&accepted).into()), "reno");
    }

    /// The socket of a client that is let in.
    async fn opened(accepted: Accepted, keepalive: Duration) -> TcpStream {
        let io: Box<dyn Any> = accepted.socket.open(keepalive).await.ok().unwrap().io;
        *io.downcast().unwrap()
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    async fn a_client_has_no_delay_a_bound_and_the_keepalive_that_is_set() {
        for (set, expected) in [(300, Some(300)), (60, Some(60)), (0, None)] {
            let mut listen = TcpListen::bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
            let port = listen.address().inet().unwrap().port();
            let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let accepted = poll_fn(|cx| listen.poll_accept(cx)).await.unwrap();
            assert_eq!(accepted.peer, client.local_addr().unwrap().into());
            assert_eq!(accepted.local, client.peer_addr().unwrap().into());
            let socket = opened(accepted, Duration::from_secs(set)).await;
            assert!(socket.nodelay().unwrap());
            let socket = socket2::SockRef::from(&socket);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), limits::OUTPUT_UNSENT_BYTES);
            let alive = socket.keepalive().unwrap();
            let time = alive.then(|| socket.tcp_keepalive_time().unwrap().as_secs());
            assert_eq!(time, expected);
            let interval = alive.then(|| socket.tcp_keepalive_interval().unwrap().as_secs());
            assert_eq!(interval, expected.map(|time| time / 3));
        }
    }
}
