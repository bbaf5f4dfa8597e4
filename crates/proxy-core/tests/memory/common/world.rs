//! The whole proxy between plain clients and two fake nodes, on one runtime whose clock only moves while nobody has
//! anything to do.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::proto::MetricFamily;
use proxy_core::{
    ClientAuth, Departure, Entrant, Handle, Incoming, Listener, Opened, Opening, PasswordHash, ReadPolicy,
    SessionState, Settings, Upstream, User, build,
};
use sentinel_watcher::{
    BoxIo, Health, HealthFeed, HintReceiver, Phase, Primary, Replica, Shard, Suspicion, TopologyPublisher,
    hints, steering,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::sleep;

use testkit::sim::data::Data;
use testkit::sim::pipe::End;
use testkit::sim::task::{panics, spawn};

use super::client::Client;
use super::network::{Door, Network, WINDOW_BYTES};
use super::node::{Node, Temper};

/// How long commands are held in these worlds.
pub(crate) const HOLD: Duration = Duration::from_secs(10);

/// How long a test may take, in its world's time.
const LONGEST: Duration = Duration::from_secs(3600);

/// What a client that tracks in RESP3 is told when all that it caches may have changed.
pub(crate) const INVALIDATE_ALL: &str = ">[invalidate nil]";
/// What a write says when nobody knows what became of it, but for the node's address.
pub(crate) const UNKNOWN: &str = "-UNKNOWN outcome: the connection to ";
/// What becomes of a command that was held for so long.
pub(crate) const NO_PRIMARY: &str =
    "-MASTERDOWN no primary for \"m\" within 10s; the command was not executed";

/// Node `a` is the primary of a serving topology, `b` its replica, which has all that `a` has at once.
pub(crate) struct World {
    pub(crate) a: Node,
    pub(crate) b: Node,
    network: Network,
    doors: [Door; 4],
    handle: Handle,
    publisher: RefCell<TopologyPublisher>,
    shard: RefCell<Shard>,
    hints: RefCell<HintReceiver>,
    /// Sessions that the test has panic.
    doomed: Cell<u32>,
}

const POLICIES: [ReadPolicy; 4] = [
    ReadPolicy::Primary,
    ReadPolicy::PreferPrimary,
    ReadPolicy::Replica,
    ReadPolicy::PreferReplica,
];

/// Runs `test` in a world with the usual settings.
pub(crate) fn run(test: impl AsyncFnOnce(&World)) {
    run_with(|_| {}, test);
}

/// Runs `test` in a world whose settings `change` has had a hand in, and sees to it that nothing is left behind.
pub(crate) fn run_with(change: impl FnOnce(&mut Settings), test: impl AsyncFnOnce(&World)) {
    block_on(async {
        let world = World::start(settings(change));
        // The proxy is there before its topology is known.
        settle().await;
        world.serve(&world.a);
        settle().await;
        test(&world).await;
        world.is_tidy().await;
    });
}

/// slipring itself asks clients for this password, of the user `default`.
pub(crate) fn guard(settings: &mut Settings, password: &[u8]) {
    settings.client_auth = ClientAuth::Proxy;
    let user = User {
        passwords: vec![PasswordHash::of(password)],
        node: None,
    };
    assert!(settings.entry.users.add(b"default", user));
}

/// Runs `test` with a proxy that finds everything as `prepare` has left it, the topology published.
pub(crate) fn run_late(prepare: impl FnOnce(&World), test: impl AsyncFnOnce(&World)) {
    block_on(async {
        let world = World::start(settings(|_| {}));
        prepare(&world);
        world.serve(&world.a);
        settle().await;
        test(&world).await;
        world.is_tidy().await;
    });
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(LONGEST, test).await })
        .expect("the test ends");
}

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings {
        failover_hold_timeout: Some(HOLD),
        ..Settings::default()
    };
    change(&mut settings);
    settings
}

/// Lets everything that can happen now happen.
pub(crate) async fn settle() {
    sleep(Duration::from_millis(2)).await;
}

/// Lets everybody else who is ready go first.
async fn next_turn() {
    let mut waited = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::replace(&mut waited, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// A client's connection on its way.
struct Arrived(BoxIo);

impl Incoming for Arrived {
    fn open(self: Box<Self>, _: Duration) -> Opening {
        let opened = Opened {
            io: self.0,
            ends: None,
        };
        Box::pin(std::future::ready(Ok(opened)))
    }
}

/// A connection on which reading anything is a defect.
struct Doomed(BoxIo);

impl AsyncRead for Doomed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, buf));
        assert!(buf.filled().is_empty(), "a defect, on purpose");
        Poll::Ready(read)
    }
}

impl AsyncWrite for Doomed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

// === impl World ===

