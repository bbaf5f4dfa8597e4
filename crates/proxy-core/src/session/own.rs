//! Commands about the session itself: answered here, or proven on the node and made part of the Profile.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, RequestLimits, RequestScan, write};
use sentinel_watcher::{Credentials, Secret};
use tokio::time::Instant;

use super::clients::{BAD_NAME, is_printable};
use super::{Close, Session, shape_of};
use crate::backend::Backend;
use crate::backend::conn::ConnectError;
use crate::backend::profile::{Profile, Resp};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::metrics::{CloseReason, Outcome};
use crate::route::Plan;
use crate::settings::ClientAuth;

/// What HELLO asks for.
pub(super) struct Hello {
    pub(super) resp: Resp,
    pub(super) credentials: Option<Credentials>,
    pub(super) name: Option<Box<[u8]>>,
}

const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                            <proto> AUTH <user> <pass> option can be used to authenticate the client and select the \
                            RESP protocol version at the same time";

impl Session {
    /// AUTH HELLO SELECT RESET QUIT and CLIENT.
    pub(super) async fn own(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        match command.spec().name {
            "quit" => {
                self.heed_silence().await?;
                self.answer(&command, b"+OK\r\n");
                Err(self.farewell(CloseReason::Quit).await)
            }
            "reset" => {
                self.settled().await?;
                self.reset();
                self.answer(&command, b"+RESET\r\n");
                Ok(())
            }
            "auth" if command.argc() > 3 => {
                self.answer(&command, &error("ERR syntax error"));
                Ok(())
            }
            "auth" => {
                let proven = self.prove(&command, &credentials(&command)).await?;
                if proven.is_ok() {
                    self.settle_in().await?;
                }
                self.answer_result(&command, proven.map(|()| Bytes::from_static(b"+OK\r\n")));
                Ok(())
            }
            "hello" => {
                let greeting = match hello(&command, self.profile.resp) {
                    Ok(hello) => self.greet(&command, hello).await?,
                    Err(text) => Err(error(&text)),
                };
                self.answer_result(&command, greeting);
                Ok(())
            }
            // Redis knows which subcommands there are before it knows who asks.
            name if (name != "client" || self.checks_here())
                && self.is_nobody()
                && self.is_refused().await? =>
            {
                self.answer(&command, &Error::NoAuth.reply());
                Ok(())
            }
            "select" => self.select(command).await,
            "info" => self.info(command).await,
            _ => self.client_command(command).await,
        }
    }

    /// The node still asks for a password first.
    pub(super) async fn is_refused(&mut self) -> Result<bool, Close> {
        if self.checks_here() {
            return Ok(true);
        }
        let Some(backend) = self.door.fleet.primary(&self.profile) else {
            return Ok(true);
        };
        let refused = self.is_refused_by(&backend).await?;
        if !refused {
            self.door.fleet.end_era(&self.profile);
        }
        Ok(refused)
    }

    /// The node asks for a password first, over the shared connection that the session would use.
    async fn is_refused_by(&mut self, backend: &Backend) -> Result<bool, Close> {
        let turn = self.id;
        tokio::select! {
            biased;
            close = self.broken() => Err(close),
            refused = backend.is_refused(turn) => Ok(refused),
        }
    }

    /// Opens the shared connection that the session is going to use, where there is none: who has proven a password
    /// is not asked for it again, though it be another one by then.
    pub(super) async fn settle_in(&mut self) -> Result<(), Close> {
        match self.door.fleet.primary(&self.profile) {
            Some(backend) => self.stands_on(&backend).await,
            None => Ok(()),
        }
    }

    /// Waits for the shared connection that the session would use, unless it is there.
    async fn stands_on(&mut self, backend: &Backend) -> Result<(), Close> {
        let turn = self.id;
        if !backend.mux(turn).is_connecting() {
            return Ok(());
        }
        tokio::select! {
            biased;
            close = self.broken() => Err(close),
            // Whoever the user is, it may ask this.
            _ = backend.hello(turn) => Ok(()),
        }
    }

