//! Commands that travel the shared way once slipring has taken note of them: scripts, whose text a new primary must
//! be told; scans, whose cursor belongs to one node; PUBLISH, which those are to hear who subscribed before; commands
//! that only the node knows.

mod scans;

use std::borrow::Cow;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, CommandSpec, RequestLimits, RequestScan, write};
use sentinel_watcher::{Epoch, Shard};

use super::{Close, Session, shape_of};
use crate::backend::learned::Nature;
use crate::backend::lease::Budget;
use crate::backend::{Backend, NodeKey};
use crate::client::Shape;
use crate::metrics::LeaseReason;
use crate::route::{self, Plan};
pub(super) use scans::Scans;

impl Session {
    /// Where a command goes that must be noted first, and what it is. `Aside`: where it can wait.
    pub(super) fn noted(
        &mut self,
        shard: &Shard,
        epoch: Epoch,
        command: &Command<&[u8]>,
        shape: Shape,
    ) -> (Plan, Shape) {
        let plan =
            |session: &Self, read| route::plan_access(shard, session.door.reads.get(), read, session.id);
        match command.spec().class {
            Class::Script => {
                self.note_script(command);
                let plan = plan(self, false);
                // What may have to wait is told in its turn.
                let by_digest = command.spec().name.starts_with("evalsha");
                if by_digest && plan == Plan::Primary && (self.is_open(plan) || !self.is_overtaking()) {
                    self.tell_scripts(epoch, command.frame(), shape);
                }
                (plan, shape)
            }
            Class::Scan => {
                let plan = self.scan_plan(shard, plan(self, true));
                let goes_home = match plan {
                    Plan::Primary | Plan::Replica(_) => {
                        let backend = self.door.fleet.backend_of(plan, &self.profile);
                        self.scan_goes_on(&backend.link().node, command)
                    }
                    _ => true,
                };
                (if goes_home { plan } else { Plan::Aside }, shape)
            }
            Class::Audience if self.may_miss_subscribers() => (Plan::Aside, shape),
            Class::Audience => (plan(self, shape.read), shape),
            _ => {
                let known = self.primary.as_ref().filter(|cached| cached.mux.is_open());
                let name = command.arg(0).unwrap_or_default();
                match known.and_then(|cached| cached.mux.link().learned.nature_of(name)) {
                    None | Some(Nature::Blocks) => (Plan::Aside, shape),
                    Some(nature) => {
                        let shape = with_nature(shape, nature);
                        (plan(self, shape.read), shape)
                    }
                }
            }
        }
    }

    /// Remembers a script that goes to the primary in a transaction or on a lease.
    pub(super) fn note_script<B: AsRef<[u8]>>(&self, command: &Command<B>) {
        if command.spec().class == Class::Script {
            let topology = self.door.fleet.topology();
            let term = topology.shard(0).primary.as_ref().map(|primary| primary.term);
            self.door.fleet.scripts().note(command, term);
        }
    }

    /// A command that only the node knows: asks what it does, where that is not known yet.
    pub(super) async fn unknown(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        let nature = self.learn(command.arg(0).unwrap_or_default()).await?;
        if nature == Nature::Blocks {
            return self
                .pinned(command, Budget::Blocking, LeaseReason::Blocking)
                .await;
        }
        let shape = with_nature(shape_of(&command), nature);
        self.send_in_turn(command.frame(), shape).await
    }

    async fn learn(&mut self, name: &[u8]) -> Result<Nature, Close> {
        let Some(backend) = self.door.fleet.primary(&self.profile) else {
            return Ok(Nature::Writes);
        };
        if let Some(nature) = backend.link().learned.nature_of(name) {
            return Ok(nature);
        }
        if !self.door.fleet.is_serving() {
            return Ok(Nature::Writes);
        }
        let mut question = BytesMut::new();
        write::command(&mut question, &[b"COMMAND", b"INFO", name]);
        let mux = backend.mux(self.id);
        let answer = tokio::select! {
            biased;
            close = self.broken() => return Err(close),
            answer = mux.ask(&question, own_shape(b"command", b"info")) => answer,
        };
        let nature = answer.and_then(|answer| backend.link().learned.learn(name, &answer));
        Ok(nature.unwrap_or(Nature::Writes))
    }

