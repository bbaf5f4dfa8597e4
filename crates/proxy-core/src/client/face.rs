//! What others may see of a client: the line that CLIENT LIST prints of it, and what CLIENT KILL chooses it by.

use std::collections::BTreeSet;
use std::rc::Rc;

use resp_codec::{CommandId, CommandSpec};
use sentinel_watcher::Credentials;
use tokio::time::Instant;

use super::Client;
use crate::backend::Backend;
use crate::backend::profile::{Profile, Resp};
use crate::net::Address;

/// Who a client is and what it is doing, as far as that concerns others.
pub(crate) struct Face {
    /// Its CLIENT ID.
    pub(crate) id: u64,
    /// Which master it means: clients of another are in another Redis.
    pub(crate) upstream: usize,
    pub(crate) peer: Address,
    pub(crate) local: Address,
    /// Number of its socket.
    pub(crate) descriptor: i32,
    /// Since when it is connected.
    pub(crate) since: Instant,
    /// CLIENT SETNAME.
    pub(crate) name: Box<[u8]>,
    /// What slipring itself calls its user (`--client-auth proxy`).
    pub(crate) alias: Option<Box<[u8]>>,
    /// Who it is to the nodes.
    profile: Rc<Profile>,
    /// CLIENT SETINFO.
    pub(crate) library: Option<Box<Library>>,
    doing: Option<Box<Doing>>,
}

/// What a client has told of its library.
#[derive(Default)]
pub(crate) struct Library {
    pub(crate) name: Box<[u8]>,
    pub(crate) version: Box<[u8]>,
}

/// What an ordinary client at rest is not doing.
#[derive(Default)]
pub(crate) struct Doing {
    pub(crate) channels: usize,
    pub(crate) patterns: usize,
    pub(crate) shard_channels: usize,
    /// Commands queued since MULTI.
    pub(crate) queued: Option<usize>,
    /// Keys that are watched.
    pub(crate) watched: usize,
    /// Letters of [`Mark`]s that last: SYNC, MONITOR, CLIENT TRACKING, NO-EVICT, NO-TOUCH, IMPORT-SOURCE.
    pub(crate) marks: Vec<Mark>,
    /// CLIENT CAPA.
    pub(crate) capabilities: Box<[u8]>,
    /// A command of it is blocked on a node.
    pub(crate) blocked: Option<Blocked>,
    /// Bytes of the request that asks for this line, and of its arguments.
    pub(crate) query: (usize, usize),
}

/// A flag of CLIENT LIST that lasts. In the order in which Redis prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// It has sent SYNC or PSYNC.
    Replica,
    Monitor,
    Tracking,
    Broadcast,
    NoEvict,
    NoTouch,
    ImportSource,
    /// It has said its last word, and stays until it hangs up.
    Closing,
}

/// Where a blocked command waits.
#[derive(Clone)]
pub(crate) struct Blocked {
    pub(crate) backend: Rc<Backend>,
    /// CLIENT ID of its lease on the node.
    pub(crate) id: i64,
}

/// The names in a line of CLIENT LIST, in the order of the Redis behind slipring, with what a connection of
/// slipring's own has there.
pub(crate) struct Fields(Vec<Field>);

struct Field {
    name: Box<[u8]>,
    theirs: Box<[u8]>,
}

/// What CLIENT KILL and CLIENT LIST call a TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Pubsub,
    Replica,
    /// No node makes itself a client of a proxy to be its primary.
    Primary,
}

/// What Redis keeps of replies in a buffer of the client's own, and in each block behind that.
const REPLY_BUFFER_BYTES: usize = 16 << 10;

// === impl Face ===

impl Face {
    pub(crate) fn new(
        id: u64,
        upstream: usize,
        (peer, local): (Address, Address),
        descriptor: i32,
        since: Instant,
        profile: Rc<Profile>,
    ) -> Self {
        Self {
            id,
            upstream,
            peer,
            local,
            descriptor,
            since,
            name: Box::default(),
            alias: None,
            profile,
            library: None,
            doing: None,
        }
    }

    /// The client is this from here on.
    pub(crate) fn wear(&mut self, profile: &Rc<Profile>) {
        self.profile = Rc::clone(profile);
    }

