//! What a session carries from lease to lease.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, ReplyKind};
use tokio::time::Instant;

use crate::backend::lease::{Budget, Lease, LeaseState};
use crate::backend::profile::{Profile, Resp};
use crate::backend::told::Told;
use crate::backend::{Backend, Link};
use crate::census::Counted;
use crate::client::Shape;
use crate::client::face::{Blocked, Face};
use crate::limits;
use crate::metrics::LeaseReason;
use crate::session::abort::Abort;
use crate::session::rearm;
use crate::session::shape_of;

/// A session's stay on leases, over as many nodes as it takes.
pub(super) struct Stay {
    pub(super) budget: Budget,
    pub(super) reason: LeaseReason,
    pub(super) held: Option<HeldLease>,
    pub(super) state: LeaseState,
    pub(super) journal: Journal,
    /// Keys named by WATCH.
    watched: usize,
    /// A watched primary is gone: EXEC answers null.
    pub(super) watch_broken: bool,
    /// Why the open MULTI can only end in EXECABORT.
    pub(super) aborted: Option<Abort>,
}

/// A lease and the node that it leads to.
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    pub(super) backend: Rc<Backend>,
}

/// The commands of an open MULTI, to be replayed on a new primary.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) frames: BytesMut,
    pub(super) commands: usize,
    /// It grew past its bound.
    pub(super) over: bool,
    /// Commands of it that EXEC will answer.
    queued: usize,
    /// What it tells the node.
    told: Told,
    /// SELECT commands in it: their place among the replies of EXEC, and the database.
    selects: Vec<(usize, u32)>,
}

/// One command's way over the lease.
pub(super) struct Call {
    pub(super) shape: Shape,
    /// Inside MULTI it is only queued.
    pub(super) queues: bool,
    /// It may block, and CLIENT UNBLOCK proves that it has done nothing.
    pub(super) unblocks: bool,
    /// slipring has unblocked it on the node, because the primary moves.
    pub(super) disarmed: bool,
    /// When its first attempt began: what is left of a blocking command's timeout is counted from here.
    pub(super) since: Instant,
    resent: bool,
    /// Bytes of a large request that were passed on and not kept.
    pub(super) unseen: usize,
    pub(super) node: Option<Rc<Link>>,
    /// A blocked reader's place in the census.
    pub(super) counted: Option<Counted>,
    /// The refusal that is being waited out.
    pub(super) refused: Option<Bytes>,
}

// === impl Call ===

impl Call {
    pub(super) fn new(command: &Command<Bytes>, stay: &Stay) -> Self {
        let spec = command.spec();
        let ends = matches!(spec.name, "exec" | "discard");
        let queues = spec.class != Class::Transaction || spec.name == "multi";
        let mut shape = shape_of(command);
        // These change nothing but the connection, which is rebuilt wherever they are sent.
        shape.read |= matches!(spec.name, "watch" | "unwatch" | "multi" | "discard");
        // A transaction that was not executed yet, or EXEC's own refusal, is the node's entry check.
        shape.refusable |= ends;
        Self {
            shape,
            queues,
            unblocks: command.may_block() && !stay.state.in_multi,
            disarmed: false,
            since: Instant::now(),
            resent: false,
            unseen: 0,
            node: None,
            counted: None,
            refused: None,
        }
    }

    /// The frame to send now: a blocking command that is armed again has only its remaining time.
    pub(super) fn frame_now(&mut self, command: &Command<Bytes>) -> Bytes {
        if std::mem::replace(&mut self.resent, true) && self.unblocks {
            return rearm::with_timeout_left(command, self.since.elapsed());
        }
        command.frame().clone()
    }
}

// === impl Stay ===

impl Stay {
    pub(super) fn new(budget: Budget, reason: LeaseReason) -> Self {
        Self {
            budget,
            reason,
            held: None,
            state: LeaseState::default(),
            journal: Journal::default(),
            watched: 0,
            watch_broken: false,
            aborted: None,
        }
    }

    /// Whose connection it takes. A busy node refuses SELECT, and so it does to a user who may not, with nobody left to
    /// do it for him: what is about no database, and may be what helps, goes without one.
    pub(super) fn profile(&self, session: &Profile) -> Profile {
        let db = match self.budget {
            Budget::Control => 0,
            Budget::Blocking | Budget::Streaming | Budget::Transaction => session.db,
        };
        if db == session.db {
            session.clone()
        } else {
            session.on(db)
        }
    }

    /// No transaction, and nothing watched: one command is all there is.
    pub(super) fn is_bare(&self) -> bool {
        !self.state.in_multi && !self.state.watching
    }

    /// A blocked `command` may be armed again in another process. XREAD from `$` may not: sent a moment later, it would
    /// miss what was added meanwhile.
    pub(super) fn lets_go_of(&self, command: &Command<Bytes>) -> bool {
        let from_now_on = command.spec().name == "xread" && command.args().any(|arg| arg == b"$");
        self.is_bare() && !from_now_on
    }

    /// The connection is gone; what can be rebuilt is rebuilt on the next.
    pub(super) fn lose(&mut self) {
        self.held = None;
        self.watch_broken |= self.state.watching;
        if self.state.in_multi && self.journal.over {
            self.aborted = Some(Abort::Lost);
        }
    }

    /// The stay is over without a clean end: nothing of it is carried on.
    pub(super) fn give_up(&mut self) {
        *self = Self::new(self.budget, self.reason);
    }

