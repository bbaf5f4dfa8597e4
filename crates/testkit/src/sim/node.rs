//! A fake Redis: honest about what it refuses, when it executes and what a lost connection means; and told by the
//! test when to fail.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use resp_codec::Command;
use sentinel_watcher::HostPort;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::commands::Answer;
use super::connection;
use super::data::Data;
use super::network::{Manner, Network};
use super::replication::Replication;
use super::reply::show;
use super::state::{Connection, Out, Rule, State, Step, Waiter};

pub use super::state::Line;
use super::task::spawn;

/// One process. Cheap to clone.
#[derive(Clone)]
pub struct Node(Rc<Process>);

struct Process {
    address: HostPort,
    network: Network,
    state: RefCell<State>,
    frozen: watch::Sender<bool>,
    /// How long a command travels, and how long its reply.
    latency: Cell<(Duration, Duration)>,
}

/// What it takes from its clients now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// Takes everything.
    Primary,
    /// Refuses writes.
    Replica,
    /// Refuses nearly everything.
    Loading,
    /// A replica that lost its primary and serves no stale data.
    MasterDown,
    /// A primary that lacks replicas: refuses writes.
    NoReplicas,
}

/// What happens to a command that a script names.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection breaks and the command is not executed.
    CutBefore,
    /// It is executed, and the connection breaks before its reply.
    CutAfter,
    /// It is executed, and the connection breaks after so many bytes of its reply.
    CutWithin(usize),
    /// This is answered in its place.
    Answer(&'static str),
    /// It is executed so much later, with everything behind it.
    Delay(Duration),
    /// Nothing is executed on this connection any more, and nothing answered.
    Hang,
}

// === impl Node ===

impl Node {
    /// Starts it, as a primary, on `data`.
    pub fn start(network: &Network, address: HostPort, data: Rc<RefCell<Data>>) -> Self {
        let mut accepted = network.open(&address);
        let state = State {
            data,
            temper: Temper::Primary,
            users: BTreeMap::new(),
            connections: BTreeMap::new(),
            waiters: Vec::new(),
            executed: Vec::new(),
            received: Vec::new(),
            frames: Vec::new(),
            rules: Vec::new(),
            opened: 0,
            replication: Replication::default(),
            complaints: Vec::new(),
        };
        let node = Self(Rc::new(Process {
            address,
            network: network.clone(),
            state: RefCell::new(state),
            frozen: watch::Sender::new(false),
            latency: Cell::default(),
        }));
        let accepting = node.clone();
        spawn(async move {
            while let Some(stream) = accepted.recv().await {
                spawn(connection::serve(accepting.clone(), stream));
            }
        });
        node
    }

    /// Where it listens.
    pub fn address(&self) -> &HostPort {
        &self.0.address
    }

    /// The next command whose words start with `prefix` meets `fault`.
    pub fn once(&self, prefix: &str, fault: Fault) {
        self.rule(prefix, fault, 1);
    }

    /// Every command whose words start with `prefix` meets `fault`, until [`Self::forgive`].
    pub fn always(&self, prefix: &str, fault: Fault) {
        self.rule(prefix, fault, usize::MAX);
    }

    /// No command meets a fault any more.
    pub fn forgive(&self) {
        self.state().rules.clear();
    }

    fn rule(&self, prefix: &str, fault: Fault, times: usize) {
        let prefix = prefix.to_owned();
        self.state().rules.push(Rule { prefix, fault, times });
    }

    /// Makes it primary, replica, or neither yet. A primary that is demoted lets blocked clients go, as Redis does.
    pub fn become_a(&self, temper: Temper) {
        self.state().temper = temper;
        if temper == Temper::Replica {
            for waiter in std::mem::take(&mut self.state().waiters) {
                let _ = waiter.reply.send(Bytes::from_static(
                    b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n",
                ));
            }
        }
    }

    /// From here on its keys are its own: what it is told is not replicated any more.
    pub fn part(&self) {
        let copy = self.state().data.borrow().clone();
        self.state().data = Rc::new(RefCell::new(copy));
    }

    /// It becomes a replica of `primary`, and has all that that has at once.
    pub fn follow(&self, primary: &Self) {
        let data = Rc::clone(&primary.state().data);
        self.state().data = data;
        self.become_a(Temper::Replica);
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.state()
            .connections
            .values()
            .for_each(|connection| connection.cut.cancel());
    }

    /// The process dies.
    pub fn kill(&self) {
        self.dials(Manner::Refuse);
        self.cut();
    }

    /// What becomes of dials.
    pub fn dials(&self, manner: Manner) {
        self.0.network.set(&self.0.address, manner);
    }

    /// SIGSTOP: connections are taken, bytes are taken, nothing happens.
    pub fn freeze(&self) {
        self.0.frozen.send_replace(true);
    }

    /// SIGCONT: what has come meanwhile is executed.
    pub fn thaw(&self) {
        self.0.frozen.send_replace(false);
    }