    /// Back to how the connection started.
    pub(super) fn reset(&mut self) {
        if self.client.is_hushed() {
            self.client.hush(None);
        }
        self.change(self.door.first_profile());
        self.client.face_mut().reset();
        self.admitted = false;
    }

    /// Travels under another Profile from here on.
    pub(super) fn change(&mut self, profile: impl Into<Rc<Profile>>) {
        self.profile = profile.into();
        self.client.face_mut().wear(&self.profile);
        self.primary = None;
        self.replica = None;
    }

    /// Answers `command` from here, in its turn.
    pub(super) fn answer(&self, command: &Command<Bytes>, reply: &[u8]) {
        let outcome = if reply.starts_with(b"-") {
            Outcome::Error
        } else {
            Outcome::Ok
        };
        self.door.worker.cells.command(command.spec().id, outcome);
        self.client.reply(reply);
    }

    /// The same with what is no reply to CLIENT REPLY, but comes all the same: confirmations.
    pub(super) async fn confirm(&mut self, command: &Command<Bytes>, frames: &[u8]) -> Result<(), Close> {
        if !self.client.misses_replies() {
            self.answer(command, frames);
            return Ok(());
        }
        self.settled().await?;
        self.client.push_past_hush(frames);
        self.client.end_skip();
        self.answer(command, b"");
        Ok(())
    }

    fn answer_result(&self, command: &Command<Bytes>, reply: Result<Bytes, Bytes>) {
        let reply = match &reply {
            Ok(reply) | Err(reply) => reply,
        };
        self.answer(command, reply);
    }

    /// Proves `credentials` and makes them the session's. The inner error is the reply that refuses them.
    pub(super) async fn prove(
        &mut self,
        command: &Command<Bytes>,
        credentials: &Credentials,
    ) -> Result<Result<(), Bytes>, Close> {
        self.settled().await?;
        let settings = self.door.worker.settings.get();
        match settings.client_auth {
            ClientAuth::None => return Ok(Err(Error::NoPasswordNeeded.reply())),
            ClientAuth::Proxy => return Ok(self.let_in(credentials)),
            ClientAuth::Passthrough => {}
        }
        let mut question = BytesMut::from(&command.frame()[..]);
        if let ("hello", Some(name)) = (command.spec().name, command.arg(0)) {
            // In its own words, as MONITOR shows them, but for the name: the connection is nobody's.
            let version = command.arg(1).unwrap_or_default();
            let user = credentials.username.as_deref().unwrap_or(b"default");
            question.clear();
            write::command(
                &mut question,
                &[name, version, b"AUTH", user, credentials.password.reveal()],
            );
        }
        let shape = shape_of(command);
        // Each proof is the node's own: nobody rides on what another client has proven.
        let answer = self
            .with_primary(command, |session| {
                let prover = session.door.fleet.prover();
                let question = question.clone();
                async move { prover.mux(0).ask(&question, shape).await }
            })
            .await?;
        Ok(answer.and_then(|reply| {
            if reply.starts_with(b"-") {
                return Err(reply);
            }
            self.door.fleet.granted(credentials);
            self.change(self.profile.of(Some(credentials.clone())));
            Ok(())
        }))
    }

    /// The session runs as what slipring's own list says of these credentials.
    fn let_in(&mut self, presented: &Credentials) -> Result<(), Bytes> {
        let settings = self.door.worker.settings.get();
        let Some((name, user)) = settings.entry.users.find(presented) else {
            return Err(Error::WrongPass.reply());
        };
        let credentials = user.node.clone().or_else(|| settings.node_credentials.clone());
        self.admitted = true;
        if credentials != self.profile.credentials {
            self.change(self.profile.of(credentials));
        }
        self.client.face_mut().alias = Some(name.into());
        Ok(())
    }