    /// Tells the primary, in front of `frames`, the scripts that they name and it has not got.
    fn tell_scripts(&mut self, epoch: Epoch, frames: &[u8], shape: Shape) {
        let fleet = Rc::clone(&self.door.fleet);
        let mux = self.route(epoch, Plan::Primary, shape);
        for load in fleet.scripts().missing_at(mux.link(), frames) {
            mux.tell(&load, own_shape(b"script", b"load"));
        }
    }

    /// The frames to send now by `plan`, after some wait: a scan may have to start again, a script to be told first.
    pub(super) fn prepared<'a>(
        &mut self,
        epoch: Epoch,
        plan: Plan,
        frame: &'a [u8],
        shape: Shape,
    ) -> Cow<'a, [u8]> {
        let class = shape.command.spec().class;
        if plan == Plan::Primary && (class == Class::Script || shape.replies > 1) {
            self.tell_scripts(epoch, frame, shape);
        }
        if class == Class::Scan {
            let backend = self.door.fleet.backend_of(plan, &self.profile);
            if let Some(again) = self.scan_again(&backend.link().node, frame) {
                return Cow::Owned(again.to_vec());
            }
        }
        Cow::Borrowed(frame)
    }

    /// The scripts that `frames` name, for a lease on the node of `link`; told over the shared connection, since
    /// MULTI may be open on the lease.
    pub(super) async fn provide_scripts(
        &mut self,
        backend: &Rc<Backend>,
        frames: &[u8],
    ) -> Result<(), Close> {
        let fleet = Rc::clone(&self.door.fleet);
        for load in fleet.scripts().missing_at(backend.link(), frames) {
            let mux = backend.mux(self.id);
            tokio::select! {
                biased;
                close = self.broken() => return Err(close),
                _ = mux.ask(&load, own_shape(b"script", b"load")) => {}
            }
        }
        Ok(())
    }

    /// A scan stays with its replica for as long as that is there.
    fn scan_plan(&self, shard: &Shard, plan: Plan) -> Plan {
        let (Plan::Replica(_), Some(scans)) = (plan, &self.scans) else {
            return plan;
        };
        let home = &scans.node;
        let stays = |replica: &sentinel_watcher::Replica| {
            replica.usable && home.term.is_none() && replica.address == home.address
        };
        shard.replicas.iter().position(stays).map_or(plan, Plan::Replica)
    }

    /// Whether the cursor of a scan means something to `node`, which it is about to be sent to.
    fn scan_goes_on<B: AsRef<[u8]>>(&mut self, node: &NodeKey, command: &Command<B>) -> bool {
        // Where another session of the same client may have begun it.
        let moved = node.term.is_some_and(|term| term > self.born);
        let scans = self
            .scans
            .get_or_insert_with(|| Box::new(Scans::new(node.clone(), moved)));
        scans.may_go_on(node, command)
    }

    /// The scan in `frame` started again from 0, where its cursor means nothing to `node`.
    pub(super) fn scan_again(&mut self, node: &NodeKey, frame: &[u8]) -> Option<Bytes> {
        let found = RequestScan::default()
            .advance(frame, &RequestLimits::AUTHENTICATED)
            .ok()??;
        let command = Command::new(frame, found);
        if self.scan_goes_on(node, &command) {
            return None;
        }
        let again = scans::from_the_start(&command);
        // From here on it is one that has begun there.
        let _ = self.scan_again(node, &again);
        Some(again)
    }
}

fn with_nature(shape: Shape, nature: Nature) -> Shape {
    let read = nature == Nature::Reads;
    Shape {
        read,
        writes: !read,
        ..shape
    }
}

/// What a mux must know of a question of slipring's own, which no client's command may be taken for.
fn own_shape(container: &[u8], name: &[u8]) -> Shape {
    let container = CommandSpec::of(container);
    let spec = container.subcommand(name).unwrap_or(container);
    Shape {
        command: spec.id,
        replies: 1,
        read: false,
        writes: false,
        refusable: true,
        resends: 0,
    }
}
