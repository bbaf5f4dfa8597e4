//! `--share-subscriptions`: subscribers of one worker and user hear the node over one connection. A RESP3 client's other
//! commands travel as ever; what it hears while one is answered waits. Once it wants what takes a connection of its own, it
//! leaves for one, with all that it is subscribed to.

mod passage;

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, write};

use super::{Close, Session, own};
use crate::backend::profile::{Profile, Resp};
use crate::client::Order;
use crate::hub::{Ear, Hub, Kind, Name, Word};

/// One client at a hub: it leaves when this goes.
struct Guest {
    hub: Rc<Hub>,
    id: u64,
    ear: Rc<Ear>,
    names: BTreeSet<Name>,
}

impl Session {
    /// Whether `command` starts a session's stay at its worker's hub.
    pub(super) fn may_share(&self, command: &Command<Bytes>) -> bool {
        let joins = command.spec().class == Class::Subscription;
        joins && self.door.worker.settings.get().share_subscriptions
    }

    /// Serves a subscriber until it is one no longer, or needs a connection of its own.
    pub(super) async fn share(&mut self, first: Command<Bytes>) -> Result<(), Close> {
        self.settled().await?;
        let guest = self.enter_hub();
        self.share_on(guest, Some(first)).await
    }

    /// Serves a subscriber, beginning with this command.
    async fn share_on(&mut self, mut guest: Guest, mut next: Option<Command<Bytes>>) -> Result<(), Close> {
        loop {
            if let Some(command) = next.take() {
                if self.outgrows_hub(&command) {
                    return self.leave_hub(guest, Some(command)).await;
                }
                let reset = command.spec().name == "reset" && !self.denies(&command);
                self.serve_guest(&mut guest, command).await?;
                if reset || guest.names.is_empty() {
                    self.client.face_mut().stop();
                    return Ok(());
                }
            }
            let client = Rc::clone(&self.client);
            let command = tokio::select! {
                biased;
                // Another client has invalidations sent to this one.
                () = client.ordered(Order::Stream) => return self.leave_hub(guest, None).await,
                command = self.read_command(false) => command?,
                // Last: a command that is here comes first.
                () = client.ordered(Order::Leave) => {
                    self.leave_sharing(&guest).await?;
                    continue;
                }
            };
            self.client.note(command.spec().id);
            next = Some(command);
        }
    }

    /// Whether a subscriber needs a connection of its own for `command`: it changes the connection, or keeps it for a
    /// while, in which messages must not wait.
    fn outgrows_hub(&self, command: &Command<Bytes>) -> bool {
        if self.profile.resp == Resp::Two || self.denies(command) || !command.arity_ok() {
            return false;
        }
        let spec = command.spec();
        match spec.class {
            Class::Stream | Class::Tracking => true,
            Class::Blocking => command.may_block(),
            Class::Transaction => match spec.name {
                "multi" => !self.has_whole_block(),
                name => name == "watch",
            },
            Class::Session => match spec.name {
                // What is subscribed to stays, whoever the client is from here on.
                "auth" => true,
                "hello" => {
                    own::hello(command, self.profile.resp).is_ok_and(|hello| hello.credentials.is_some())
                }
                // What the table does not know may change the connection.
                name => matches!(name, "client" | "client|import-source"),
            },
            _ => false,
        }
    }

    /// Goes on on a connection of its own, with all that it is subscribed to.
    async fn leave_hub(&mut self, guest: Guest, next: Option<Command<Bytes>>) -> Result<(), Close> {
        let names = [Kind::Channel, Kind::Pattern, Kind::Shard].map(|kind| guest.names_of(kind));
        drop(guest);
        Box::pin(self.stream_apart(names, next)).await
    }

    fn enter_hub(&self) -> Guest {
        let worker = &self.door.worker;
        let profile = Profile {
            resp: Resp::Two,
            ..Profile::clone(&self.profile)
        };
        let ear = Ear::new(&self.client);
        ear.speak(self.profile.resp);
        let key = (self.door.fleet.upstream(), profile);
        let mut hubs = worker.hubs.borrow_mut();
        let hub = hubs.entry(key).or_insert_with_key(|(_, profile)| {
            Hub::new(
                Rc::clone(&self.door.fleet),
                self.door.census.clone(),
                profile.clone(),
            )
        });
        Guest {
            hub: Rc::clone(hub),
            id: self.id,
            ear,
            names: BTreeSet::new(),
        }
    }

    /// One command of a subscriber: Redis lets it ask no more than these in RESP2.
    async fn serve_guest(&mut self, guest: &mut Guest, command: Command<Bytes>) -> Result<(), Close> {
        let name = command.spec().name;
        let mut out = BytesMut::new();
        match name {
            _ if self.denies(&command) => {
                self.refuse(&command);
                return Ok(());
            }
            // The table allows PING any number: the command itself refuses them.
            _ if !command.arity_ok() || (name == "ping" && command.argc() > 2) => {
                let why = format!("wrong number of arguments for '{name}' command");
                write::error(&mut out, &refusal(name, &why));
            }
            "subscribe" | "psubscribe" | "ssubscribe" => return self.join_hub(guest, &command).await,
            "unsubscribe" | "punsubscribe" | "sunsubscribe" => {
                guest.leave(&command, self.profile.resp, &mut out);
                guest.show(&mut self.client.face_mut());
                return self.confirm(&command, &out).await;
            }
            _ if self.profile.resp == Resp::Three => return self.serve_beside(guest, command).await,
            "ping" => {
                write::array_header(&mut out, 2);
                write::bulk(&mut out, Some(b"pong"));
                write::bulk(&mut out, Some(command.arg(1).unwrap_or_default()));
            }
            "quit" | "reset" => return Box::pin(self.own(command)).await,
            _ => {
                let word = String::from_utf8_lossy(command.arg(0).unwrap_or_default()).to_lowercase();
                let name = if name == "other" { &word } else { name };
                let why = format!(
                    "Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                     in this context"
                );
                write::error(&mut out, &refusal(name, &why));
            }
        }
        guest.show(&mut self.client.face_mut());
        self.answer(&command, &out);
        Ok(())
    }

