//! One node under one Profile: its muxes and its pools of leases.

pub(crate) mod access;
pub(crate) mod by_hand;
pub(crate) mod conn;
pub(crate) mod fleet;
pub(crate) mod learned;
pub(crate) mod lease;
mod link;
pub(crate) mod mux;
pub(crate) mod profile;
pub(crate) mod scripts;
pub(crate) mod told;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{CommandSpec, ReplyKind, write};
use sentinel_watcher::Suspicion;
use tokio::time::Instant;

use crate::backend::conn::ConnectError;
use crate::backend::lease::{Budget, Lease, LeaseError, LeasePool, NodeManager};
use crate::backend::mux::Mux;
use crate::backend::profile::{Profile, Resp};
use crate::client::Shape;
use crate::limits;
use crate::metrics::{ConnectionKind, Counter, LeaseReason};
use crate::roster::Way;
pub(crate) use link::{Link, NodeKey};

/// One node under one Profile.
pub(crate) struct Backend {
    link: Rc<Link>,
    profile: Profile,
    /// The shared connections that take new commands; one a slot. The last is for those who read large replies.
    muxes: RefCell<Vec<Option<Rc<Mux>>>>,
    /// Those that only finish what they have.
    leaving: RefCell<Vec<Rc<Mux>>>,
    /// One a budget, made when it is first asked for.
    pools: RefCell<[Option<Rc<LeasePool>>; Budget::COUNT]>,
    /// Since when no session has used it.
    unused_since: Cell<Option<Instant>>,
    /// The node's last answer to HELLO in this Profile's RESP version.
    hello: RefCell<Option<Bytes>>,
    /// Its user has selected its database, not only found itself there.
    selected: Cell<bool>,
    fenced: Cell<bool>,
}

// === impl Backend ===

impl Backend {
    pub(crate) fn new(link: Rc<Link>, profile: Profile) -> Rc<Self> {
        Rc::new(Self {
            muxes: RefCell::new(vec![None; link.settings.get().mux_connections.max(1) + 1]),
            leaving: RefCell::new(Vec::new()),
            pools: RefCell::default(),
            unused_since: Cell::new(None),
            hello: RefCell::new(None),
            selected: Cell::new(false),
            fenced: Cell::new(false),
            link,
            profile,
        })
    }

    fn pool(&self, budget: Budget) -> Rc<LeasePool> {
        let pools = &mut *self.pools.borrow_mut();
        let pool = pools.get_mut(budget as usize).expect("a place for each budget");
        let pool = pool.get_or_insert_with(|| {
            let settings = self.link.settings.get();
            let manager = NodeManager {
                dial: Arc::clone(&self.link.dial),
                node: self.link.node.address.clone(),
                profile: self.link.settings.present(&self.profile),
                timeout: settings.connect_timeout,
                node_cells: Arc::clone(&self.link.node_cells),
                cells: Arc::clone(&self.link.cells),
                budget,
            };
            Rc::new(LeasePool::new(
                manager,
                settings.pool_size.div_ceil(settings.workers),
                settings.lease_wait_timeout,
            ))
        });
        Rc::clone(pool)
    }

    /// The shared connections finish what they have, and new ones take over.
    pub(crate) fn retire(&self) {
        self.muxes.borrow().iter().flatten().for_each(|mux| mux.retire());
    }

    /// How its connections stand, as `name=number`.
    pub(crate) fn standing(&self) -> String {
        let muxes = self.muxes.borrow();
        let open = muxes.iter().flatten().filter(|mux| mux.is_open()).count();
        let mut line = format!("shared={open} leaving={}", self.leaving.borrow().len());
        for pool in self.pools.borrow().iter().flatten() {
            line += &pool.standing();
        }
        line
    }

    /// Leases that are out close when they come back; the next ones are made by the settings of now.
    pub(crate) fn renew(&self) {
        *self.pools.borrow_mut() = Default::default();
    }

    /// The node.
    pub(crate) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The shared connection number `turn` (modulo `--mux-connections`), opened where there is none.
    pub(crate) fn mux(&self, turn: u64) -> Rc<Mux> {
        let common = self.muxes.borrow().len() as u64 - 1;
        self.mux_at(usize::try_from(turn % common).unwrap_or_default())
    }

    /// The shared connection of those who read large replies, opened where there is none: others do not wait behind them.
    pub(crate) fn mux_for_large(&self) -> Rc<Mux> {
        let last = self.muxes.borrow().len() - 1;
        self.mux_at(last)
    }

