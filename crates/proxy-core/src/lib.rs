//! Sessions, routing and backends: the files in the order in which a request meets them.

mod net;
mod server;
mod settings;

pub use net::{Accepted, Incoming, Listen, TcpDial, TcpListen};
pub use server::{Handle, Listener, Upstream, Worker, build};
pub use settings::{ClientAuth, ReadPolicy, Settings};
