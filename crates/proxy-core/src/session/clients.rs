//! CLIENT: this proxy's clients. The node judges the words and who may say them, slipring then does what they mean.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, Value, value, write};
use tokio::time::Instant;

use super::pause::pause_of;
use super::{Close, Session, shape_of};
use crate::backend::profile::{Profile, Resp};
use crate::client::face::{Fields, Library};
use crate::client::{Hush, Order};
use crate::error::Error;
use crate::metrics::{CloseReason, LeaseReason};
use crate::roster::{Filter, Selection, Unblock, Way};

/// What Redis says of a name that CLIENT LIST could not print.
pub(super) const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// No client comes from or to it.
const NOWHERE: &[u8] = b"-";

/// Whether the session itself answers this, wherever its other commands travel.
pub(super) fn is_own(name: &str) -> bool {
    let own = [
        "id", "info", "list", "kill", "unblock", "getname", "setname", "setinfo", "reply", "capa", "pause",
        "unpause",
    ];
    name.strip_prefix("client|")
        .is_some_and(|name| own.contains(&name))
}

impl Session {
    /// CLIENT, but for what travels as it is.
    pub(super) async fn client_command(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        let Some(question) = question(&command) else {
            return match command.spec().name {
                "client|pause" | "client|unpause" if command.arity_ok() => self.pause_node(command).await,
                // A subcommand that the table does not know may change the connection: it gets one of its own.
                "client" | "client|import-source" => self.stream(command, LeaseReason::Tracking).await,
                _ => self.hold(command).await,
            };
        };
        self.settled().await?;
        self.be_seen(&command);
        let shape = shape_of(&command);
        let judged = self
            .with_primary(&command, |session| {
                let backend = session.door.fleet.primary(&session.profile);
                let (question, turn) = (question.clone(), session.id);
                async move {
                    let mux = backend?.mux(turn);
                    mux.ask(&question, shape).await
                }
            })
            .await?;
        let reply = match judged {
            Ok(reply) if !is_refusal(&reply, &command) => self.client_reply(&command, reply).await?,
            Ok(refusal) | Err(refusal) => refusal,
        };
        self.client.face_mut().forget_query();
        self.answer(&command, &reply);
        if self.client.must_go() {
            return Err(self.farewell(CloseReason::Killed).await);
        }
        Ok(())
    }

    /// What `command`, which the node allows, is answered; `judged` is the node's own answer to the harmless form.
    pub(super) async fn client_reply(
        &mut self,
        command: &Command<Bytes>,
        judged: Bytes,
    ) -> Result<Bytes, Close> {
        let mut out = BytesMut::new();
        let argument = command.arg(2).unwrap_or_default();
        match command.spec().name {
            "client|id" => write::integer(&mut out, self.id.cast_signed()),
            "client|getname" => match &self.client.face().name {
                name if name.is_empty() => write::null(&mut out, self.profile.resp == Resp::Three),
                name => write::bulk(&mut out, Some(name)),
            },
            "client|setname" if is_printable(argument) => {
                self.client.face_mut().name = argument.into();
                return Ok(judged);
            }
            "client|setname" => write::error(&mut out, BAD_NAME),
            "client|setinfo" => match self.set_info(command) {
                Ok(()) => return Ok(judged),
                Err(text) => write::error(&mut out, &text),
            },
            "client|capa" => {
                let redirect = command
                    .args()
                    .skip(2)
                    .any(|word| word.eq_ignore_ascii_case(b"redirect"));
                if redirect {
                    self.client.face_mut().doing().capabilities = b"r".as_slice().into();
                }
                return Ok(judged);
            }
            "client|reply" if argument.eq_ignore_ascii_case(b"on") => {
                self.client.hush(None);
                return Ok(judged);
            }
            "client|reply" if argument.eq_ignore_ascii_case(b"off") => self.client.hush(Some(Hush::All)),
            "client|reply" if self.client.is_hushed() => {}
            "client|reply" => self.client.hush(Some(Hush::next())),
            "client|info" => {
                let line = self.client.line(&fields(&judged), Instant::now());
                self.text(&mut out, &line);
            }
            "client|list" => return self.list(command).await,
            "client|kill" => return self.kill(command).await,
            "client|unblock" => return self.unblock(command).await,
            // Only as elements of EXEC's answer.
            "client|pause" | "client|unpause" => {
                let before = self.door.fleet.paused();
                self.spread_pause(pause_of(command, before)).await?;
                return Ok(judged);
            }
            _ => return Ok(judged),
        }
        Ok(out.freeze())
    }

