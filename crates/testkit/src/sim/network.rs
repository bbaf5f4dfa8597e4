//! The network: nodes that can be dialled, and a door at which clients knock.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use proxy_core::{Accepted, Incoming, Listen};
use sentinel_watcher::{BoxIo, Dial, Dialing, HostPort};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;

/// Bytes that a connection takes before its reader has seen any, in each direction.
pub const WINDOW_BYTES: usize = 64 << 10;

/// Everything that the proxy can dial.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<BTreeMap<HostPort, Host>>>);

struct Host {
    manner: Manner,
    connections: mpsc::UnboundedSender<DuplexStream>,
}

/// What becomes of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Somebody listens.
    Accept,
    /// Nobody listens.
    Refuse,
    /// No answer at all.
    Swallow,
}

/// A listening socket, shared by all workers.
#[derive(Clone, Default)]
pub struct Door(Arc<Mutex<Knocks>>);

#[derive(Default)]
struct Knocks {
    waiting: VecDeque<DuplexStream>,
    wakers: Vec<Waker>,
}

struct Knock(DuplexStream);

// === impl Network ===

impl Network {
    /// Opens `address`; what is dialled there comes out of the answer.
    pub fn open(&self, address: &HostPort) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let manner = Manner::Accept;
        self.hosts().insert(address.clone(), Host { manner, connections });
        accepted
    }

    /// What becomes of dials from now on.
    pub fn set(&self, address: &HostPort, manner: Manner) {
        self.hosts().get_mut(address).expect("an open address").manner = manner;
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<HostPort, Host>> {
        self.0.lock().unwrap()
    }

    fn connect(&self, to: &HostPort) -> Option<io::Result<BoxIo>> {
        let hosts = self.hosts();
        let host = hosts.get(to).expect("the proxy dials what a topology names");
        match host.manner {
            Manner::Accept => {
                let (near, far) = duplex(WINDOW_BYTES);
                host.connections.send(far).expect("nodes outlive the proxy");
                Some(Ok(Box::new(near)))
            }
            Manner::Refuse => Some(Err(io::ErrorKind::ConnectionRefused.into())),
            Manner::Swallow => None,
        }
    }
}

impl Dial for Network {
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a> {
        Box::pin(async move {
            // A handshake is never done at once.
            tokio::task::yield_now().await;
            match self.connect(to) {
                Some(connected) => connected,
                None => std::future::pending().await,
            }
        })
    }
}

// === impl Door ===

impl Door {
    /// A client's end of a fresh connection, which takes `window` bytes in each direction.
    pub fn knock(&self, window: usize) -> DuplexStream {
        let (near, far) = duplex(window);
        let mut knocks = self.0.lock().unwrap();
        knocks.waiting.push_back(far);
        knocks.wakers.drain(..).for_each(Waker::wake);
        near
    }
}

impl Listen for Door {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let mut knocks = self.0.lock().unwrap();
        match knocks.waiting.pop_front() {
            Some(stream) => Poll::Ready(Ok(Accepted {
                socket: Box::new(Knock(stream)),
                peer: SocketAddr::from(([127, 0, 0, 1], 1)),
                local: self.address(),
            })),
            None => {
                if !knocks.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    knocks.wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn share(&self) -> io::Result<Box<dyn Listen>> {
        Ok(Box::new(self.clone()))
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 6379))
    }
}

impl Incoming for Knock {
    fn open(self: Box<Self>) -> io::Result<BoxIo> {
        Ok(Box::new(self.0))
    }
}
