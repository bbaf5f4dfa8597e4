//! The network: hosts that can be dialled, who cannot hear whom, and doors at which clients knock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proxy_core::{Accepted, Address, Incoming, Listen, Opening};
use sentinel_watcher::{BoxIo, Dial, Dialing, HostPort};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::pipe::{Cable, Carriage, End, connect};
use super::rng::Rng;

/// Bytes that a connection takes before its reader has seen any, in each direction.
pub const WINDOW_BYTES: usize = 64 << 10;

/// Everything that can be dialled, and all connections. Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Wires>>);

/// The network as one host sees it.
#[derive(Clone)]
pub struct Dialler {
    network: Network,
    from: Arc<str>,
}

struct Wires {
    hosts: BTreeMap<HostPort, Host>,
    cables: Vec<Cable>,
    /// Nothing that the first sends arrives at the second.
    blocked: BTreeSet<(Arc<str>, Arc<str>)>,
    latency: Duration,
    jitter_millis: u64,
    /// Bytes that a host takes of those who dial it before it has read any.
    window: usize,
    rng: Rng,
}

struct Host {
    manner: Manner,
    connections: mpsc::UnboundedSender<End>,
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
#[derive(Clone)]
pub struct Door {
    network: Network,
    knocks: Arc<Mutex<Knocks>>,
}

#[derive(Default)]
struct Knocks {
    waiting: VecDeque<(End, IpAddr)>,
    /// How many have been let in: each comes from a port of its own.
    let_in: u16,
    wakers: Vec<Waker>,
}

struct Knock(End);

// === impl Network ===

impl Default for Network {
    /// Bytes arrive whole, and as soon as they are sent.
    fn default() -> Self {
        Self::new(Duration::ZERO, 0, Rng::new(0))
    }
}

impl Network {
    /// Bytes take `latency` and up to `jitter_millis` more; unless that is 0, they arrive split now and then.
    #[must_use]
    pub fn new(latency: Duration, jitter_millis: u64, rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(Wires {
            hosts: BTreeMap::new(),
            cables: Vec::new(),
            blocked: BTreeSet::new(),
            latency,
            jitter_millis,
            window: WINDOW_BYTES,
            rng,
        })))
    }

    /// The network as `host` sees it.
    #[must_use]
    pub fn dialler(&self, host: &str) -> Dialler {
        Dialler {
            network: self.clone(),
            from: Arc::from(host),
        }
    }

    /// Opens `address`; what is dialled there comes out of the answer.
    pub(super) fn open(&self, address: &HostPort) -> mpsc::UnboundedReceiver<End> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let manner = Manner::Accept;
        self.wires()
            .hosts
            .insert(address.clone(), Host { manner, connections });
        accepted
    }

    /// What becomes of dials from now on.
    pub fn set(&self, address: &HostPort, manner: Manner) {
        self.wires()
            .hosts
            .get_mut(address)
            .expect("an open address")
            .manner = manner;
    }

    /// Somebody listens there.
    pub(super) fn is_open(&self, address: &HostPort) -> bool {
        let wires = self.wires();
        wires.hosts.get(address).expect("an open address").manner == Manner::Accept
    }

    /// From now on nothing that `from` sends arrives at `to`, and nobody is told; or it does again, what was sent
    /// meanwhile included.
    pub fn block(&self, from: &str, to: &str, blocked: bool) {
        let wires = &mut *self.wires();
        let pair = (Arc::from(from), Arc::from(to));
        if blocked {
            wires.blocked.insert(pair);
        } else {
            wires.blocked.remove(&pair);
        }
        wires.block_cables();
    }

    /// Everybody hears everybody.
    pub fn heal(&self) {
        let wires = &mut *self.wires();
        wires.blocked.clear();
        wires.block_cables();
    }

    /// Whether what `from` sends arrives at `to`.
    #[must_use]
    pub fn hears(&self, from: &str, to: &str) -> bool {
        !self.wires().is_blocked(from, to)
    }

    /// How often those at `from` have written to those at `to`, over connections that are still there.
    #[must_use]
    pub fn writes(&self, from: &str, to: &str) -> u64 {
        let wires = self.wires();
        let on = |cable: &Cable| {
            let (there, back) = cable.writes();
            match (&*cable.from, &*cable.to) {
                ends if ends == (from, to) => there,
                ends if ends == (to, from) => back,
                _ => 0,
            }
        };
        wires.cables.iter().map(on).sum()
    }

    /// How long bytes take from now on, on all connections.
    pub fn slow(&self, latency: Duration) {
        let wires = &mut *self.wires();
        wires.latency = latency;
        wires.cables.iter().for_each(|cable| cable.slow(latency));
    }

    /// What hosts take of those who dial them from now on, before they have read any of it.
    pub fn widen(&self, window: usize) {
        self.wires().window = window;
    }

    /// One in `times` of the connections between two hosts breaks: what is on its way is lost, both ends are told.
    pub fn reset(&self, from: &str, to: &str, times: u64) {
        let wires = &mut *self.wires();
        for cable in &wires.cables {
            if &*cable.from == from && &*cable.to == to && wires.rng.once_in(times) {
                cable.reset();
            }
        }
    }

    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap()
    }

    fn connect(&self, from: &Arc<str>, to: &HostPort) -> Option<io::Result<End>> {
        let wires = &mut *self.wires();
        let host = wires.hosts.get(to).expect("who is dialled has an address");
        let connections = match host.manner {
            _ if wires.is_blocked(from, &to.host) || wires.is_blocked(&to.host, from) => return None,
            Manner::Accept => host.connections.clone(),
            Manner::Refuse => return Some(Err(io::ErrorKind::ConnectionRefused.into())),
            Manner::Swallow => return None,
        };
        let window = wires.window;
        let (near, far) = wires.join(from, &to.host, window);
        let taken = connections.send(far).is_ok();
        Some(
            taken
                .then_some(near)
                .ok_or_else(|| io::ErrorKind::ConnectionRefused.into()),
        )
    }
}