    /// Who it is to the nodes.
    pub(crate) fn profile(&self) -> Rc<Profile> {
        Rc::clone(&self.profile)
    }

    /// The user that it acts as.
    pub(crate) fn user(&self) -> &[u8] {
        let credentials = self.profile.credentials.as_ref();
        let theirs = || credentials.and_then(|credentials| credentials.username.as_deref());
        self.alias.as_deref().or_else(theirs).unwrap_or(b"default")
    }

    /// It has presented one of these.
    pub(crate) fn is_one_of(&self, credentials: &BTreeSet<Credentials>) -> bool {
        self.profile
            .credentials
            .as_ref()
            .is_some_and(|own| credentials.contains(own))
    }

    /// The database that it has selected.
    pub(crate) fn db(&self) -> u32 {
        self.profile.db
    }

    /// What it is doing, to be changed.
    pub(crate) fn doing(&mut self) -> &mut Doing {
        self.doing.get_or_insert_default()
    }

    /// It is an ordinary client at rest again, but for what lasts.
    pub(crate) fn stop(&mut self) {
        let Some(doing) = self.doing.take() else { return };
        let lasting = Doing {
            marks: doing.marks,
            capabilities: doing.capabilities,
            ..Doing::default()
        };
        if !lasting.is_nothing() {
            self.doing = Some(Box::new(lasting));
        }
    }

    /// RESET: nothing lasts but what the client has told of its library.
    pub(crate) fn reset(&mut self) {
        self.name = Box::default();
        self.alias = None;
        self.doing = None;
    }

    /// The request that asked for its line is answered.
    pub(crate) fn forget_query(&mut self) {
        let Some(doing) = &mut self.doing else { return };
        doing.query = (0, 0);
        if doing.is_nothing() {
            self.doing = None;
        }
    }

    /// CLIENT CAPA.
    pub(crate) fn capabilities(&self) -> &[u8] {
        self.doing.as_ref().map_or(&[], |doing| &doing.capabilities)
    }

    /// Where its blocked command waits, if it has one.
    pub(crate) fn blocked(&self) -> Option<Blocked> {
        self.doing.as_ref()?.blocked.clone()
    }

    pub(crate) fn is(&self, mark: Mark) -> bool {
        self.doing
            .as_ref()
            .is_some_and(|doing| doing.marks.contains(&mark))
    }

    pub(crate) fn kind(&self) -> Kind {
        match &self.doing {
            Some(doing) if doing.marks.contains(&Mark::Replica) => Kind::Replica,
            Some(doing) if doing.channels + doing.patterns + doing.shard_channels > 0 => Kind::Pubsub,
            _ => Kind::Normal,
        }
    }
}

// === impl Doing ===

impl Doing {
    /// `mark` holds, or holds no longer.
    pub(crate) fn mark(&mut self, mark: Mark, holds: bool) {
        self.marks.retain(|other| *other != mark);
        if holds {
            self.marks.push(mark);
            self.marks.sort();
        }
    }

    fn is_nothing(&self) -> bool {
        self.flags().is_empty() && self.watched == 0 && self.capabilities.is_empty()
    }

    fn flags(&self) -> String {
        let marked = |mark| self.marks.contains(&mark);
        let letters = [
            ('S', marked(Mark::Replica)),
            ('O', marked(Mark::Monitor)),
            ('P', self.channels + self.patterns + self.shard_channels > 0),
            ('x', self.queued.is_some()),
            ('b', self.blocked.is_some()),
            ('t', marked(Mark::Tracking)),
            ('B', marked(Mark::Broadcast)),
            ('c', marked(Mark::Closing)),
            ('e', marked(Mark::NoEvict)),
            ('T', marked(Mark::NoTouch)),
            ('I', marked(Mark::ImportSource)),
        ];
        letters
            .iter()
            .filter(|(_, holds)| *holds)
            .map(|(letter, _)| letter)
            .collect()
    }
}

// === impl Client ===

