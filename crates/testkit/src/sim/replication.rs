//! Who follows whom: an asynchronous stream from a primary to its replicas, over the network like everything else.
//!
//! ```text
//!   replica ── PSYNC ──────────────────────> primary
//!           <── +FULLRESYNC snapshot offset ──        the snapshot itself goes through memory
//!           <── APPLY db command… ───────────        what was executed, a transaction as one
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, Progress, ReplyScan, RequestLimits, RequestScan, write};
use sentinel_watcher::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::data::Data;
use super::network::Manner;
use super::node::{Node, Temper};
use super::pipe::End;
use super::state::{Out, State};
use super::task::spawn;
use super::trace;

/// What a node knows of its place.
#[derive(Default)]
pub(super) struct Replication {
    /// Whom it follows; nobody: it is a primary.
    following: Option<Following>,
    /// Bytes of the stream that it has written or read.
    offset: u64,
    /// Connections of its replicas.
    followers: Vec<u64>,
    /// What the open transaction has done.
    block: Option<Vec<(u32, Bytes)>>,
    upheavals: Vec<(Instant, Upheaval)>,
}

struct Following {
    of: HostPort,
    linked: bool,
    over: CancellationToken,
}

thread_local! {
    /// Snapshots on their way.
    static SNAPSHOTS: RefCell<BTreeMap<u64, Data>> = const { RefCell::new(BTreeMap::new()) };
}

/// How often a replica without a link dials its primary.
const REDIAL: Duration = Duration::from_secs(1);

/// Lets go of what nobody fetched, so that the next world of this thread counts from the start.
pub(super) fn forget_snapshots() {
    SNAPSHOTS.with_borrow_mut(BTreeMap::clear);
}

/// What happens to what a node has, and to nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upheaval {
    /// It takes writes of its own from here on.
    Promoted,
    /// It follows somebody from here on.
    Demoted,
    /// What it had is replaced by what its primary has.
    Loaded,
    /// What it had is gone.
    Wiped,
}

// === impl State ===

impl State {
    /// Whatever is executed from here on reaches replicas as one.
    pub(super) fn begin_block(&mut self) {
        self.replication.block = Some(Vec::new());
    }

    pub(super) fn end_block(&mut self) {
        if let Some(block) = self.replication.block.take() {
            self.replicate(&block);
        }
    }

    /// A command upon keys was executed.
    pub(super) fn propagate(&mut self, db: u32, args: &[Bytes]) {
        let words: Vec<&[u8]> = args.iter().map(|arg| &arg[..]).collect();
        let mut frame = BytesMut::new();
        write::command(&mut frame, &words);
        let effect = (db, frame.freeze());
        match &mut self.replication.block {
            Some(block) => block.push(effect),
            None => self.replicate(&[effect]),
        }
    }

    fn replicate(&mut self, effects: &[(u32, Bytes)]) {
        if effects.is_empty() {
            return;
        }
        let mut words = vec![Bytes::from_static(b"APPLY")];
        for (db, frame) in effects {
            words.push(Bytes::from(db.to_string()));
            words.push(frame.clone());
        }
        let words: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        let mut entry = BytesMut::new();
        write::command(&mut entry, &words);
        let entry = entry.freeze();
        self.replication.offset += entry.len() as u64;
        for follower in &self.replication.followers {
            if let Some(connection) = self.connections.get(follower) {
                let _ = connection.out.send(Out::Bytes(entry.clone(), Instant::now()));
            }
        }
    }

    /// Bytes of the stream so far.
    pub(super) fn offset(&self) -> u64 {
        self.replication.offset
    }

    /// WAIT's answer, once `count` replicas have said that they have the first `offset` bytes of the stream.
    pub(super) fn vouched(&self, count: usize, offset: u64) -> Option<Bytes> {
        let followers = self.replication.followers.iter();
        let connections = followers.filter_map(|follower| self.connections.get(follower));
        let having = connections
            .filter(|connection| connection.acknowledged >= offset)
            .count();
        (having >= count).then(|| Bytes::from(format!(":{having}\r\n")))
    }

