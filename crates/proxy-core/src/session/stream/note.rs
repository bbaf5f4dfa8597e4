//! What the node's frames mean for the session.

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, ReplyKind};

use super::state::Stream;
use super::transaction::elements;
use crate::backend::profile::Profile;
use crate::backend::told::Told;
use crate::client::Hush;
use crate::push::is_published;
use crate::session::clients::{is_own, is_refusal};
use crate::session::{Close, Session, own};

impl Session {
    /// Learns from a frame of the node (empty, where that was too long to be kept). Returns what the client is still to
    /// see of it.
    pub(super) async fn note(
        &mut self,
        stream: &mut Stream,
        kind: ReplyKind,
        frame: Bytes,
    ) -> Result<Bytes, Close> {
        let frame = match stream.redirect {
            Some(redirect) if kind == ReplyKind::Push => redirect.translate_push(frame),
            _ => frame,
        };
        let Some(command) = stream.hear(kind, &frame, self.profile.resp) else {
            return Ok(frame);
        };
        if command.spec().name == "exec" {
            if let Some(answer) = stream.instead.take() {
                stream.transaction.forget();
                return Ok(answer);
            }
            if kind == ReplyKind::Array && stream.execute() {
                Box::pin(self.note_elements(stream, &frame)).await?;
                return Ok(Bytes::new());
            }
        }
        match stream.transaction.note(command, kind) {
            Some(command) if !is_refusal(&frame, &command) => {
                if command.spec().class == Class::Subscription {
                    // Its confirmations are no replies: the next command's is not the next any more.
                    self.client.end_skip();
                }
                self.door.fleet.heed(Told::by(&command));
                stream.standing.note(&command);
                stream.show(&command, &mut self.client.face_mut());
                match (command.spec().name, stream.redirect) {
                    ("client|getredir" | "client|trackinginfo", Some(redirect)) => {
                        Ok(redirect.translate_answer(frame))
                    }
                    _ => self.note_answer(&command, frame).await,
                }
            }
            _ => Ok(frame),
        }
    }

    /// EXEC's array: each element is some command's answer. What of it the client gets is decided one by one, as on Redis:
    /// replies may be turned off and on in between, and the header is a reply like others.
    async fn note_elements(&mut self, stream: &mut Stream, array: &Bytes) -> Result<(), Close> {
        let (header, elements) = elements(array);
        let mut out = BytesMut::new();
        if !self.client.is_hushed() {
            out.extend_from_slice(&header);
        }
        let mut skips = false;
        for (kind, element) in elements {
            let answer = self.note(stream, kind, element).await?;
            // SKIP is for the command behind EXEC, whatever else becomes of replies until then.
            skips |= self.client.end_skip();
            if !self.client.is_hushed() || kind == ReplyKind::Push || is_published(&answer) {
                out.extend_from_slice(&answer);
            }
        }
        self.client.push_later_past_hush(&out);
        if skips && !self.client.is_hushed() {
            self.client.hush(Some(Hush::next()));
        }
        Ok(())
    }

    /// A Profile that changes on a lease changes for the session; ids and names are the session's own.
    async fn note_answer(&mut self, command: &Command<Bytes>, answer: Bytes) -> Result<Bytes, Close> {
        match command.spec().name {
            "select" => {
                let db = command
                    .arg(1)
                    .and_then(|db| std::str::from_utf8(db).ok()?.parse().ok());
                self.profile = self.profile.on(db.unwrap_or(self.profile.db)).into();
            }
            "auth" => {
                self.profile = self.profile.of(Some(own::credentials(command))).into();
            }
            "hello" => {
                if let Ok(hello) = own::hello(command, self.profile.resp) {
                    let mut profile = match hello.credentials {
                        Some(credentials) => self.profile.of(Some(credentials)),
                        None => Profile::clone(&self.profile),
                    };
                    profile.resp = hello.resp;
                    self.profile = profile.into();
                    if let Some(name) = hello.name {
                        self.client.face_mut().name = name;
                    }
                }
                return Ok(own::with_id(&answer, self.id));
            }
            // Only as elements of EXEC's answer: alone, they are answered by the session itself.
            name if is_own(name) => return self.client_reply(command, answer).await,
            _ => {}
        }
        Ok(answer)
    }
}