    /// These credentials, presented to slipring, would make the session another user of the node.
    pub(super) fn is_another_user(&self, presented: &Credentials) -> bool {
        let settings = self.door.worker.settings.get();
        settings.entry.users.find(presented).is_some_and(|(_, user)| {
            let credentials = user.node.as_ref().or(settings.node_credentials.as_ref());
            settings.client_auth == ClientAuth::Proxy && credentials != self.profile.credentials.as_ref()
        })
    }

    /// HELLO: the node's own greeting under the new Profile, with this session's id.
    async fn greet(&mut self, command: &Command<Bytes>, hello: Hello) -> Result<Result<Bytes, Bytes>, Close> {
        if let Some(credentials) = &hello.credentials
            && let Err(refusal) = self.prove(command, credentials).await?
        {
            return Ok(Err(refusal));
        }
        if !self.may_enter() {
            return Ok(Err(error(HELLO_NOAUTH)));
        }
        self.settled().await?;
        let profile = Profile {
            resp: hello.resp,
            ..Profile::clone(&self.profile)
        };
        let greeting = self
            .with_primary(command, |session| {
                let backend = session.door.fleet.backend_of(Plan::Primary, &profile);
                let turn = session.id;
                async move {
                    match backend.hello(turn).await {
                        Ok(greeting) | Err(ConnectError::Refused(greeting)) => Some(greeting),
                        Err(ConnectError::Io(_)) => None,
                    }
                }
            })
            .await?;
        Ok(greeting.and_then(|greeting| {
            if greeting.starts_with(b"-") {
                return Err(greeting);
            }
            self.change(profile);
            if let Some(name) = hello.name {
                self.client.face_mut().name = name;
            }
            Ok(with_id(&greeting, self.id))
        }))
    }

    /// SELECT: another Profile, proven by a connection that has selected the database.
    async fn select(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        let index = command.arg(1).unwrap_or_default();
        let number = std::str::from_utf8(index)
            .ok()
            .and_then(|text| text.parse::<u32>().ok());
        let db = match number {
            Some(db) if db.to_string().as_bytes() == index && db != self.profile.db => db,
            // The node answers: it is on this database already, or refuses what is no index.
            _ => return self.hold(command).await,
        };
        self.settled().await?;
        let profile = self.profile.on(db);
        let opened = self
            .with_primary(&command, |session| {
                let proof = session.door.fleet.prove(&profile);
                async move {
                    match proof.await {
                        Ok(()) => Some(Bytes::from_static(b"+OK\r\n")),
                        Err(ConnectError::Refused(refusal)) => Some(refusal),
                        Err(ConnectError::Io(_)) => None,
                    }
                }
            })
            .await?;
        let reply = match &opened {
            Ok(reply) | Err(reply) => reply,
        };
        if reply.starts_with(b"+") {
            if let Some(backend) = self.door.fleet.primary(&profile) {
                backend.note_selected();
            }
            self.change(profile);
        }
        self.answer(&command, reply);
        Ok(())
    }

    /// Asks the primary, again and again while it is away; the inner error is the reply once that took too long.
    pub(super) async fn with_primary<A, F>(
        &mut self,
        command: &Command<Bytes>,
        mut ask: A,
    ) -> Result<Result<Bytes, Bytes>, Close>
    where
        A: FnMut(&Self) -> F,
        F: Future<Output = Option<Bytes>>,
    {
        let mut shape = shape_of(command);
        shape.read = false;
        let deadline = Instant::now() + self.door.fleet.hold_timeout();
        let mut applied = self.door.fleet.applied();
        let mut backoff = Backoff::default();
        loop {
            if let Err(refusal) = self.primary_for(shape, command.frame().len()).await? {
                return Ok(Err(refusal));
            }
            let asked = ask(self);
            let answer = tokio::select! {
                biased;
                close = self.broken() => return Err(close),
                answer = asked => answer,
            };
            match answer {
                Some(reply) => return Ok(Ok(reply)),
                None if Instant::now() >= deadline => return Ok(Err(self.no_primary())),
                None => drop(
                    self.changed(&mut applied, deadline.min(Instant::now() + backoff.next()))
                        .await?,
                ),
            }
        }
    }
}