    /// PSYNC over connection `id`.
    pub(super) fn admit_replica(&mut self, id: u64, out: &mut BytesMut) {
        if self.replication.following.is_some() {
            return write::error(out, "NOMASTERLINK Can't SYNC while not connected with my master");
        }
        let snapshot = self.data.borrow().clone();
        let number = SNAPSHOTS.with_borrow_mut(|snapshots| {
            let number = snapshots.last_key_value().map_or(1, |(last, _)| last + 1);
            snapshots.insert(number, snapshot);
            number
        });
        write::simple(out, &format!("FULLRESYNC {number} {}", self.replication.offset));
        self.replication.followers.push(id);
    }

    pub(super) fn dismiss_replica(&mut self, id: u64) {
        self.replication.followers.retain(|follower| *follower != id);
    }

    /// The answer to ROLE.
    pub(super) fn role(&self, out: &mut BytesMut) {
        let offset = self.replication.offset.cast_signed();
        match &self.replication.following {
            None => {
                write::array_header(out, 3);
                write::bulk(out, Some(b"master"));
                write::integer(out, offset);
                write::array_header(out, 0);
            }
            Some(following) => {
                write::array_header(out, 5);
                write::bulk(out, Some(b"slave"));
                write::bulk(out, Some(following.of.host.as_bytes()));
                write::integer(out, i64::from(following.of.port));
                write::bulk(
                    out,
                    Some(if following.linked {
                        b"connected"
                    } else {
                        b"connect"
                    }),
                );
                write::integer(out, offset);
            }
        }
    }

    /// Applies one entry of the stream.
    fn apply(&mut self, entry: &Command<Bytes>) {
        self.replication.offset += entry.frame().len() as u64;
        let args: Vec<_> = entry.args().map(Bytes::copy_from_slice).collect();
        for effect in args[1..].chunks_exact(2) {
            let db = std::str::from_utf8(&effect[0]).unwrap().parse().unwrap();
            let found = RequestScan::default().advance(&effect[1], &RequestLimits::AUTHENTICATED);
            let command = Command::new(effect[1].clone(), found.unwrap().unwrap());
            let args: Vec<_> = command.args().map(Bytes::copy_from_slice).collect();
            let applied = self.data.borrow_mut().apply(db, false, &args);
            applied.expect("a primary replicates commands upon keys");
        }
    }
}

// === impl Node ===

impl Node {
    /// Whom it follows, and whether it is in touch with it; `None` for a primary.
    #[must_use]
    pub fn following(&self) -> Option<(HostPort, bool)> {
        let state = self.state();
        let following = state.replication.following.as_ref()?;
        Some((following.of.clone(), following.linked))
    }

