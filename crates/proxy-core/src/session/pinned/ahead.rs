//! What an open MULTI queues: all that is at hand goes to the node in one write. Nothing of it is executed before EXEC,
//! so that whatever is not answered may be sent again.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command};
use tokio::time::Instant;

use super::attempt::Attempt;
use super::stay::{Call, Stay};
use crate::limits;
use crate::session::{Close, Session};

impl Session {
    /// Has the node queue what is at hand. Gives back what comes behind that, if it is at hand, too.
    pub(super) async fn queue_at_hand(&mut self, stay: &mut Stay) -> Result<Option<Command<Bytes>>, Close> {
        loop {
            let (commands, next) = self.queueable(stay);
            if commands.is_empty() {
                return Ok(next);
            }
            let answered = self.queue_together(stay, &commands).await?;
            stay.show(&mut self.client.face_mut());
            if answered < commands.len() {
                // One at a time, as what is lost or refused has to be.
                let mut rest = BytesMut::new();
                for command in commands.iter().skip(answered).chain(&next) {
                    rest.extend_from_slice(command.frame());
                }
                self.put_back(&rest);
                return Ok(None);
            }
            self.room().await?;
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// What is at hand and only queues, and what comes behind it. Nothing, where it takes more than that.
    fn queueable(&mut self, stay: &Stay) -> (Vec<Command<Bytes>>, Option<Command<Bytes>>) {
        let mut commands = Vec::new();
        let (mut bytes, mut room) = (0, limits::PIPELINE_DEPTH);
        let may = stay.state.in_multi && stay.aborted.is_none() && !self.client.misses_replies();
        while may && room > 0 && bytes < limits::CHUNK_BYTES {
            let Some(Ok(command)) = self.request_at_hand() else {
                break;
            };
            if command.spec().class != Class::Data || self.denies(&command) {
                return (commands, Some(command));
            }
            bytes += command.frame().len();
            room -= 1;
            commands.push(command);
        }
        (commands, None)
    }

    /// How many of them the client has its answer to.
    async fn queue_together(&mut self, stay: &mut Stay, commands: &[Command<Bytes>]) -> Result<usize, Close> {
        self.door.fleet.catch_up();
        self.leave_former(stay);
        let Some(held) = &mut stay.held else {
            return Ok(0);
        };
        let link = Rc::clone(held.backend.link());
        let mut frames = BytesMut::new();
        for command in commands {
            self.client.note(command.spec().id);
            frames.extend_from_slice(command.frame());
        }
        let since = Instant::now();
        let sent = self.while_primary(&link.node, held.lease.conn().send(&frames));
        if !matches!(sent.await?, Some(Ok(()))) {
            stay.lose();
            return Ok(0);
        }
        for (answered, command) in commands.iter().enumerate() {
            let mut call = Call::new(command, stay);
            call.node = Some(Rc::clone(&link));
            call.since = since;
            match self.await_answer(stay, command, &mut call).await? {
                Attempt::Answered => {}
                Attempt::Again | Attempt::Lost => return Ok(answered),
            }
        }
        Ok(commands.len())
    }
}
