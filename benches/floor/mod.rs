//! The floor: an event loop that reads requests and writes canned replies.
//!
//! One receive and one send per wake-up of a connection, no copy of what comes or goes, no buffer per connection, no
//! backend. What a proxy costs above this is its own; below it no server of this kind can be.
//!
//! ```text
//!  recv -> shared scratch -> Scan (counts requests, skips values) -> runs of equal replies -> one send from canned bytes
//! ```

pub(crate) mod canned;
mod connection;
pub(crate) mod scan;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use canned::Canned;
use connection::{Connection, Fate};

const LISTENER: Token = Token(usize::MAX);
/// Bytes of the receive buffer that all connections share.
const SCRATCH_BYTES: usize = 64 << 10;
/// Wake-ups taken from the kernel at once.
const EVENTS: usize = 1024;

/// Serves `listen` until the process is killed; a GET is answered with a value of `value_bytes`.
///
/// # Errors
/// When the address cannot be bound or the kernel's polling fails; what a connection does only closes that connection.
pub fn serve(listen: SocketAddr, value_bytes: usize) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;

    let canned = Canned::new(value_bytes);
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut connections: Slab<Connection> = Slab::new();
    let mut events = Events::with_capacity(EVENTS);
    loop {
        if let Err(e) = poll.poll(&mut events, None)
            && e.kind() != ErrorKind::Interrupted
        {
            return Err(e);
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut connections)?;
                continue;
            }
            let Some(connection) = connections.get_mut(event.token().0) else {
                continue;
            };
            if let Fate::Close = connection.wake(event, &mut scratch, &canned) {
                // Closing the socket takes it out of the poll as well.
                connections.remove(event.token().0);
            }
        }
    }
}

/// Edge-triggered: takes all that wait.
fn accept(listener: &TcpListener, poll: &Poll, connections: &mut Slab<Connection>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The client hung up while it waited, or descriptors ran out: neither is a reason to stop.
            Err(_) => return Ok(()),
        };
        let _ = stream.set_nodelay(true);
        let entry = connections.vacant_entry();
        poll.registry().register(
            &mut stream,
            Token(entry.key()),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        entry.insert(Connection::new(stream));
    }
}
