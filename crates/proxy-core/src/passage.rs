//! A session on its way from one process to another: what it is, as bytes, and its socket.
//!
//! ```text
//!   old: session at rest --SessionState, encoded--> Departure { state, io } --socket--> new: Entrant { state, socket }
//!        nothing unanswered                                                             Session::resume
//! ```
//! CBOR, since it names its fields: a version may add some that an older one does not look at. What changes the meaning of
//! a field raises [`VERSION`], and a process that does not know the version leaves the session where it is.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::Bytes;
use sentinel_watcher::{BoxIo, Credentials, Secret};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::backend::profile::{Profile, Resp};
use crate::limits;
use crate::net::{Accepted, Address, Incoming};

/// The version of [`SessionState`] that this process writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// A session that has left its worker: nobody serves it.
pub struct Departure {
    /// Its [`SessionState`], encoded.
    pub state: Vec<u8>,
    /// The client's connection.
    pub io: BoxIo,
}

/// A session that comes from another process, or comes back.
pub struct Entrant {
    /// Who it is.
    pub state: SessionState,
    /// The client's connection.
    pub socket: Box<dyn Incoming>,
    /// Number of its socket, as CLIENT LIST shows it.
    pub descriptor: i32,
}

/// Which processes this one has to do with while one takes the place of another; 0: none.
#[derive(Debug, Default)]
pub(crate) struct Kin {
    pub(crate) predecessor: AtomicU32,
    pub(crate) successor: AtomicU32,
}

/// Why a session's bytes mean nothing here.
#[derive(Debug, PartialEq, Eq)]
pub enum StateError {
    /// Another version has written them.
    Version(u32),
    /// They are no state.
    Malformed,
}

/// Everything that the next process must know of a session. It holds a password, so it has no `Debug`.
#[derive(Deserialize, PartialEq, Serialize)]
pub struct SessionState {
    pub(crate) id: u64,
    /// The master that it means, and the address of the listener that it came through.
    pub(crate) master: String,
    pub(crate) listener: String,
    pub(crate) peer: Place,
    pub(crate) local: Place,
    /// It comes from this machine.
    pub(crate) is_here: bool,
    pub(crate) age_millis: u64,
    pub(crate) idle_millis: u64,
    pub(crate) name: Bytes,
    /// What slipring itself calls its user.
    pub(crate) alias: Option<Bytes>,
    pub(crate) library: Option<(Bytes, Bytes)>,
    pub(crate) capabilities: Bytes,
    /// The last command, as the table calls it.
    pub(crate) last: Option<String>,
    pub(crate) received: u64,
    pub(crate) written: u64,
    pub(crate) commands: u64,
    /// It runs as slipring's own user, whoever that is there.
    pub(crate) own: bool,
    pub(crate) user: Option<Bytes>,
    pub(crate) password: Option<Bytes>,
    pub(crate) db: u32,
    /// Who chose that database, where it was another user: name and password.
    pub(crate) selected_by: Option<(Option<Bytes>, Bytes)>,
    pub(crate) resp3: bool,
    /// It has presented the password of `--client-auth proxy`.
    pub(crate) admitted: bool,
    pub(crate) hush: HushState,
    /// What it has sent and nobody has looked at, or not to the end.
    pub(crate) input: Bytes,
    /// What its socket has not taken yet.
    pub(crate) output: Bytes,
    /// The primary when it left: the terms of two processes do not compare, addresses do.
    pub(crate) primary: Option<String>,
    pub(crate) wrote: Wrote,
    pub(crate) scans: Cursors,
    pub(crate) subscriptions: Option<Subscriptions>,
}

/// One end of a client's connection.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
pub(crate) enum Place {
    Inet(SocketAddr),
    Unix(PathBuf),
}

/// Which replies are kept from the client.
#[derive(Clone, Copy, Deserialize, PartialEq, Serialize)]
pub(crate) enum HushState {
    Nothing,
    Next,
    All,
}

/// Who took the session's last write: WAIT vouches for no other.
#[derive(Clone, Copy, Deserialize, PartialEq, Serialize)]
pub(crate) enum Wrote {
    Nothing,
    /// `primary`.
    Here,
    /// A former one.
    Elsewhere,
}

/// Which cursors mean something.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
pub(crate) enum Cursors {
    /// It has not scanned, and there was no move since it began.
    Fresh,
    /// All its scans began on `primary`.
    Primary,
    /// All its scans began on this replica.
    Replica(String),
    /// They start again.
    Stale,
}

/// What a session has made of the connection on which its node speaks unasked.
#[derive(Deserialize, PartialEq, Serialize)]
pub(crate) struct Subscriptions {
    pub(crate) channels: Vec<Bytes>,
    pub(crate) patterns: Vec<Bytes>,
    pub(crate) shards: Vec<Bytes>,
    /// CLIENT TRACKING, MONITOR and the like, as the client gave them.
    pub(crate) orders: Vec<Bytes>,
    /// It keeps a connection of its own, whatever is left of these.
    pub(crate) lasting: bool,
    /// The node that they were given to.
    pub(crate) node: String,
}

/// Where sessions go that leave this process, and which connections can.
#[derive(Clone)]
pub(crate) struct Departures {
    pub(crate) sender: mpsc::Sender<Departure>,
    pub(crate) portable: fn(&BoxIo) -> bool,
}

