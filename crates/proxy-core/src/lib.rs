//! Sessions, routing and backends: the files in the order in which a request meets them.

mod backend;
mod backoff;
#[doc(hidden)]
pub mod bare;
mod census;
mod client;
mod crowd;
mod demand;
mod denied;
mod door;
mod entry;
mod error;
mod failover;
mod hub;
mod limits;
mod live;
mod lookout;
mod memory;
mod metrics;
mod net;
mod passage;
mod push;
mod roster;
mod route;
mod server;
mod session;
mod settings;
mod task;
mod users;

pub use demand::Demand;
pub use denied::Denied;
pub use door::Upstream;
pub use entry::Entry;
pub use failover::{FailoverRecord, Field, Timeline};
pub use lookout::{CommandSpan, Watch};
pub use memory::{Memory, Meter, Pressure};
pub use metrics::{
    Cells, CloseReason, ConnectionKind, Counter, Family, Gauge, LeaseReason, Metrics, NodeCells, NodeRole,
    Outcome, RefuseReason, ResendReason, Side, Tally,
};
pub use net::{
    Accepted, Address, ClientTls, Incoming, Listen, NotOpened, Opened, Opening, ProxiedListen, ServerTls,
    TcpDial, TcpListen, TlsDial, TlsListen, UnixListen, from_socket, into_socket, is_plain, listen_on,
};
pub use passage::{Departure, Entrant, SessionState, StateError, VERSION as STATE_VERSION};
pub use server::{Handle, Listener, Passage, Worker, build};
pub use settings::{ClientAuth, ReadPolicy, Settings};
pub use users::{PasswordHash, User, Users};