    /// `command` is not going to be executed, or nobody knows. What it belongs to is not over: an open transaction can
    /// only end in EXECABORT, and watched keys count as touched. What the client has written behind it must not be
    /// executed on its own, so MULTI itself is granted, as Redis grants it always: the answer to give.
    pub(super) fn fail(&mut self, command: &Command<Bytes>) -> Option<&'static [u8]> {
        self.lose();
        let name = command.spec().name;
        match name {
            "multi" if !self.state.in_multi => {
                self.state.in_multi = true;
                self.journal = Journal::default();
                self.aborted = Some(Abort::Unserved);
                return Some(b"+OK\r\n");
            }
            "exec" | "discard" => self.give_up(),
            _ if self.state.in_multi => self.aborted = self.aborted.or(Some(Abort::Unserved)),
            _ if self.state.watching => {}
            _ => self.give_up(),
        }
        None
    }

    /// Where the command that was sent waits, if the node has told the connection's id.
    pub(super) fn blocked(&mut self) -> Option<Blocked> {
        let HeldLease { lease, backend } = self.held.as_mut()?;
        let id = lease.conn().id()?;
        Some(Blocked {
            backend: Rc::clone(backend),
            id,
        })
    }

    /// Lets others see what is queued and watched.
    pub(super) fn show(&self, face: &mut Face) {
        face.stop();
        if self.state.in_multi || self.state.watching {
            let doing = face.doing();
            // MULTI itself is the first of the journal.
            doing.queued = self
                .state
                .in_multi
                .then(|| self.journal.commands.saturating_sub(1));
            doing.watched = self.watched;
        }
    }

    /// What to answer instead of the node, where a move broke the transaction.
    pub(super) fn instead_of(&self, command: &Command<Bytes>, resp: Resp) -> Option<Bytes> {
        if !self.state.in_multi {
            return None;
        }
        let exec = command.spec().name == "exec";
        match self.aborted {
            Some(Abort::Lost | Abort::Unserved) if command.spec().name == "discard" => {
                Some(Bytes::from_static(b"+OK\r\n"))
            }
            Some(abort @ (Abort::Unserved | Abort::Lost)) => Some(abort.reply()),
            Some(abort @ Abort::Refused) if exec => Some(abort.reply()),
            _ if exec && self.watch_broken => Some(Bytes::from_static(if resp == Resp::Three {
                b"_\r\n"
            } else {
                b"*-1\r\n"
            })),
            _ => None,
        }
    }

    /// What the node's answer to `command` means for the connection.
    pub(super) fn note(
        &mut self,
        command: &Command<Bytes>,
        kind: ReplyKind,
        reply: &Bytes,
        profile: &mut Rc<Profile>,
    ) {
        let ok = !kind.is_error();
        match command.spec().name {
            "multi" if ok => {
                self.state.in_multi = true;
                self.journal = Journal::default();
                self.journal.add(command, false);
            }
            "exec" if self.state.in_multi => {
                self.journal
                    .apply_selects(reply, profile, &mut self.state.altered);
                self.end_transaction();
            }
            "discard" if ok => self.end_transaction(),
            "watch" if ok => {
                self.state.watching = true;
                self.watched += command.argc() - 1;
            }
            "unwatch" if ok && !self.state.in_multi => {
                self.state.watching = false;
                self.watched = 0;
                self.watch_broken = false;
            }
            _ if self.state.in_multi => {
                self.state.altered |=
                    command.spec().class == Class::Session && command.spec().name != "select";
                self.journal.add(command, ok);
            }
            "select" if ok => {
                self.state.altered = true;
                Rc::make_mut(profile).db = database(command).unwrap_or(profile.db);
            }
            _ => {}
        }
    }

    /// What `command`, by `reply` not refused, has told the node.
    pub(super) fn told(&self, command: &Command<Bytes>, reply: &[u8]) -> Told {
        match command.spec().name {
            // Null: it was not executed.
            "exec" if reply.starts_with(b"*-1") || reply.starts_with(b"_") => Told::default(),
            "exec" => self.journal.told,
            _ if self.state.in_multi => Told::default(),
            _ => Told::by(command),
        }
    }

    pub(super) fn end_transaction(&mut self) {
        self.state.in_multi = false;
        self.state.watching = false;
        self.watched = 0;
        self.watch_broken = false;
        self.aborted = None;
        self.journal = Journal::default();
    }
}

// === impl Journal ===

impl Journal {
    /// Keeps a command that the node has answered. EXEC answers only what it has `queued`.
    pub(super) fn add(&mut self, command: &Command<Bytes>, queued: bool) {
        let frame = command.frame();
        if queued {
            self.told = self.told.and(Told::by(command));
            if command.spec().name == "select" {
                self.selects.extend(database(command).map(|db| (self.queued, db)));
            }
            self.queued += 1;
        }
        self.commands += 1;
        if self.over || self.frames.len() + frame.len() > limits::JOURNAL_BYTES {
            self.over = true;
            self.frames = BytesMut::new();
            return;
        }
        self.frames.extend_from_slice(frame);
    }

    /// The databases that EXEC selected become the session's.
    pub(super) fn apply_selects(&self, reply: &Bytes, profile: &mut Rc<Profile>, altered: &mut bool) {
        if self.selects.is_empty() {
            return;
        }
        *altered = true;
        let Ok(value) = resp_codec::value::decode(reply) else {
            return;
        };
        for (at, db) in &self.selects {
            let answer = value.as_array().and_then(|answers| answers.get(*at));
            if answer.and_then(|answer| answer.as_str()) == Some("OK") {
                Rc::make_mut(profile).db = *db;
            }
        }
    }
}

fn database(command: &Command<Bytes>) -> Option<u32> {
    std::str::from_utf8(command.arg(1)?).ok()?.parse().ok()
}
