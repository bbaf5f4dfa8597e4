//! `--share-subscriptions`: RESP2 subscribers of one worker and Profile hear the node over one connection. A RESP3 client
//! keeps a connection of its own, since its replies and its messages are one sequence.

mod hub;

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, write};

use super::{Close, Session};
use crate::backend::profile::Resp;
use crate::door::WorkerState;
pub(crate) use hub::Hubs;
use hub::{Hub, Kind, Name};

/// One client at a hub: it leaves when this goes.
struct Guest {
    hub: Rc<Hub>,
    id: u64,
    names: BTreeSet<Name>,
}

impl Session {
    /// Whether `command` starts a session's stay at its worker's hub.
    pub(super) fn may_share(&self, command: &Command<Bytes>) -> bool {
        let joins = command.spec().class == Class::Subscription;
        joins && self.door.worker.settings.get().share_subscriptions && self.profile.resp == Resp::Two
    }

    /// Serves a RESP2 subscriber until it is one no longer.
    pub(super) async fn share(&mut self, first: Command<Bytes>) -> Result<(), Close> {
        self.settled().await?;
        let mut guest = self.enter_hub();
        let mut next = first;
        loop {
            let reset = next.spec().name == "reset" && !self.denies(&next);
            self.serve_guest(&mut guest, next).await?;
            if reset || guest.names.is_empty() {
                self.client.face_mut().stop();
                return Ok(());
            }
            next = self.read_command(false).await?;
            self.client.note(next.spec().id);
        }
    }

    fn enter_hub(&self) -> Guest {
        let worker = &self.door.worker;
        let key = (self.door.fleet.upstream(), self.profile.clone());
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
            names: BTreeSet::new(),
        }
    }

    /// One command of a subscriber: Redis lets it ask no more than these.
    async fn serve_guest(&mut self, guest: &mut Guest, command: Command<Bytes>) -> Result<(), Close> {
        let name = command.spec().name;
        let mut out = BytesMut::new();
        match name {
            _ if self.denies(&command) => {
                self.refuse(&command);
                return Ok(());
            }
            _ if !command.arity_ok() => {
                write::error(
                    &mut out,
                    &format!("ERR wrong number of arguments for '{name}' command"),
                );
            }
            "subscribe" | "psubscribe" | "ssubscribe" => return self.join_hub(guest, &command).await,
            "unsubscribe" | "punsubscribe" | "sunsubscribe" => {
                guest.leave(&command, &mut out);
                guest.show(&mut self.client.face_mut());
                return self.confirm(&command, &out).await;
            }
            "ping" => {
                write::array_header(&mut out, 2);
                write::bulk(&mut out, Some(b"pong"));
                write::bulk(&mut out, Some(command.arg(1).unwrap_or_default()));
            }
            "quit" | "reset" => return Box::pin(self.own(command)).await,
            _ => {
                let word = String::from_utf8_lossy(command.arg(0).unwrap_or_default()).to_lowercase();
                let name = if name == "other" { &word } else { name };
                write::error(
                    &mut out,
                    &format!(
                        "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
                         allowed in this context"
                    ),
                );
            }
        }
        guest.show(&mut self.client.face_mut());
        self.answer(&command, &out);
        Ok(())
    }

    /// Each name is confirmed once the node has confirmed it.
    async fn join_hub(&mut self, guest: &mut Guest, command: &Command<Bytes>) -> Result<(), Close> {
        let kind = Kind::of(command.spec().name);
        for channel in command.args().skip(1) {
            let name = (kind, Bytes::copy_from_slice(channel));
            guest.names.insert(name.clone());
            if let Some(word) = guest.hub.join(&name, self.id, &self.client) {
                self.start_hub(&guest.hub);
                let hold = self.door.fleet.hold_timeout();
                let word = tokio::select! {
                    biased;
                    close = self.gone() => return Err(close),
                    word = tokio::time::timeout(hold, word) => word,
                };
                let refusal = match word {
                    Ok(Ok(Ok(()))) => None,
                    Ok(Ok(Err(refusal))) => Some(refusal),
                    Ok(Err(_)) | Err(_) => Some(self.no_primary()),
                };
                if let Some(refusal) = refusal {
                    guest.forget(&name);
                    self.answer(command, &refusal);
                    return Ok(());
                }
            }
            let mut out = BytesMut::new();
            confirm(&mut out, command.spec().name, Some(channel), guest.count(kind));
            self.client.push_past_hush(&out);
            guest.hub.hear(&name, self.id);
        }
        guest.show(&mut self.client.face_mut());
        self.client.end_skip();
        self.answer(command, b"");
        Ok(())
    }

    /// The hub's task: there is one from its first guest to its last.
    fn start_hub(&self, hub: &Rc<Hub>) {
        if hub.wakes() {
            let worker: Rc<WorkerState> = Rc::clone(&self.door.worker);
            crate::task::spawn(Rc::clone(hub).run(worker));
        }
    }
}

/// A confirmation, as RESP2 clients get it.
fn confirm(out: &mut BytesMut, word: &str, channel: Option<&[u8]>, count: usize) {
    write::array_header(out, 3);
    write::bulk(out, Some(word.as_bytes()));
    write::bulk(out, channel);
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

    fn forget(&mut self, name: &Name) {
        self.names.remove(name);
        self.hub.leave(name, self.id);
    }

    /// Leaves what `command` names, or all of its kind.
    fn leave(&mut self, command: &Command<Bytes>, out: &mut BytesMut) {
        let word = command.spec().name;
        let kind = Kind::of(word);
        let mut named: Vec<Name> = command
            .args()
            .skip(1)
            .map(|name| (kind, Bytes::copy_from_slice(name)))
            .collect();
        if named.is_empty() {
            named.extend(self.names.iter().filter(|(of, _)| *of == kind).cloned());
        }
        if named.is_empty() {
            confirm(out, word, None, self.count(kind));
        }
        for name in named {
            self.forget(&name);
            confirm(out, word, Some(&name.1), self.count(kind));
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