    /// The process is there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.network.is_open(&self.0.address)
    }

    /// It reads its data set.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.state().temper == Temper::Loading
    }

    /// It is there, and not stopped.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.is_open() && !*self.0.frozen.borrow()
    }

    /// How long commands travel, and how long replies.
    pub fn latency(&self, there: Duration, back: Duration) {
        self.0.latency.set((there, back));
    }

    /// From here on `user` has a password; "default" has none until then.
    pub fn require(&self, user: &str, password: &str) {
        self.state().users.insert(user.to_owned(), password.to_owned());
    }

    /// From here on "default" has no password.
    pub fn require_nothing(&self) {
        self.state().users.remove("default");
    }

    /// Commands that came and start with `prefix`.
    pub fn received(&self, prefix: &str) -> Vec<Line> {
        lines(&self.state().received, prefix)
    }

    /// Every command as its bytes came.
    pub fn frames(&self) -> Vec<Bytes> {
        self.state().frames.clone()
    }

    /// Commands that were executed and start with `prefix`.
    pub fn executed(&self, prefix: &str) -> Vec<Line> {
        lines(&self.state().executed, prefix)
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.state().opened
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.state().connections.len()
    }

    /// Clients blocked now.
    pub fn blocked(&self) -> usize {
        self.state().waiters.len()
    }

    /// Clients subscribed now.
    pub fn subscribers(&self) -> usize {
        let state = self.state();
        let all = state.connections.values();
        all.filter(|connection| connection.is_subscribed()).count()
    }

    /// What its clients did that no client may do.
    pub fn complaints(&self) -> Vec<String> {
        self.state().complaints.clone()
    }

    /// What a key of database 0 holds, where that is text.
    pub fn text(&self, key: &str) -> Option<String> {
        let text = self.state().data.borrow().text(0, key)?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// What a key of database 0 holds, where that is a list.
    pub fn list(&self, key: &str) -> Vec<String> {
        let list = self.state().data.borrow().list(0, key);
        list.iter()
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// Puts a text into database 0.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.state().data.borrow_mut().set(0, key, value);
    }

    /// Somebody else's command, over a connection that is not the proxy's.
    pub fn run(&self, line: &str) -> String {
        let mut args = line
            .split_whitespace()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()));
        let args: Vec<Bytes> = args.by_ref().collect();
        let reply = {
            let state = &mut *self.state();
            let reply = state.data.borrow_mut().apply(0, false, &args);
            state.serve_waiters();
            reply
        };
        show(&reply.expect("a command upon keys"))
    }

    pub(super) fn network(&self) -> &Network {
        &self.0.network
    }

    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.0.state.borrow_mut()
    }

    pub(super) fn travel(&self) -> Duration {
        self.0.latency.get().0
    }

    pub(super) async fn thawed(&self) {
        let mut frozen = self.0.frozen.subscribe();
        let _ = frozen.wait_for(|frozen| !frozen).await;
    }

    pub(super) fn admit(&self, out: mpsc::UnboundedSender<Out>, cut: CancellationToken) -> u64 {
        let state = &mut *self.state();
        state.opened += 1;
        let user = (!state.users.contains_key("default")).then(|| "default".to_owned());
        let connection = Connection {
            user,
            db: 0,
            resp3: false,
            queue: None,
            spoiled: false,
            watched: Vec::new(),
            owner: None,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            tracked: None,
            written: 0,
            acknowledged: 0,
            out,
            cut,
        };
        state.connections.insert(state.opened, connection);
        state.opened
    }

    pub(super) fn dismiss(&self, id: u64) {
        let state = &mut *self.state();
        state.connections.remove(&id);
        state.dismiss_replica(id);
        state.waiters.retain(|waiter| waiter.connection != id);
    }

    pub(super) fn complain(&self, complaint: String) {
        self.state().complaints.push(complaint);
    }

    /// A command that has just come.
    pub(super) fn take(&self, id: u64, command: &Command<Bytes>) -> Step {
        let args: Vec<_> = command.args().map(Bytes::copy_from_slice).collect();
        let fault = {
            let state = &mut *self.state();
            let line = state.line(id, &args);
            let fault = state.fault(&line.text);
            state.received.push(line);
            state.frames.push(command.frame().clone());
            fault
        };
        match fault {
            None => self.answer(id, &args),
            Some(Fault::CutBefore) => {
                self.send(id, Out::Close);
                Step::Never
            }
            Some(Fault::CutAfter) => {
                drop(self.state().execute(id, &args));
                self.send(id, Out::Close);
                Step::Never
            }
            Some(Fault::CutWithin(bytes)) => {
                let answer = self.state().execute(id, &args);
                if let Answer::Reply(reply) = answer {
                    self.reply(id, reply.freeze().slice(..bytes));
                }
                self.send(id, Out::Close);
                Step::Never
            }
            Some(Fault::Answer(reply)) => {
                self.reply(id, Bytes::from_static(reply.as_bytes()));
                Step::Next
            }
            Some(Fault::Delay(delay)) => Step::Later(delay, args),
            Some(Fault::Hang) => Step::Never,
        }
    }

    /// Executes a command and answers it.
    pub(super) fn answer(&self, id: u64, args: &[Bytes]) -> Step {
        let answer = self.state().execute(id, args);
        match answer {
            Answer::Reply(reply) => {
                self.reply(id, reply.freeze());
                Step::Next
            }
            Answer::Block { wish, until, none } => {
                let (reply, answered) = oneshot::channel();
                let state = &mut *self.state();
                let text = state.line(id, args).text;
                state.waiters.push(Waiter {
                    connection: id,
                    text,
                    wish,
                    none: none.clone(),
                    reply,
                });
                Step::Blocked(answered, until, none)
            }
            Answer::Close => {
                self.reply(id, Bytes::from_static(b"+OK\r\n"));
                self.send(id, Out::Close);
                Step::Never
            }
        }
    }

    pub(super) fn reply(&self, id: u64, bytes: Bytes) {
        let due = Instant::now() + self.0.latency.get().1;
        self.send(id, Out::Bytes(bytes, due));
    }

    pub(super) fn stop_waiting(&self, id: u64) {
        self.state().waiters.retain(|waiter| waiter.connection != id);
    }

    fn send(&self, id: u64, out: Out) {
        if let Some(connection) = self.state().connections.get(&id) {
            let _ = connection.out.send(out);
        }
    }
}

fn lines(all: &[Line], prefix: &str) -> Vec<Line> {
    all.iter()
        .filter(|line| line.text.starts_with(prefix))
        .cloned()
        .collect()
}
