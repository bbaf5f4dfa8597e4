//! Everything that the common way does not do: which of the session's other ways a command takes.

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, CommandSpec, write};

use super::{Close, Session};
use crate::backend::lease::Budget;
use crate::backend::profile::Resp;
use crate::error::Error;
use crate::limits;
use crate::metrics::LeaseReason;

impl Session {
    /// Everything that the common way does not do.
    pub(super) async fn aside(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        let spec = command.spec();
        self.client.note(spec.id);
        if !self.may_enter() && spec.class != Class::Session {
            self.client.reply(&Error::NoAuth.reply());
            return Ok(());
        }
        if self.denies(&command) {
            self.refuse(&command);
            return Ok(());
        }
        if !command.arity_ok() {
            // The node words the refusal; an argument short, no command has an effect.
            return self.hold(command).await;
        }
        // No node is asked about these.
        let here = spec.name.ends_with("unsubscribe") || spec.name == "replconf";
        if here && self.is_nobody() && self.is_refused().await? {
            self.answer(&command, &Error::NoAuth.reply());
            return Ok(());
        }
        self.catch_up_with_subscribers(spec.class).await?;
        let large = command.frame().len() > limits::REQUEST_SHARED_BYTES;
        match spec.class {
            class if (class.is_shared() || class == Class::Control) && self.may_be_postponed(&command) => {
                self.pinned(command, Budget::Blocking, LeaseReason::Paused).await
            }
            class if class.is_shared() && large => {
                self.pinned(command, Budget::Blocking, LeaseReason::Large).await
            }
            Class::Unknown => self.unknown(command).await,
            Class::Data | Class::Script | Class::Scan | Class::Audience => {
                self.note_script(&command);
                self.hold(command).await
            }
            Class::Session => self.own(command).await,
            Class::Own => self.proxy(command).await,
            Class::Transaction => self.transaction(command).await,
            Class::Blocking if !command.may_block() => self.hold(command).await,
            Class::Blocking => {
                self.pinned(command, Budget::Blocking, LeaseReason::Blocking)
                    .await
            }
            Class::Control => {
                // DEBUG alone looks into the session's database.
                let budget = if spec.name == "debug" {
                    Budget::Blocking
                } else {
                    Budget::Control
                };
                self.pinned(command, budget, LeaseReason::Control).await
            }
            Class::Wait => self.pinned(command, Budget::Blocking, LeaseReason::Wait).await,
            Class::Subscription if spec.name.ends_with("unsubscribe") => {
                self.unsubscribe_nothing(&command).await
            }
            Class::Subscription if self.may_share(&command) => self.share(command).await,
            Class::Subscription => self.stream(command, LeaseReason::Subscription).await,
            Class::Stream => self.stream(command, LeaseReason::Stream).await,
            Class::Tracking => self.stream(command, LeaseReason::Tracking).await,
        }
    }

    /// An operator wants this command refused.
    pub(super) fn denies<B: AsRef<[u8]>>(&self, command: &Command<B>) -> bool {
        self.door.worker.settings.get().denies(command)
    }

    /// Answers a command that an operator wants refused.
    pub(super) fn refuse(&self, command: &Command<Bytes>) {
        let spec = command.spec();
        let name = if spec.id == CommandSpec::UNKNOWN.id {
            String::from_utf8_lossy(command.arg(0).unwrap_or_default()).to_ascii_lowercase()
        } else {
            spec.name.to_owned()
        };
        self.answer(command, &Error::Denied(&name).reply());
    }

    /// (P|S)UNSUBSCRIBE of a session that is subscribed to nothing: a confirmation for each channel named.
    async fn unsubscribe_nothing(&mut self, command: &Command<Bytes>) -> Result<(), Close> {
        let mut out = BytesMut::new();
        let mut confirm = |channel: Option<&[u8]>| {
            write::push_header(&mut out, self.profile.resp == Resp::Three, 3);
            write::bulk(&mut out, Some(command.spec().name.as_bytes()));
            match channel {
                Some(channel) => write::bulk(&mut out, Some(channel)),
                None => write::null(&mut out, self.profile.resp == Resp::Three),
            }
            write::integer(&mut out, 0);
        };
        if command.argc() == 1 {
            confirm(None);
        }
        command.args().skip(1).for_each(|channel| confirm(Some(channel)));
        self.confirm(command, &out).await
    }

    /// PING, answered here: no node can take it now.
    pub(super) fn pong<B: AsRef<[u8]>>(&self, command: &Command<B>) {
        let mut out = BytesMut::new();
        match command.arg(1) {
            None => write::simple(&mut out, "PONG"),
            Some(echo) => write::bulk(&mut out, Some(echo)),
        }
        self.client.reply(&out);
    }
}