    /// Bytes of the replication stream that it has.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.state().replication.offset
    }

    /// REPLICAOF `of`: it forgets what it has once it is in touch.
    pub fn replicate(&self, of: &HostPort) {
        self.unfollow();
        self.note(Upheaval::Demoted);
        let over = CancellationToken::new();
        self.state().replication.following = Some(Following {
            of: of.clone(),
            linked: false,
            over: over.clone(),
        });
        self.become_a(Temper::Replica);
        let (node, of) = (self.clone(), of.clone());
        spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = node.follow_on(&of) => {}
            }
        });
    }

    /// What a sentinel sends to whom it demotes: REPLICAOF, and CLIENT KILL.
    pub fn demote(&self, of: &HostPort) {
        self.replicate(of);
        self.cut();
    }

    /// What a sentinel sends to whom it promotes: REPLICAOF NO ONE, and CLIENT KILL.
    pub fn promote(&self) {
        self.unfollow();
        self.note(Upheaval::Promoted);
        self.become_a(Temper::Primary);
        self.cut();
    }

    /// kill -9.
    pub fn crash(&self) {
        if let Some(following) = &mut self.state().replication.following {
            following.over.cancel();
            following.linked = false;
        }
        self.state().waiters.clear();
        self.kill();
        self.thaw();
    }

    /// It is started again, and reads its data set for `loading`; or finds none.
    pub fn restart(&self, empty: bool, loading: Duration) {
        trace::note(|| {
            format!(
                "{} starts, empty: {empty}, loading for {loading:?}",
                self.address()
            )
        });
        if empty {
            self.note(Upheaval::Wiped);
            *self.state().data.borrow_mut() = Data::default();
            self.state().replication.offset = 0;
        }
        self.dials(Manner::Accept);
        if let Some((of, _)) = self.following() {
            return self.replicate(&of);
        }
        self.become_a(Temper::Loading);
        let node = self.clone();
        spawn(async move {
            sleep(loading).await;
            let is_loading = node.state().temper == Temper::Loading;
            if is_loading && node.following().is_none() {
                node.become_a(Temper::Primary);
            }
        });
    }

    /// What has happened to what it had, in order.
    #[must_use]
    pub fn upheavals(&self) -> Vec<(Instant, Upheaval)> {
        self.state().replication.upheavals.clone()
    }

    /// How much has happened to it.
    #[must_use]
    pub fn upheaval_count(&self) -> usize {
        self.state().replication.upheavals.len()
    }

    fn note(&self, upheaval: Upheaval) {
        trace::note(|| format!("{} {upheaval:?} at {}", self.address(), self.offset()));
        let upheavals = &mut self.state().replication.upheavals;
        upheavals.push((Instant::now(), upheaval));
    }

    fn unfollow(&self) {
        if let Some(following) = self.state().replication.following.take() {
            following.over.cancel();
        }
    }

    async fn follow_on(&self, of: &HostPort) {
        loop {
            self.thawed().await;
            let dialler = self.network().dialler(&self.address().host);
            if let Ok(Ok(stream)) = timeout(REDIAL, dialler.connect(of)).await {
                let _lost = self.read_stream(stream).await;
            }
            self.set_linked(false);
            sleep(REDIAL).await;
        }
    }

    async fn read_stream(&self, mut stream: End) -> io::Result<()> {
        let mut out = BytesMut::new();
        write::command(&mut out, &[b"PSYNC", b"?", b"-1"]);
        stream.write_all(&out).await?;
        let mut input = BytesMut::new();
        let greeting = loop {
            if let Ok(Progress::Complete { used, .. }) = ReplyScan::default().feed(&input) {
                break input.split_to(used);
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let greeting = String::from_utf8_lossy(&greeting);
        let numbers = greeting.trim_end().strip_prefix("+FULLRESYNC ");
        let Some((number, offset)) = numbers.and_then(|rest| rest.split_once(' ')) else {
            return Ok(());
        };
        self.thawed().await;
        let snapshot = SNAPSHOTS
            .with_borrow_mut(|snapshots| snapshots.remove(&number.parse::<u64>().unwrap()))
            .expect("a snapshot is taken once");
        self.note(Upheaval::Loaded);
        *self.state().data.borrow_mut() = snapshot;
        self.state().replication.offset = offset.parse().unwrap();
        self.set_linked(true);
        self.acknowledge(&mut stream).await?;
        let mut scan = RequestScan::default();
        loop {
            while let Some(found) = scan
                .advance(&input, &RequestLimits::AUTHENTICATED)
                .expect("a primary writes RESP")
            {
                self.thawed().await;
                let frame = input.split_to(found.len).freeze();
                self.state().apply(&Command::new(frame, found));
                self.acknowledge(&mut stream).await?;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn acknowledge(&self, stream: &mut End) -> io::Result<()> {
        let mut out = BytesMut::new();
        let offset = self.offset().to_string();
        write::command(&mut out, &[b"REPLCONF", b"ACK", offset.as_bytes()]);
        stream.write_all(&out).await
    }

    fn set_linked(&self, linked: bool) {
        if let Some(following) = &mut self.state().replication.following {
            following.linked = linked;
        }
    }
}