// === impl Wires ===

impl Wires {
    fn is_blocked(&self, from: &str, to: &str) -> bool {
        let blocked = |(one, other): &(Arc<str>, Arc<str>)| &**one == from && &**other == to;
        self.blocked.iter().any(blocked)
    }

    fn block_cables(&self) {
        for cable in &self.cables {
            let there = self.is_blocked(&cable.from, &cable.to);
            cable.block(there, self.is_blocked(&cable.to, &cable.from));
        }
    }

    fn join(&mut self, from: &Arc<str>, to: &Arc<str>, window: usize) -> (End, End) {
        self.cables.retain(|cable| !cable.is_gone());
        let carriage = Carriage {
            window,
            latency: self.latency,
            jitter_millis: self.jitter_millis,
            rng: self.rng.fork(),
        };
        let blocked = (self.is_blocked(from, to), self.is_blocked(to, from));
        let (near, far, cable) = connect(from, to, &carriage, blocked);
        self.cables.push(cable);
        (near, far)
    }
}

// === impl Dialler ===

impl Dialler {
    /// Connects to `to`; waits for ever where nothing answers.
    pub(super) async fn connect(&self, to: &HostPort) -> io::Result<End> {
        // A handshake is never done at once.
        tokio::task::yield_now().await;
        let latency = self.network.wires().latency;
        if !latency.is_zero() {
            sleep(latency * 2).await;
        }
        match self.network.connect(&self.from, to) {
            Some(connected) => connected,
            None => std::future::pending().await,
        }
    }
}

impl Dial for Dialler {
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a> {
        Box::pin(async move { Ok(Box::new(self.connect(to).await?) as BoxIo) })
    }
}

// === impl Door ===

impl Door {
    /// A door of the proxy's.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        Self {
            network: network.clone(),
            knocks: Arc::default(),
        }
    }

    /// A client's end of a fresh connection, which takes `window` bytes in each direction.
    #[must_use]
    pub fn knock(&self, window: usize) -> End {
        self.knock_from(Ipv4Addr::LOCALHOST.into(), window)
    }

    /// The same, of a client that comes from this address.
    #[must_use]
    pub fn knock_from(&self, from: IpAddr, window: usize) -> End {
        let (client, proxy) = (Arc::from("client"), Arc::from("proxy"));
        let (near, far) = self.network.wires().join(&client, &proxy, window);
        let mut knocks = self.knocks.lock().unwrap();
        knocks.waiting.push_back((far, from));
        knocks.wakers.drain(..).for_each(Waker::wake);
        near
    }
}

impl Listen for Door {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let mut knocks = self.knocks.lock().unwrap();
        match knocks.waiting.pop_front() {
            Some((stream, from)) => {
                knocks.let_in += 1;
                Poll::Ready(Ok(Accepted {
                    socket: Box::new(Knock(stream)),
                    peer: SocketAddr::from((from, knocks.let_in)).into(),
                    local: self.address(),
                    descriptor: i32::from(knocks.let_in),
                }))
            }
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

    fn address(&self) -> Address {
        SocketAddr::from(([127, 0, 0, 1], 6379)).into()
    }
}

impl Incoming for Knock {
    fn open(self: Box<Self>, _keepalive: Duration) -> Opening {
        Box::pin(std::future::ready(Ok((Box::new(self.0) as BoxIo).into())))
    }
}
