//! MULTI: as one block over the shared connection where it came whole, else on a lease.

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, RequestScan, RequestShape};

use super::{Close, Reading, Session, shape_of};
use crate::backend::lease::Budget;
use crate::client::Shape;
use crate::limits;
use crate::metrics::LeaseReason;

/// The rest of a transaction that stands whole in the input.
struct Block {
    /// Bytes of the input that belong to it.
    len: usize,
    /// Its commands, EXEC included, MULTI not.
    commands: u32,
    /// What EXEC is.
    exec: Shape,
}

impl Session {
    /// MULTI EXEC DISCARD WATCH UNWATCH outside a transaction.
    pub(super) async fn transaction(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        match command.spec().name {
            "multi" if self.may_be_postponed(&command) => {
                self.pinned(command, Budget::Transaction, LeaseReason::Paused)
                    .await
            }
            "multi" => match self.whole_block() {
                Some(block) => self.send_block(&command, block).await,
                None => {
                    self.pinned(command, Budget::Transaction, LeaseReason::Transaction)
                        .await
                }
            },
            "watch" => {
                self.pinned(command, Budget::Transaction, LeaseReason::Transaction)
                    .await
            }
            // Nothing is watched, nothing queued: a shared connection answers what a fresh one would.
            _ => self.hold(command).await,
        }
    }

    /// The rest of the MULTI just consumed, up to its EXEC, is there.
    pub(super) fn has_whole_block(&self) -> bool {
        self.whole_block().is_some()
    }

    /// Looks ahead for the EXEC of the MULTI just consumed. Only commands with one reply each may stand between.
    fn whole_block(&self) -> Option<Block> {
        let limits = self.request_limits();
        let mut len = 0;
        let mut commands = 0;
        loop {
            let rest = self.input.get(len..)?;
            let frame = RequestScan::default().advance(rest, &limits).ok()??;
            let command = Command::new(rest.get(..frame.len)?, frame);
            len += frame.len;
            if len > limits::REQUEST_SHARED_BYTES {
                return None;
            }
            if frame.shape == RequestShape::Empty || frame.is_long_line() {
                // A blank line means nothing to Redis; Valkey 8 reads what follows it as an inline request.
                return None;
            }
            commands += 1;
            if self.denies(&command) || command.is_http() {
                return None;
            }
            match command.spec().class {
                class if class.is_shared() => self.note_script(&command),
                Class::Transaction if command.spec().name == "exec" && command.arity_ok() => {
                    return Some(Block {
                        len,
                        commands,
                        exec: shape_of(&command),
                    });
                }
                _ => return None,
            }
        }
    }

    async fn send_block(&mut self, multi: &Command<Bytes>, block: Block) -> Result<(), Close> {
        let mut frames = BytesMut::from(&multi.frame()[..]);
        frames.extend_from_slice(&self.input.split_to(block.len));
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.reading = Reading::Dry;
        }
        let shape = Shape {
            replies: block.commands + 1,
            read: false,
            writes: true,
            ..block.exec
        };
        self.send_in_turn(&frames, shape).await
    }
}