    fn mux_at(&self, at: usize) -> Rc<Mux> {
        let muxes = &mut *self.muxes.borrow_mut();
        let slot = muxes.get_mut(at).expect("no slot is ever removed");
        if let Some(mux) = slot.as_ref().filter(|mux| mux.is_open()) {
            return Rc::clone(mux);
        }
        let mux = Mux::open(Rc::clone(&self.link), self.profile.clone());
        if self.fenced.get() {
            mux.cut();
        }
        if let Some(old) = slot.replace(Rc::clone(&mux)) {
            self.leaving.borrow_mut().push(old);
        }
        mux
    }

    /// A connection of one's own.
    pub(crate) async fn lease(&self, budget: Budget, reason: LeaseReason) -> Result<Lease, LeaseError> {
        let started = Instant::now();
        let lease = self.pool(budget).get().await;
        self.link.cells.lease_wait(started.elapsed());
        if self.fenced.get() {
            return Err(LeaseError::Lost);
        }
        match &lease {
            Ok(_) => self.link.cells.add(Counter::Leases(reason), 1),
            Err(LeaseError::Lost) => self.link.hint(Suspicion::DialFailed),
            Err(_) => {}
        }
        lease
    }

    /// CLIENT UNBLOCK of the connection `id`, as `asker`, over a fresh connection: no fence closes that. Whether it was
    /// blocked; `None`: the node has not heard it, or does not allow it.
    pub(crate) async fn unblock(&self, id: i64, asker: &Profile, way: Way) -> Option<bool> {
        let id = id.to_string();
        let request = [&b"CLIENT"[..], b"UNBLOCK", id.as_bytes(), way.word()];
        let (kind, reply) = self.ask_apart(asker, &request).await.ok()?;
        (!kind.is_error()).then_some(&reply[..] == b":1\r\n")
    }

    /// CLIENT UNBLOCK of the connection `id`, over the shared connection that session `turn` uses: behind the answer
    /// nothing is popped for it. `None`: the node has not heard it.
    pub(crate) async fn cancel(&self, id: i64, turn: u64) -> Option<()> {
        let id = id.to_string();
        let request = [&b"CLIENT"[..], b"UNBLOCK", id.as_bytes(), Way::Error.word()];
        let reply = self.ask_shared(turn, &request).await?;
        matches!(&reply[..], b":0\r\n" | b":1\r\n").then_some(())
    }

    /// Whether the node asks for a password before all else, over the shared connection that session `turn` uses.
    pub(crate) async fn is_refused(&self, turn: u64) -> bool {
        let answer = self.ask_shared(turn, &[b"pInG"]).await;
        answer.is_none_or(|answer| fleet::asks_for_password(&answer))
    }

    /// Whether this user may select this database. Nobody in particular gets there by no other way.
    pub(crate) fn is_selectable(&self) -> bool {
        self.profile.credentials.is_none() || self.selected.get()
    }

    /// Its user has selected its database.
    pub(crate) fn note_selected(&self) {
        self.selected.set(true);
    }

    /// The node's own answer to `HELLO 2` or `HELLO 3` under this Profile, over the shared connection that session `turn`
    /// uses. Where that is held up, what the node said last.
    pub(crate) async fn hello(&self, turn: u64) -> Result<Bytes, ConnectError> {
        let version: &[u8] = if self.profile.resp == Resp::Three {
            b"3"
        } else {
            b"2"
        };
        let request = [&b"hElLo"[..], version];
        let asked = self.ask_shared(turn, &request);
        match tokio::time::timeout(self.link.settings.get().connect_timeout, asked).await {
            Ok(Some(reply)) if reply.starts_with(b"-") => Err(ConnectError::Refused(reply)),
            Ok(Some(reply)) => {
                *self.hello.borrow_mut() = Some(reply.clone());
                Ok(reply)
            }
            _ => self.ask_once(&self.hello, &request).await,
        }
    }

    /// What the node prints of a connection; asked once.
    pub(crate) async fn client_line(&self) -> Result<Bytes, ConnectError> {
        self.ask_once(&self.link.client_line, &[b"cLiEnT", b"INFO"]).await
    }

    async fn ask_once(
        &self,
        answer: &RefCell<Option<Bytes>>,
        request: &[&[u8]],
    ) -> Result<Bytes, ConnectError> {
        if let Some(answer) = &*answer.borrow() {
            return Ok(answer.clone());
        }
        let (kind, reply) = self.ask_apart(&self.profile, request).await?;
        if kind.is_error() {
            return Err(ConnectError::Refused(reply));
        }
        *answer.borrow_mut() = Some(reply.clone());
        Ok(reply)
    }

