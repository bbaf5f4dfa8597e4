//! Who a session is towards a node. Two sessions may share a connection only if all of it is equal.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use resp_codec::write;
use sentinel_watcher::Credentials;

use crate::backend::access::Era;

/// The RESP version of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resp {
    /// RESP2, as every connection starts.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`.
    Three,
}

/// Every attribute of a connection that a node's answers may depend on.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Profile {
    /// The proven user; `None`: what the node grants to nobody.
    pub credentials: Option<Credentials>,
    /// The database chosen by SELECT.
    pub db: u32,
    /// Who chose it, where that was another user: whoever comes after him may not be allowed to.
    pub selected_by: Option<Box<Credentials>>,
    /// The RESP version chosen by HELLO.
    pub resp: Resp,
    /// When it came, if it is nobody in particular: that is granted to a connection as it is made.
    pub era: Era,
}

impl Profile {
    /// The user's name, for operators.
    pub(crate) fn user(&self) -> Cow<'_, str> {
        match &self.credentials {
            Some(credentials) => {
                String::from_utf8_lossy(credentials.username.as_deref().unwrap_or(b"default"))
            }
            None => Cow::Borrowed("nobody"),
        }
    }

    /// The same, on a database of its user's own choice.
    pub(crate) fn on(&self, db: u32) -> Self {
        Self {
            db,
            selected_by: None,
            ..self.clone()
        }
    }

    /// Another user, on the same database.
    pub(crate) fn of(&self, credentials: Option<Credentials>) -> Self {
        let chosen_by = match &self.selected_by {
            Some(first) => Some(first.clone()),
            None => self.credentials.clone().map(Box::new),
        };
        Self {
            selected_by: chosen_by.filter(|first| self.db != 0 && Some(&**first) != credentials.as_ref()),
            era: self.era.of(credentials.as_ref()),
            credentials,
            ..self.clone()
        }
    }

    /// What a fresh connection must send to become this Profile, and how many replies that takes.
    pub(crate) fn handshake(&self) -> (Bytes, usize) {
        let mut out = BytesMut::new();
        let mut replies = 0;
        if let Some(credentials) = &self.credentials {
            auth(&mut out, credentials);
            replies += 1;
        }
        if self.resp == Resp::Three {
            write::command(&mut out, &[b"hElLo", b"3"]);
            replies += 1;
        }
        if self.db != 0 {
            select(&mut out, self.db);
            replies += 1;
        }
        (out.freeze(), replies)
    }
}

/// Writes the AUTH command of a connection that is made ready.
pub(crate) fn auth(out: &mut BytesMut, credentials: &Credentials) {
    let password = credentials.password.reveal();
    match &credentials.username {
        Some(username) => write::command(out, &[b"aUtH", username, password]),
        None => write::command(out, &[b"aUtH", password]),
    }
}

/// How slipring itself, and no client, spells what it makes connections ready with, and asks for signs of life: in what
/// MONITOR tells, it is known by that.
const OWN: [&str; 6] = ["aUtH", "hElLo", "sElEcT", "cLiEnT", "pInG", "rOlE"];

/// `word` is a command's name as slipring itself spells it.
pub(crate) fn is_own_spelling(word: &[u8]) -> bool {
    OWN.iter().any(|own| own.as_bytes() == word)
}

/// Writes the SELECT command of a connection that is made ready.
pub(crate) fn select(out: &mut BytesMut, db: u32) {
    write::command(out, &[b"sElEcT", db.to_string().as_bytes()]);
}