#[derive(Deserialize)]
struct Versioned {
    session: SessionState,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

// === impl SessionState ===

impl SessionState {
    /// `None`: there is more of it than may travel.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            version: u32,
            session: &'a SessionState,
        }
        let mut bytes = Vec::new();
        let versioned = Borrowed {
            version: VERSION,
            session: self,
        };
        ciborium::into_writer(&versioned, &mut bytes).expect("a vector takes all");
        (bytes.len() <= limits::SESSION_STATE_BYTES).then_some(bytes)
    }

    /// What [`Departure::state`] says.
    ///
    /// # Errors
    /// Another version, or no state at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let version: Version = ciborium::from_reader(bytes).map_err(|_| StateError::Malformed)?;
        if version.version != VERSION {
            return Err(StateError::Version(version.version));
        }
        let Versioned { session } = ciborium::from_reader(bytes).map_err(|_| StateError::Malformed)?;
        Ok(session)
    }

    /// Its CLIENT ID.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who the session is to the nodes; `first`: who it is before it has said anything.
    pub(crate) fn profile(&self, first: &Profile) -> Profile {
        let of = |user: &Option<Bytes>, password: &Bytes| Credentials {
            username: user.as_deref().map(Arc::from),
            password: Secret::new(password),
        };
        let shown = self.password.as_ref().map(|password| of(&self.user, password));
        let selected_by = self.selected_by.as_ref();
        let credentials = if self.own {
            first.credentials.clone()
        } else {
            shown
        };
        Profile {
            era: first.era.of(credentials.as_ref()),
            credentials,
            db: self.db,
            selected_by: selected_by.map(|(user, password)| Box::new(of(user, password))),
            resp: if self.resp3 { Resp::Three } else { Resp::Two },
        }
    }
}

// === impl Entrant ===

impl Entrant {
    pub(crate) fn into_parts(self) -> (Accepted, SessionState) {
        let accepted = Accepted {
            socket: self.socket,
            peer: (&self.state.peer).into(),
            local: (&self.state.local).into(),
            descriptor: self.descriptor,
        };
        (accepted, self.state)
    }
}

// === impl Place ===

impl From<&Address> for Place {
    fn from(address: &Address) -> Self {
        match address {
            Address::Inet(address) => Self::Inet(*address),
            Address::Unix(path) => Self::Unix(path.to_path_buf()),
        }
    }
}

impl From<&Place> for Address {
    fn from(place: &Place) -> Self {
        match place {
            Place::Inet(address) => Self::Inet(*address),
            Place::Unix(path) => Self::Unix(Arc::<Path>::from(&**path)),
        }
    }
}

// === impl StateError ===

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "a session of version {version}; this process knows {VERSION}")
            }
            Self::Malformed => f.write_str("no session's state"),
        }
    }
}

impl std::error::Error for StateError {}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> SessionState {
        SessionState {
            id: 7,
            master: "mymaster".to_owned(),
            listener: "127.0.0.1:6379".to_owned(),
            peer: Place::Inet(SocketAddr::from(([127, 0, 0, 1], 5))),
            local: Place::Unix(PathBuf::from("/run/s.sock")),
            is_here: true,
            age_millis: 1500,
            idle_millis: 3,
            name: Bytes::from_static(b"me"),
            alias: Some(Bytes::from_static(b"somebody")),
            library: Some((Bytes::from_static(b"lib"), Bytes::from_static(b"1"))),
            capabilities: Bytes::new(),
            last: Some("client|setname".to_owned()),
            received: 1,
            written: 2,
            commands: 3,
            own: false,
            user: None,
            password: Some(Bytes::from_static(b"secret")),
            db: 3,
            selected_by: Some((None, Bytes::from_static(b"other"))),
            resp3: true,
            admitted: false,
            hush: HushState::All,
            input: Bytes::from_static(b"*1\r\n$4\r\nPI\xff"),
            output: Bytes::from_static(b"$1000\r\n"),
            primary: Some("10.0.0.1:6379".to_owned()),
            wrote: Wrote::Here,
            scans: Cursors::Replica("10.0.0.2:6379".to_owned()),
            subscriptions: Some(Subscriptions {
                channels: vec![Bytes::from_static(b"c")],
                patterns: vec![Bytes::from_static(b"p*")],
                shards: vec![],
                orders: vec![Bytes::from_static(b"MONITOR\r\n")],
                lasting: false,
                node: "10.0.0.1:6379".to_owned(),
            }),
        }
    }

    #[test]
    fn a_state_survives_its_passage() {
        let encoded = state().encode().unwrap();
        assert!(SessionState::decode(&encoded).unwrap() == state());
        // Bytes travel as bytes, not as lists of numbers.
        let mut long = state();
        long.input = Bytes::from(vec![0xff; 1000]);
        assert!(long.encode().unwrap().len() < encoded.len() + 1000);
    }

    #[test]
    fn another_version_is_left_where_it_is() {
        #[derive(Serialize)]
        struct Later {
            version: u32,
            session: &'static str,
        }
        let mut bytes = Vec::new();
        let later = Later {
            version: VERSION + 1,
            session: "of a shape that nobody knows yet",
        };
        ciborium::into_writer(&later, &mut bytes).unwrap();
        assert!(SessionState::decode(&bytes).is_err_and(|error| error == StateError::Version(VERSION + 1)));
        let encoded = state().encode().unwrap();
        for len in 0..encoded.len() {
            let cut = SessionState::decode(&encoded[..len]);
            assert!(cut.is_err_and(|error| error == StateError::Malformed), "{len}");
        }
    }

    #[test]
    fn what_is_too_large_does_not_travel() {
        let mut large = state();
        large.output = Bytes::from(vec![0; limits::SESSION_STATE_BYTES]);
        assert!(large.encode().is_none());
    }
}