impl World {
    fn start(settings: Settings) -> Self {
        let network = Network::default();
        let data = Rc::new(RefCell::new(Data::default()));
        let node = |host: &str| {
            let address = format!("{host}:6379").parse().unwrap();
            Node::start(&network, address, Rc::clone(&data))
        };
        let (a, b) = (node("a"), node("b"));
        b.become_a(Temper::Replica);

        let (publisher, feed) = TopologyPublisher::new(Arc::from("m"));
        let (sender, hints) = hints();
        let upstream = Upstream {
            master: Arc::from("m"),
            feed,
            hints: sender,
            health: HealthFeed::fixed(Health::default()),
            steering: steering().0,
        };
        let doors: [Door; 4] = std::array::from_fn(|_| Door::new(&network));
        let listener = |(door, reads): (&Door, ReadPolicy)| Listener {
            listen: Box::new(door.clone()),
            upstream: 0,
            reads,
        };
        let listeners = doors.iter().zip(POLICIES).map(listener).collect();
        let dial = Arc::new(network.dialler("proxy"));
        let (workers, handle) = build(settings, vec![upstream], listeners, dial).unwrap();
        for worker in workers {
            spawn(worker.run());
        }
        Self {
            a,
            b,
            network,
            doors,
            handle,
            publisher: RefCell::new(publisher),
            shard: RefCell::new(Shard::unknown()),
            hints: RefCell::new(hints),
            doomed: Cell::default(),
        }
    }

    /// A client whose reads the primary answers.
    pub(crate) fn client(&self) -> Client {
        self.client_reading(ReadPolicy::Primary)
    }

    pub(crate) fn client_reading(&self, reads: ReadPolicy) -> Client {
        Client::new(self.socket(reads, WINDOW_BYTES))
    }

    /// A client that takes only `window` bytes it has not read yet.
    pub(crate) fn narrow_client(&self, window: usize) -> Client {
        Client::new(self.socket(ReadPolicy::Primary, window))
    }

    /// A client that comes from this address.
    pub(crate) fn client_from(&self, address: &str) -> Client {
        Client::new(self.doors[0].knock_from(address.parse().unwrap(), WINDOW_BYTES))
    }

    fn socket(&self, reads: ReadPolicy, window: usize) -> End {
        let at = POLICIES.iter().position(|policy| *policy == reads);
        self.doors[at.expect("a door for each")].knock(window)
    }

    /// Publishes `node` as primary in a term of its own, the other one as its usable replica.
    pub(crate) fn serve(&self, node: &Node) {
        self.serve_with(node, true);
    }

    /// Publishes `node` as primary in a term of its own, the other one as a replica that may or may not be read.
    pub(crate) fn serve_with(&self, node: &Node, usable: bool) {
        let term = self.publisher.borrow().next_epoch();
        let other = if node.address() == self.a.address() {
            &self.b
        } else {
            &self.a
        };
        let replica = Replica {
            address: other.address().clone(),
            usable,
            lag_bytes: None,
            priority: 100,
        };
        self.publish(Shard {
            phase: Phase::Serving,
            primary: Some(Primary {
                address: node.address().clone(),
                term,
            }),
            replicas: vec![replica],
            ..Shard::unknown()
        });
    }

    /// Publishes the same with another phase; in `Down` there is no primary.
    pub(crate) fn phase(&self, phase: Phase) {
        let mut shard = self.shard.borrow().clone();
        shard.phase = phase;
        if phase == Phase::Down {
            shard.primary = None;
        }
        self.publish(shard);
    }

    /// Publishes that the primary has no replica that may be read.
    pub(crate) fn without_replicas(&self) {
        self.replicas(false);
    }

    /// Publishes that the primary's replicas may be read.
    pub(crate) fn with_replicas(&self) {
        self.replicas(true);
    }

    fn replicas(&self, usable: bool) {
        let mut shard = self.shard.borrow().clone();
        shard
            .replicas
            .iter_mut()
            .for_each(|replica| replica.usable = usable);
        self.publish(shard);
    }

    /// Publishes that the primary has no replica at all.
    pub(crate) fn alone(&self) {
        let mut shard = self.shard.borrow().clone();
        shard.replicas.clear();
        self.publish(shard);
    }

    /// A first sign of a failover.
    pub(crate) fn moving(&self) {
        self.phase(Phase::Moving);
    }

    /// `b` becomes the primary, with keys of its own from here on, and is published.
    pub(crate) fn switch(&self) {
        self.b.part();
        self.b.become_a(Temper::Primary);
        self.serve(&self.b);
    }

    fn publish(&self, shard: Shard) {
        *self.shard.borrow_mut() = shard.clone();
        self.publisher.borrow_mut().publish(shard);
    }

    /// Connections to nodes carry so much from now on before any of it is read.
    pub(crate) fn widen(&self, window: usize) {
        self.network.widen(window);
    }

