//! Which clients CLIENT LIST and CLIENT KILL mean. The node has judged the words already.

use std::mem::discriminant;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::Client;
use crate::client::face::{Face, Kind};

/// Which clients are meant: all that every selection holds for.
pub(crate) struct Filter {
    upstream: usize,
    selections: Vec<(Sense, Selection)>,
}

/// Whether a [`Selection`] must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sense {
    Must,
    MustNot,
}

/// One property of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    Ids(Vec<u64>),
    Peer(Box<[u8]>),
    Local(Box<[u8]>),
    Kind(Kind),
    User(Box<[u8]>),
    Name(Box<[u8]>),
    /// Connected for at least so long.
    Age(Duration),
    /// Silent for at least so long.
    Idle(Duration),
    Database(u32),
}

// === impl Filter ===

impl Filter {
    /// All clients of one master.
    pub(crate) fn all(upstream: usize) -> Self {
        Self {
            upstream,
            selections: Vec::new(),
        }
    }

    /// Of these, those alone that `selection` holds for.
    pub(crate) fn with(mut self, selection: Selection) -> Self {
        self.selections.push((Sense::Must, selection));
        self
    }

    /// Of these, all but the one with this id.
    pub(crate) fn without(mut self, id: u64) -> Self {
        self.selections.push((Sense::MustNot, Selection::Ids(vec![id])));
        self
    }

    /// Reads the options of CLIENT LIST or KILL, which the node takes. `None`: it knows more of them than slipring.
    /// Also whether SKIPME says yes or no.
    pub(crate) fn read<'a>(
        upstream: usize,
        options: impl Iterator<Item = &'a [u8]>,
    ) -> Option<(Self, Option<bool>)> {
        let mut filter = Self::all(upstream);
        let mut skips = None;
        let mut options = options.peekable();
        while let Some(option) = options.next() {
            let option = option.to_ascii_lowercase();
            let (sense, name) = match option.strip_prefix(b"not-") {
                Some(name) => (Sense::MustNot, name),
                None => (Sense::Must, &option[..]),
            };
            let value = options.next()?;
            let text = std::str::from_utf8(value).ok();
            let number = || text?.parse::<u64>().ok();
            let selection = match name {
                b"id" => {
                    let mut ids = vec![number()?];
                    while let Some(id) = options
                        .peek()
                        .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok())
                    {
                        ids.push(id);
                        options.next();
                    }
                    Selection::Ids(ids)
                }
                b"addr" => Selection::Peer(value.into()),
                b"laddr" => Selection::Local(value.into()),
                b"type" => Selection::Kind(kind(value)),
                b"user" => Selection::User(value.into()),
                b"name" => Selection::Name(value.into()),
                b"maxage" => Selection::Age(Duration::from_secs(number()?)),
                b"idle" => Selection::Idle(Duration::from_secs(number()?)),
                b"db" => Selection::Database(u32::try_from(number()?).ok()?),
                b"skipme" if sense == Sense::Must => {
                    skips = Some(value.eq_ignore_ascii_case(b"yes"));
                    continue;
                }
                _ => return None,
            };
            // Said twice, the last counts.
            let kind = |of: &(Sense, Selection)| (of.0, discriminant(&of.1));
            let said = (sense, selection);
            filter.selections.retain(|before| kind(before) != kind(&said));
            filter.selections.push(said);
        }
        Some((filter, skips))
    }

    /// Whether `client` is meant.
    pub(crate) fn holds(&self, client: &Client, now: Instant) -> bool {
        let face = client.face();
        let holds = |(sense, selection): &(Sense, Selection)| {
            selection.holds(client, &face, now) == (*sense == Sense::Must)
        };
        face.upstream == self.upstream && self.selections.iter().all(holds)
    }
}

// === impl Selection ===

impl Selection {
    fn holds(&self, client: &Client, face: &Face, now: Instant) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&face.id),
            Self::Peer(address) => face.peer.to_string().as_bytes() == &address[..],
            Self::Local(address) => face.local.to_string().as_bytes() == &address[..],
            Self::Kind(kind) => face.kind() == *kind,
            Self::User(user) => face.user() == &user[..],
            Self::Name(name) => face.name == *name,
            Self::Age(age) => now.saturating_duration_since(face.since) >= *age,
            Self::Idle(idle) => now.saturating_duration_since(client.heard()) >= *idle,
            Self::Database(db) => face.db() == *db,
        }
    }
}

fn kind(name: &[u8]) -> Kind {
    match name.to_ascii_lowercase().as_slice() {
        b"normal" => Kind::Normal,
        b"pubsub" => Kind::Pubsub,
        b"replica" | b"slave" => Kind::Replica,
        _ => Kind::Primary,
    }
}