    /// A command that has nothing to do with what is subscribed.
    async fn serve_beside(&mut self, guest: &mut Guest, command: Command<Bytes>) -> Result<(), Close> {
        guest.ear.close();
        Box::pin(self.aside(command)).await?;
        self.settled().await?;
        guest.ear.speak(self.profile.resp);
        guest.ear.open();
        guest.show(&mut self.client.face_mut());
        Ok(())
    }

    /// Each name is confirmed once the node has confirmed it.
    async fn join_hub(&mut self, guest: &mut Guest, command: &Command<Bytes>) -> Result<(), Close> {
        let _expected = self.door.census.expect();
        let kind = Kind::of(command.spec().name);
        for channel in command.args().skip(1) {
            let name = (kind, Bytes::copy_from_slice(channel));
            guest.names.insert(name.clone());
            if let Some(word) = guest.hub.join(&name, self.id, &guest.ear) {
                let refusal = self.refused(&guest.hub, word).await?;
                if let Some(refusal) = refusal {
                    guest.forget(&name);
                    self.answer(command, &refusal);
                    return Ok(());
                }
            }
            let mut out = BytesMut::new();
            let (word, count) = (command.spec().name, guest.count(kind));
            confirm(&mut out, self.profile.resp, word, Some(channel), count);
            self.client.push_past_hush(&out);
            guest.hub.hear(&name, self.id);
        }
        guest.show(&mut self.client.face_mut());
        self.client.end_skip();
        self.answer(command, b"");
        Ok(())
    }

    /// Why the node, or the lack of one, keeps a client from being subscribed; `None` once it is.
    async fn refused(&mut self, hub: &Rc<Hub>, word: Word) -> Result<Option<Bytes>, Close> {
        self.start_hub(hub);
        let hold = self.door.fleet.hold_timeout();
        let word = tokio::select! {
            biased;
            close = self.gone() => return Err(close),
            word = tokio::time::timeout(hold, word) => word,
        };
        Ok(match word {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(refusal))) => Some(refusal),
            Ok(Err(_)) | Err(_) => Some(self.no_primary()),
        })
    }

    /// The hub's task: there is one from its first guest to its last.
    fn start_hub(&self, hub: &Rc<Hub>) {
        if hub.wakes() {
            let hubs = Rc::clone(&self.door.worker.hubs);
            crate::task::spawn(Rc::clone(hub).run(hubs));
        }
    }
}

/// As Redis words it; an EXEC that is refused has discarded its transaction.
fn refusal(name: &str, why: &str) -> String {
    let prefix = if name == "exec" {
        "EXECABORT Transaction discarded because of:"
    } else {
        "ERR"
    };
    format!("{prefix} {why}")
}

fn confirm(out: &mut BytesMut, resp: Resp, word: &str, channel: Option<&[u8]>, count: usize) {
    write::push_header(out, resp == Resp::Three, 3);
    write::bulk(out, Some(word.as_bytes()));
    match channel {
        Some(channel) => write::bulk(out, Some(channel)),
        None => write::null(out, resp == Resp::Three),
    }
    write::integer(out, count as i64);
}

// === impl Guest ===

impl Guest {
    /// What a confirmation counts: shard channels apart from the rest.
    fn count(&self, kind: Kind) -> usize {
        let shard = kind == Kind::Shard;
        self.names
            .iter()
            .filter(|(kind, _)| (*kind == Kind::Shard) == shard)
            .count()
    }

    fn names_of(&self, kind: Kind) -> Vec<Bytes> {
        let of_kind = self.names.iter().filter(|(of, _)| *of == kind);
        of_kind.map(|(_, name)| name.clone()).collect()
    }

    fn forget(&mut self, name: &Name) {
        self.names.remove(name);
        self.hub.leave(name, self.id);
    }

    /// Leaves what `command` names, or all of its kind.
    fn leave(&mut self, command: &Command<Bytes>, resp: Resp, out: &mut BytesMut) {
        let word = command.spec().name;
        let kind = Kind::of(word);
        let mut named: Vec<Name> = command
            .args()
            .skip(1)
            .map(|name| (kind, Bytes::copy_from_slice(name)))
            .collect();
        if named.is_empty() {
            named.extend(self.names_of(kind).into_iter().map(|name| (kind, name)));
        }
        if named.is_empty() {
            confirm(out, resp, word, None, self.count(kind));
        }
        for name in named {
            self.forget(&name);
            confirm(out, resp, word, Some(&name.1), self.count(kind));
        }
    }

    /// Lets others see what is subscribed.
    fn show(&self, face: &mut crate::client::face::Face) {
        let of = |wanted| self.names.iter().filter(|(kind, _)| *kind == wanted).count();
        let doing = face.doing();
        doing.channels = of(Kind::Channel) as _;
        doing.patterns = of(Kind::Pattern) as _;
        doing.shard_channels = of(Kind::Shard) as _;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for name in &self.names {
            self.hub.leave(name, self.id);
        }
    }
}