    /// Has `client` track in RESP3, and what it is told go to the client `id`, which the node must be able to find.
    pub(crate) async fn redirect(&self, client: &mut Client, id: &str) {
        client.send("HELLO 3").await;
        client.reply().await;
        assert_eq!(
            client.ask(&format!("CLIENT TRACKING ON REDIRECT {id}")).await,
            "+OK"
        );
        let asked = self.a.received("CLIENT TRACKING ON REDIRECT");
        assert!(!asked[0].text.contains(&i64::MAX.to_string()), "{asked:?}");
    }

    /// How often the proxy has written to `host`.
    pub(crate) fn writes_to(&self, host: &str) -> u64 {
        self.network.writes("proxy", host)
    }

    /// The most that is read from `side` within what happens now before somebody else has a turn.
    pub(crate) async fn most_in_a_turn(&self, side: &'static str) -> f64 {
        let metrics = self.handle.metrics();
        let received = move || {
            let families = metrics.gather();
            let family = families
                .iter()
                .find(|family| family.name() == "slipring_received_bytes_total");
            family.map_or(0.0, |family| sum(family, side))
        };
        let (mut most, mut before) = (0.0_f64, received());
        let (sender, told) = oneshot::channel();
        spawn(async move {
            for _ in 0..400 {
                next_turn().await;
                let now = received();
                most = most.max(now - before);
                before = now;
            }
            let _ = sender.send(most);
        });
        told.await.unwrap()
    }

    /// What has been suspected since this was asked last.
    pub(crate) fn suspicions(&self) -> Vec<Suspicion> {
        let hints = &mut *self.hints.borrow_mut();
        std::iter::from_fn(|| hints.try_recv().ok())
            .map(|hint| hint.suspicion)
            .collect()
    }

    /// Has every session leave that can within a second, and come back as to another process. How many did.
    pub(crate) async fn upgrade(&self) -> usize {
        let mut departures = self.handle.passage().leave(|_| true).await;
        let mut moved = Vec::new();
        sleep(Duration::from_secs(1)).await;
        while let Ok(departure) = departures.try_recv() {
            moved.push(departure);
            settle().await;
        }
        self.handle.passage().stay().await;
        let count = moved.len();
        for departure in moved {
            self.adopt(departure, |io| io).await;
        }
        settle().await;
        count
    }

    async fn adopt(&self, Departure { state, io }: Departure, change: impl FnOnce(BoxIo) -> BoxIo) {
        let entrant = Entrant {
            state: SessionState::decode(&state).unwrap(),
            socket: Box::new(Arrived(change(io))),
            descriptor: 99,
        };
        assert!(self.handle.passage().adopt(entrant).await);
    }

    /// Has the session of the client with this name panic at the next thing that the client says.
    pub(crate) async fn doom(&self, name: &str) {
        let mut departures = self.handle.passage().leave(|_| true).await;
        settle().await;
        let mut all = Vec::new();
        while let Ok(departure) = departures.try_recv() {
            all.push(departure);
            settle().await;
        }
        self.handle.passage().stay().await;
        for departure in all {
            let is_meant = departure
                .state
                .windows(name.len())
                .any(|part| part == name.as_bytes());
            self.doomed.set(self.doomed.get() + u32::from(is_meant));
            let doom = |io| -> BoxIo { if is_meant { Box::new(Doomed(io)) } else { io } };
            self.adopt(departure, doom).await;
        }
        settle().await;
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The sum of a counter's or gauge's rows of which some label has the value `label`; of all rows where `label`
    /// is empty.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.handle.metrics().gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0.0, |family| sum(family, label))
    }

    /// Once all clients are gone, nothing of them is left: no session, nothing held, no protocol broken, no panic.
    async fn is_tidy(&self) {
        self.a.thaw();
        self.b.thaw();
        sleep(Duration::from_secs(30)).await;
        assert_eq!(panics(), self.doomed.get(), "the world itself is broken");
        assert_eq!(self.handle.clients(), 0, "sessions outlive their clients");
        let panicked = self.metric("slipring_session_panics_total", "");
        assert_eq!(panicked, f64::from(self.doomed.get()));
        assert_eq!(self.metric("slipring_held_commands", ""), 0.0);
        assert_eq!(self.metric("slipring_held_bytes", ""), 0.0);
        for node in [&self.a, &self.b] {
            assert_eq!(node.complaints(), Vec::<String>::new());
            assert_eq!(
                node.blocked(),
                0,
                "somebody is still blocked on {}",
                node.address()
            );
            assert_eq!(
                node.subscribers(),
                0,
                "somebody is still subscribed to {}",
                node.address()
            );
        }
    }
}

fn sum(family: &MetricFamily, label: &str) -> f64 {
    let rows = family
        .get_metric()
        .iter()
        .filter(|row| label.is_empty() || row.get_label().iter().any(|pair| pair.value() == label));
    // Of a histogram, how often.
    rows.map(|row| {
        let times = row.get_histogram().get_sample_count() as f64;
        row.get_counter().get_value() + row.get_gauge().get_value() + times
    })
    .sum()
}
