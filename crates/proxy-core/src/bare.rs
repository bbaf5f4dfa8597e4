//! Pieces of the hot path without what is around them, for `benches` to count. Nothing of the product calls them.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use resp_codec::{Command, CommandSpec};
use sentinel_watcher::{BoxIo, Epoch, Health, HealthFeed, HostPort, Shard, hints};
use tokio::time::Instant;

use crate::backend::by_hand::ByHand;
use crate::backend::learned::Learned;
use crate::backend::mux::Mux;
use crate::backend::profile::Profile;
use crate::backend::{Link, NodeKey};
use crate::client::face::Face;
use crate::client::{Client, Shape};
use crate::failover::Timeline;
use crate::live::Live;
use crate::metrics::{Metrics, NodeRole};
use crate::net::TcpDial;
use crate::route::{self, Plan};
use crate::session::shape_of;
use crate::settings::{ReadPolicy, Settings};
use crate::{Memory, limits};

/// A shared connection and its clients: requests go in as a session hands them on, replies come out at the clients.
pub struct HandOff {
    mux: Mux,
    node: BoxIo,
    clients: Vec<Rc<Client>>,
}

/// Whether `route::plan` sends the command over a shared connection.
#[must_use]
pub fn is_shared(shard: &Shard, reads: ReadPolicy, spec: &CommandSpec, turn: u64) -> bool {
    matches!(
        route::plan(shard, reads, spec, turn),
        Plan::Primary | Plan::Replica(_)
    )
}

// === impl HandOff ===

impl HandOff {
    /// An open connection to the node at the other end of `node`, and a client at the other end of each of `clients`.
    #[must_use]
    pub fn new(node: BoxIo, clients: Vec<BoxIo>) -> Self {
        let link = link();
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
        let client = |(id, io): (usize, BoxIo)| {
            let (since, profile) = (Instant::now(), Rc::<Profile>::default());
            let face = Face::new(id as u64, 0, (address(), address()), 0, since, profile);
            Client::new(io, Arc::clone(&link.cells), face)
        };
        let clients = clients.into_iter().enumerate().map(client).collect();
        Self {
            mux: Mux::bare(Rc::clone(&link)),
            node,
            clients,
        }
    }

    /// Each client's session hands on `frames`: so many commands like `like`, in one group.
    pub fn send(&self, frames: &[u8], count: u64, like: &Command<&[u8]>) {
        let shape: Shape = shape_of(like);
        for client in &self.clients {
            let (ticket, _) = client.ticket(count, frames.len());
            self.mux.send(ticket, frames, shape);
        }
    }

    /// What the connection's task does when it is woken: hands out the replies that are there, and writes what waits.
    /// False: the connection is lost.
    #[must_use]
    pub fn turn(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.mux.turn(cx, &mut self.node)
    }
}

fn link() -> Rc<Link> {
    let settings = Settings::default();
    let master: Arc<str> = Arc::from("m");
    let metrics = Metrics::new(1, vec![Arc::clone(&master)], Vec::new());
    let health = HealthFeed::fixed(Health::default());
    let cells = metrics.cells(0);
    let address = HostPort::new("node", 6379);
    Rc::new(Link {
        upstream: 0,
        node_cells: cells.node(0, &address, NodeRole::Primary),
        node: NodeKey {
            address,
            term: Some(Epoch(1)),
        },
        settings: Rc::new(Live::new(settings)),
        dial: Arc::new(TcpDial {
            timeout: Duration::ZERO,
        }),
        hints: hints().0,
        cells,
        scratch: Rc::new(RefCell::new(vec![0; limits::SCRATCH_BYTES].into())),
        memory: Arc::new(Memory::default()),
        revoked: Rc::default(),
        settling_until: Rc::default(),
        by_hand: Arc::new(ByHand::default()),
        timeline: Arc::new(Timeline::new(master, 0, health, metrics)),
        unwritten: Cell::new(false),
        scripts: RefCell::default(),
        learned: Learned::default(),
        client_line: RefCell::default(),
        lookout: None,
    })
}