    /// CLIENT LIST.
    async fn list(&mut self, command: &Command<Bytes>) -> Result<Bytes, Close> {
        let upstream = self.door.fleet.upstream();
        let Some((mut filter, skips)) = Filter::read(upstream, command.args().skip(2)) else {
            return Ok(Error::Unsupported("this option of CLIENT LIST").reply());
        };
        if skips == Some(true) {
            filter = filter.without(self.id);
        }
        let fields = self.fields().await?;
        let list = self
            .gathered(|roster| async move { roster.list(filter, fields).await })
            .await?;
        let mut out = BytesMut::new();
        self.text(&mut out, &list);
        Ok(out.freeze())
    }

    /// CLIENT UNBLOCK.
    async fn unblock(&mut self, command: &Command<Bytes>) -> Result<Bytes, Close> {
        let unblock = Unblock {
            id: command.arg(2).and_then(number).unwrap_or_default(),
            upstream: self.door.fleet.upstream(),
            way: match command.arg(3) {
                Some(way) if way.eq_ignore_ascii_case(b"error") => Way::Error,
                _ => Way::Timeout,
            },
            asker: Profile::clone(&self.profile),
        };
        let unblocked = self
            .gathered(|roster| async move { roster.unblock(unblock).await })
            .await?;
        let mut out = BytesMut::new();
        write::integer(&mut out, i64::from(unblocked));
        Ok(out.freeze())
    }

    /// INFO: the node's own, but for the number of clients.
    pub(super) async fn info(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        self.settled().await?;
        let shape = shape_of(&command);
        let told = self
            .with_primary(&command, |session| {
                let backend = session.door.fleet.primary(&session.profile);
                let (frame, turn) = (command.frame().clone(), session.id);
                async move {
                    let mux = backend?.mux(turn);
                    mux.ask(&frame, shape).await
                }
            })
            .await?;
        let (Ok(told) | Err(told)) = told;
        let upstream = self.door.fleet.upstream();
        let count = self
            .gathered(|roster| async move { roster.count(upstream).await })
            .await?;
        let reply = with_clients(&told, count).unwrap_or(told);
        self.answer(&command, &reply);
        Ok(())
    }

    /// CLIENT KILL: the others at once, oneself once this is answered.
    async fn kill(&mut self, command: &Command<Bytes>) -> Result<Bytes, Close> {
        let upstream = self.door.fleet.upstream();
        let old_form = command.argc() == 3;
        let read = match command.arg(2) {
            Some(address) if old_form => {
                let filter = Filter::all(upstream).with(Selection::Peer(address.into()));
                Some((filter, Some(false)))
            }
            _ => Filter::read(upstream, command.args().skip(2)),
        };
        let Some((filter, skips)) = read else {
            return Ok(Error::Unsupported("this option of CLIENT KILL").reply());
        };
        let kills_itself = skips == Some(false) && filter.holds(&self.client, Instant::now());
        let others = Arc::new(filter.without(self.id));
        let killed = self
            .gathered(|roster| async move { roster.kill(&others).await })
            .await?
            + usize::from(kills_itself);
        if kills_itself {
            self.client.give_order(Order::Close(CloseReason::Killed));
        }
        let mut out = BytesMut::new();
        match killed {
            0 if old_form => write::error(&mut out, "ERR No such client"),
            _ if old_form => write::simple(&mut out, "OK"),
            killed => write::integer(&mut out, killed as i64),
        }
        Ok(out.freeze())
    }

    /// CLIENT SETINFO, whose attribute the node knows. The error is Redis' own.
    fn set_info(&mut self, command: &Command<Bytes>) -> Result<(), String> {
        let attribute = command.arg(2).unwrap_or_default();
        let value = command.arg(3).unwrap_or_default();
        if !is_printable(value) {
            let attribute = String::from_utf8_lossy(attribute);
            return Err(format!(
                "ERR {attribute} cannot contain spaces, newlines or special characters."
            ));
        }
        let mut face = self.client.face_mut();
        let library: &mut Library = face.library.get_or_insert_default();
        if attribute.eq_ignore_ascii_case(b"lib-name") {
            library.name = value.into();
        } else {
            library.version = value.into();
        }
        Ok(())
    }

    /// Lets others see what the session has become, and itself the request it is seen by.
    pub(super) fn be_seen(&self, command: &Command<Bytes>) {
        let mut face = self.client.face_mut();
        face.wear(&self.profile);
        let arguments = command.args().map(<[u8]>::len).sum();
        face.doing().query = (command.frame().len() + self.input.len(), arguments);
    }

    /// The fields that the primary's own lines have; those of Redis 7.0 where this user may not ask for one.
    pub(super) async fn fields(&mut self) -> Result<Fields, Close> {
        let Some(backend) = self.door.fleet.primary(&self.profile) else {
            return Ok(Fields::default());
        };
        let asked = tokio::select! {
            biased;
            close = self.broken() => return Err(close),
            line = backend.client_line() => line,
        };
        Ok(asked.map(|line| fields(&line)).unwrap_or_default())
    }