impl Client {
    /// The line that CLIENT LIST prints of this client.
    pub(crate) fn line(&self, fields: &Fields, now: Instant) -> Vec<u8> {
        let face = self.face.borrow();
        let mut line = Vec::new();
        for Field { name, theirs } in &fields.0 {
            if !line.is_empty() {
                line.push(b' ');
            }
            line.extend_from_slice(name);
            line.push(b'=');
            let value = match (&**name, &**theirs) {
                // Valkey no longer counts the request that asks.
                (b"qbuf", b"0") => None,
                _ => self.value(&face, name, now),
            };
            match value {
                Some(value) => line.extend(value),
                None => line.extend_from_slice(theirs),
            }
        }
        line.push(b'\n');
        line
    }

    /// What this client has in the field `name`; `None`: slipring knows of no such field.
    fn value(&self, face: &Face, name: &[u8], now: Instant) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let nothing = Doing::default();
        let doing = face.doing.as_deref().unwrap_or(&nothing);
        let library = face.library.as_deref();
        let past_the_buffer = state.output.len().saturating_sub(REPLY_BUFFER_BYTES);
        let seconds = |since| now.saturating_duration_since(since).as_secs().to_string();
        let number = |number: usize| number.to_string();
        let text = match name {
            b"id" => face.id.to_string(),
            b"addr" => face.peer.to_string(),
            b"laddr" => face.local.to_string(),
            b"fd" => face.descriptor.to_string(),
            b"age" => seconds(face.since),
            b"idle" => seconds(state.heard),
            b"flags" => match doing.flags() {
                none if none.is_empty() => "N".to_owned(),
                flags => flags,
            },
            b"db" => face.profile.db.to_string(),
            b"sub" => number(doing.channels),
            b"psub" => number(doing.patterns),
            b"ssub" => number(doing.shard_channels),
            b"multi" => doing.queued.map_or_else(|| "-1".to_owned(), number),
            b"watch" => number(doing.watched),
            b"qbuf" => number(doing.query.0.max(state.kept_bytes())),
            b"argv-mem" => number(doing.query.1),
            b"qbuf-free" | b"multi-mem" | b"rbs" | b"rbp" => number(0),
            b"obl" => number(state.output.len().min(REPLY_BUFFER_BYTES)),
            b"oll" => number(past_the_buffer.div_ceil(REPLY_BUFFER_BYTES)),
            b"omem" => number(past_the_buffer),
            b"tot-mem" => number(size_of::<Client>() + state.hoarded_bytes()),
            b"events" => if state.output.is_empty() { "r" } else { "rw" }.to_owned(),
            b"cmd" => self.last.get().map_or("NULL", named).to_owned(),
            b"redir" => (-1).to_string(),
            b"resp" => match face.profile.resp {
                Resp::Two => number(2),
                Resp::Three => number(3),
            },
            b"tot-net-in" => state.received.to_string(),
            b"tot-net-out" => state.written.to_string(),
            b"tot-cmds" => state.next.to_string(),
            b"name" => return Some(face.name.to_vec()),
            b"user" => return Some(face.user().to_vec()),
            b"capa" => return Some(doing.capabilities.to_vec()),
            b"lib-name" => return Some(library.map_or_else(Vec::new, |library| library.name.to_vec())),
            b"lib-ver" => return Some(library.map_or_else(Vec::new, |library| library.version.to_vec())),
            _ => return None,
        };
        Some(text.into_bytes())
    }
}

fn named(command: CommandId) -> &'static str {
    match command.spec() {
        spec if spec.id == CommandSpec::UNKNOWN.id => "NULL",
        spec => spec.name,
    }
}

// === impl Fields ===

impl Fields {
    /// Reads the names off `line`, which the node has printed of a connection of slipring's.
    pub(crate) fn read(line: &[u8]) -> Self {
        let fields = line.trim_ascii().split(|byte| *byte == b' ').filter_map(|field| {
            let at = field.iter().position(|byte| *byte == b'=')?;
            let (name, value) = field.split_at(at);
            Some(Field {
                name: name.into(),
                theirs: value.get(1..)?.into(),
            })
        });
        Self(fields.collect())
    }
}

impl Default for Fields {
    /// Those of Redis 7.0, for users that may not ask the node.
    fn default() -> Self {
        Self::read(
            b"id= addr= laddr= fd= name= age= idle= flags= db= sub= psub= ssub= multi= qbuf= qbuf-free= argv-mem= \
              multi-mem= rbs= rbp= obl= oll= omem= tot-mem= events= cmd= user= redir= resp=",
        )
    }
}
