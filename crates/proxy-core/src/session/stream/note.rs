//! What the node's frames mean for the session.

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, ReplyKind, write};

use super::state::Stream;
use super::transaction::elements;
use crate::backend::profile::{Profile, Resp};
use crate::session::{Session, own};

impl Session {
    /// Learns from a frame of the node (empty, where that was too long to be kept). Returns what the client sees of it.
    pub(super) fn note(&mut self, stream: &mut Stream, kind: ReplyKind, frame: Bytes) -> Bytes {
        let Some(command) = stream.hear(kind, &frame, self.profile.resp) else {
            return frame;
        };
        if command.spec().name == "exec" {
            if let Some(answer) = stream.instead.take() {
                stream.transaction.forget();
                return answer;
            }
            if kind == ReplyKind::Array && stream.execute() {
                return self.note_elements(stream, &frame);
            }
        }
        match stream.transaction.note(command, kind) {
            Some(command) if !kind.is_error() => {
                stream.standing.note(&command);
                stream.show(&command, &mut self.client.face_mut());
                self.note_answer(&command, frame)
            }
            _ => frame,
        }
    }

    /// EXEC's array: each element is some command's answer.
    fn note_elements(&mut self, stream: &mut Stream, array: &Bytes) -> Bytes {
        let (header, elements) = elements(array);
        let mut out = BytesMut::from(&header[..]);
        for (kind, element) in elements {
            out.extend_from_slice(&self.note(stream, kind, element));
        }
        out.freeze()
    }

    /// A Profile that changes on a lease changes for the session; ids and names are the session's own.
    fn note_answer(&mut self, command: &Command<Bytes>, answer: Bytes) -> Bytes {
        match command.spec().name {
            "select" => {
                let db = command
                    .arg(1)
                    .and_then(|db| std::str::from_utf8(db).ok()?.parse().ok());
                self.profile.db = db.unwrap_or(self.profile.db);
            }
            "auth" => {
                self.profile = Profile {
                    credentials: Some(own::credentials(command)),
                    ..self.profile.clone()
                };
            }
            "hello" => {
                if let Ok(hello) = own::hello(command, self.profile.resp) {
                    self.profile.resp = hello.resp;
                    self.profile.credentials = hello.credentials.or(self.profile.credentials.take());
                    if let Some(name) = hello.name {
                        self.client.face_mut().name = name;
                    }
                }
                return own::with_id(&answer, self.id);
            }
            // Only as elements of EXEC's answer: alone, they are answered by the session itself.
            "client|id" => {
                let mut out = BytesMut::new();
                write::integer(&mut out, self.id.cast_signed());
                return out.freeze();
            }
            "client|setname" => self.client.face_mut().name = command.arg(2).unwrap_or_default().into(),
            "client|getname" => return self.name_reply(),
            _ => {}
        }
        answer
    }

    fn name_reply(&self) -> Bytes {
        let mut out = BytesMut::new();
        match &self.client.face().name[..] {
            b"" => write::null(&mut out, self.profile.resp == Resp::Three),
            name => write::bulk(&mut out, Some(name)),
        }
        out.freeze()
    }
}
