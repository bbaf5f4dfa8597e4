//! Who a session is towards a node. Two sessions may share a connection only if all of it is equal.

use std::borrow::Cow;

use bytes::BytesMut;
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

/// What makes a fresh connection into a Profile: one write, and what each reply to it decides.
pub(crate) struct Handshake {
    pub(crate) bytes: BytesMut,
    pub(crate) steps: Vec<Step>,
}

/// What the reply to one command of a handshake decides.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// An error: there is no connection.
    Needed,
    /// AUTH as the session's user. The same, unless a password is not asked for any more.
    User,
    /// AUTH of whoever chose the database. If he is not known any more, nobody in particular may be granted it.
    Chooser,
    /// SELECT as whoever chose the database: a user who may not SELECT keeps what was selected before AUTH, as on the
    /// node itself. An error: the user has to do it.
    Chosen,
    /// The CLIENT ID, where the user may know it.
    Id,
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

    /// What a fresh connection must send to become this Profile, and to learn its CLIENT ID if it `asks_id`.
    pub(crate) fn handshake(&self, asks_id: bool) -> Handshake {
        let mut bytes = BytesMut::new();
        let mut steps = Vec::new();
        if let Some(credentials) = &self.credentials {
            if self.db != 0 {
                if let Some(first) = &self.selected_by {
                    auth(&mut bytes, first);
                    steps.push(Step::Chooser);
                }
                select(&mut bytes, self.db);
                steps.push(Step::Chosen);
            }
            auth(&mut bytes, credentials);
            steps.push(Step::User);
        }
        if self.resp == Resp::Three {
            write::command(&mut bytes, &[b"hElLo", b"3"]);
            steps.push(Step::Needed);
        }
        if self.db != 0 && self.credentials.is_none() {
            select(&mut bytes, self.db);
            steps.push(Step::Needed);
        }
        if asks_id {
            write::command(&mut bytes, &[b"cLiEnT", b"ID"]);
            steps.push(Step::Id);
        }
        Handshake { bytes, steps }
    }
}

/// AUTH without a name is refused with `reply` because the default user needs no password by now: everybody is it unasked.
pub(crate) fn needs_no_password(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR AUTH <password> called without any password configured")
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