    /// One question over the shared connection that session `turn` uses. `None`: it was lost before the answer.
    async fn ask_shared(&self, turn: u64, request: &[&[u8]]) -> Option<Bytes> {
        let command = request.first().expect("a question has a name");
        self.mux(turn).ask(&framed(request), own_shape(command)).await
    }

    /// One question as `asker` over a connection of its own.
    async fn ask_apart(
        &self,
        asker: &Profile,
        request: &[&[u8]],
    ) -> Result<(ReplyKind, Bytes), ConnectError> {
        let mut conn = self.link.connect(asker, ConnectionKind::Control).await?;
        let frame = framed(request);
        let exchange = async {
            conn.send(&frame).await?;
            conn.reply().await
        };
        match tokio::time::timeout(self.link.settings.get().connect_timeout, exchange).await {
            Ok(answered) => Ok(answered?),
            Err(_) => Err(ConnectError::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Ends once the shared connections have answered all that was sent until now.
    pub(crate) async fn drained(&self) {
        for mux in self.shared().iter().filter(|mux| mux.owes_answers()) {
            mux.ask(b"*1\r\n$4\r\nPING\r\n", own_shape(b"ping")).await;
        }
    }

    /// The node is no longer what it was: nothing new enters, what is unanswered gets its end.
    pub(crate) fn fence(&self) {
        self.fenced.set(true);
        self.shared().iter().for_each(|mux| mux.cut());
        self.pools.borrow().iter().flatten().for_each(|pool| pool.close());
    }

    /// True: no session has used it for a while; its connections close.
    pub(crate) fn retire_if_unused(self: &Rc<Self>, now: Instant) -> bool {
        let muxes = self.muxes.borrow();
        let used = Rc::strong_count(self) > 1
            || muxes.iter().flatten().any(Mux::is_used)
            || !self.leaving.borrow().is_empty()
            || self.pools.borrow().iter().flatten().any(|pool| !pool.is_empty());
        if used {
            self.unused_since.set(None);
            return false;
        }
        let since = self.unused_since.get().unwrap_or(now);
        self.unused_since.set(Some(since));
        let retires = now.duration_since(since).as_secs() >= limits::BACKEND_IDLE_SECS;
        if retires {
            muxes.iter().flatten().for_each(|mux| mux.retire());
        }
        retires
    }

    /// None of its shared connections owes an answer to what may write.
    pub(crate) fn is_quiet(&self) -> bool {
        self.shared().iter().all(|mux| mux.is_quiet())
    }

    /// Cuts the shared connections: their reads travel again, on fresh ones.
    pub(crate) fn cut(&self) {
        self.shared().iter().for_each(|mux| mux.cut());
    }

    /// Reaps what nobody uses. True: a mux has been silent past `--node-timeout`.
    pub(crate) fn pulse(&self, now: Instant) -> bool {
        let idle = Duration::from_secs(limits::LEASE_IDLE_SECS);
        self.pools
            .borrow()
            .iter()
            .flatten()
            .for_each(|pool| pool.reap(idle));
        let leaving = {
            let leaving = &mut *self.leaving.borrow_mut();
            leaving.retain(|mux| !mux.is_closed());
            leaving.len()
        };
        if leaving < limits::LEAVING_CONNECTIONS {
            let muxes = self.muxes.borrow();
            let congested = muxes.iter().flatten().filter(|mux| mux.is_congested(now));
            congested.for_each(|mux| mux.retire());
        }
        let timeout = self.link.settings.get().node_timeout;
        self.shared().iter().filter(|mux| mux.pulse(now, timeout)).count() > 0
    }

    /// All its shared connections: those that take new commands, and those that only finish what they have.
    fn shared(&self) -> Vec<Rc<Mux>> {
        let (muxes, leaving) = (self.muxes.borrow(), self.leaving.borrow());
        muxes.iter().flatten().chain(leaving.iter()).cloned().collect()
    }
}

fn framed(request: &[&[u8]]) -> BytesMut {
    let mut frame = BytesMut::new();
    write::command(&mut frame, request);
    frame
}

/// What slipring itself asks over a shared connection, and nobody asks again.
fn own_shape(command: &[u8]) -> Shape {
    Shape {
        command: CommandSpec::of(command).id,
        replies: 1,
        read: false,
        writes: false,
        refusable: false,
        resends: 0,
    }
}