    /// What all workers answer, unless the client goes first.
    pub(super) async fn gathered<A, F>(&mut self, ask: A) -> Result<F::Output, Close>
    where
        A: FnOnce(Arc<crate::roster::Roster>) -> F,
        F: Future,
    {
        let asked = ask(Arc::clone(&self.door.worker.roster));
        tokio::select! {
            biased;
            close = self.broken() => Err(close),
            answer = asked => Ok(answer),
        }
    }

    /// A text for people: verbatim in RESP3.
    fn text(&self, out: &mut BytesMut, text: &[u8]) {
        if self.profile.resp == Resp::Three {
            out.extend_from_slice(format!("={}\r\ntxt:", text.len() + 4).as_bytes());
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        } else {
            write::bulk(out, Some(text));
        }
    }
}

/// What to ask the node, over a connection that others use too: the same words in a form that does nothing. `None`:
/// the command travels as it is.
fn question(command: &Command<Bytes>) -> Option<Bytes> {
    if !is_own(command.spec().name) || !command.arity_ok() {
        return None;
    }
    let mut args: Vec<&[u8]> = command.args().collect();
    match command.spec().name {
        "client|id" | "client|getname" | "client|info" => {}
        "client|setname" => args[2] = b"",
        "client|setinfo" => args[3] = b"",
        "client|capa" => args[2..].fill(b"-"),
        "client|reply" => {
            if [&b"on"[..], b"off", b"skip"]
                .iter()
                .any(|mode| args[2].eq_ignore_ascii_case(mode))
            {
                args[2] = b"ON";
            }
        }
        // A primary is connected to none: the shortest list there is.
        "client|list" if args.len() == 2 => args.extend([&b"TYPE"[..], b"MASTER"]),
        "client|list" => {}
        "client|kill" if args.len() == 3 => args[2] = NOWHERE,
        "client|kill" => {
            let mut at = 2;
            while let Some(option) = args.get(at) {
                let names_address =
                    option.eq_ignore_ascii_case(b"addr") || option.eq_ignore_ascii_case(b"laddr");
                at += 1;
                if names_address && at < args.len() {
                    args[at] = NOWHERE;
                    at += 1;
                }
            }
            args.splice(2..2, [&b"LADDR"[..], NOWHERE]);
        }
        "client|unblock" if number(args[2]).is_some() => args[2] = b"0",
        "client|unblock" => {}
        _ => return None,
    }
    let mut out = BytesMut::new();
    write::command(&mut out, &args);
    Some(out.freeze())
}

/// INFO's answer with `count` in the place of the node's own connections; `None` where it does not tell of clients.
fn with_clients(info: &[u8], count: usize) -> Option<Bytes> {
    const NAME: &[u8] = b"\r\nconnected_clients:";
    let header = info.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let body = info.get(header..info.len().checked_sub(2)?)?;
    let at = body.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let (before, after) = body.split_at(at);
    let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let body = [before, count.to_string().as_bytes(), after.get(digits..)?].concat();
    let mut out = BytesMut::from(info.get(..1)?);
    out.extend_from_slice(format!("{}\r\n", body.len()).as_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(b"\r\n");
    Some(out.freeze())
}

/// What the node is sent of a command that it queues or refuses, and the session means.
pub(super) fn for_node(command: &Command<Bytes>) -> Bytes {
    question(command).unwrap_or_else(|| command.frame().clone())
}

/// The node does not allow it, or does not know it. That CLIENT KILL found nobody there is no refusal.
pub(super) fn is_refusal(reply: &[u8], command: &Command<Bytes>) -> bool {
    let found_nobody = command.spec().name == "client|kill" && reply.starts_with(b"-ERR No such client");
    reply.starts_with(b"-") && !found_nobody
}

/// What the node printed of one of slipring's connections.
fn fields(reply: &[u8]) -> Fields {
    let line = value::decode(reply).ok();
    let line = line.as_ref().and_then(Value::as_bytes);
    Fields::read(line.unwrap_or_default())
}

fn number(text: &[u8]) -> Option<u64> {
    // Whatever is below zero names nobody.
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(u64::try_from(number).unwrap_or_default())
}

/// What Redis takes as a client's name.
pub(super) fn is_printable(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_tells_the_number_of_clients_and_leaves_the_rest() {
        let check = |info: &str, expected: Option<&str>| {
            let told = with_clients(info.as_bytes(), 120);
            assert_eq!(told.as_deref(), expected.map(str::as_bytes), "{info}");
        };
        check(
            "$35\r\n# Clients\r\nconnected_clients:7\r\nx:1\r\n",
            Some("$37\r\n# Clients\r\nconnected_clients:120\r\nx:1\r\n"),
        );
        check(
            "=36\r\ntxt:# Clients\r\nconnected_clients:7\r\n\r\n",
            Some("=38\r\ntxt:# Clients\r\nconnected_clients:120\r\n\r\n"),
        );
        check("$9\r\n# Memory\n\r\n", None);
        check("-NOAUTH x\r\n", None);
    }
}