/// What AUTH presents.
pub(super) fn credentials(command: &Command<Bytes>) -> Credentials {
    match (command.arg(1), command.arg(2)) {
        (Some(user), Some(password)) => named(user, password),
        (password, _) => Credentials {
            username: None,
            password: Secret::new(password.unwrap_or_default()),
        },
    }
}

/// Reads HELLO's arguments as Redis does, with its words for what is wrong.
pub(super) fn hello(command: &Command<Bytes>, current: Resp) -> Result<Hello, String> {
    let resp = match command.arg(1) {
        None => current,
        Some(b"2") => Resp::Two,
        Some(b"3") => Resp::Three,
        Some(version) => {
            let number = std::str::from_utf8(version)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| number.to_string().as_bytes() == version);
            return Err(if number {
                "NOPROTO unsupported protocol version".to_owned()
            } else {
                "ERR Protocol version is not an integer or out of range".to_owned()
            });
        }
    };
    let mut hello = Hello {
        resp,
        credentials: None,
        name: None,
    };
    let mut at = 2;
    while let Some(option) = command.arg(at) {
        let rest = (command.arg(at + 1), command.arg(at + 2));
        match rest {
            (Some(user), Some(password)) if option.eq_ignore_ascii_case(b"auth") => {
                hello.credentials = Some(named(user, password));
                at += 3;
            }
            (Some(name), _) if option.eq_ignore_ascii_case(b"setname") => {
                if !is_printable(name) {
                    return Err(BAD_NAME.to_owned());
                }
                hello.name = Some(name.into());
                at += 2;
            }
            _ => {
                return Err(format!(
                    "ERR Syntax error in HELLO option '{}'",
                    String::from_utf8_lossy(option)
                ));
            }
        }
    }
    Ok(hello)
}

/// HELLO for a node that the password does not concern.
pub(super) fn hello_without_auth(resp: Resp, name: Option<&[u8]>) -> Command<Bytes> {
    let mut out = BytesMut::new();
    let version: &[u8] = if resp == Resp::Three { b"3" } else { b"2" };
    match name {
        Some(name) => write::command(&mut out, &[b"HELLO", version, b"SETNAME", name]),
        None => write::command(&mut out, &[b"HELLO", version]),
    }
    whole(out.freeze())
}

/// The command that `frame` is.
///
/// # Panics
/// Unless it is one that was read, or written, as a whole.
pub(super) fn whole(frame: Bytes) -> Command<Bytes> {
    let found = RequestScan::default().advance(&frame, &RequestLimits::AUTHENTICATED);
    let found = found.ok().flatten().expect("it is whole");
    Command::new(frame, found)
}

/// The greeting with `id` in the place of the node's id for the connection that asked.
pub(super) fn with_id(greeting: &[u8], id: u64) -> Bytes {
    const KEY: &[u8] = b"$2\r\nid\r\n:";
    let Some(key) = greeting.windows(KEY.len()).position(|window| window == KEY) else {
        return Bytes::copy_from_slice(greeting);
    };
    let (head, tail) = greeting.split_at(key + KEY.len());
    let digits = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut out = BytesMut::from(head);
    out.extend_from_slice(id.to_string().as_bytes());
    out.extend_from_slice(tail.get(digits..).unwrap_or_default());
    out.freeze()
}

fn named(user: &[u8], password: &[u8]) -> Credentials {
    Credentials {
        username: Some(user.into()),
        password: Secret::new(password),
    }
}

fn error(text: &str) -> Bytes {
    let mut out = BytesMut::new();
    write::error(&mut out, text);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_carries_the_sessions_own_id() {
        let check = |greeting: &str, expected: &str| assert_eq!(with_id(greeting.as_bytes(), 7), expected);
        check(
            "%1\r\n$2\r\nid\r\n:12345\r\n$4\r\nmode\r\n",
            "%1\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n",
        );
        check("*0\r\n", "*0\r\n");
    }
}
