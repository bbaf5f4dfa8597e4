//! A plain server and slipring before its like, side by side: the same scenario on both, step by step.
//!
//! ```text
//!   scenario ─step─┬─> plain server            first: what it answers, and whom, is what must come
//!                  └─> slipring ─> primary     then: until as many frames have come, or too long has passed
//! ```
//! Between two steps both sides have come to rest: all answers are there, and as many clients are blocked or subscribed
//! on both nodes. So what differs is slipring's doing, not chance.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::{Client, Cluster, Flavor, Login, Node, Proxy};

use super::compare::{comparable, shown};
use super::exceptions::Exceptions;
use super::scenario::{Act, Scenario, Step};
use super::side::{Peer, Side};

/// So long may slipring be late with what the plain server has said, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);

/// So long may the node behind slipring take to look like the plain one. Not all that differs is a fault.
const TRACES: Duration = Duration::from_millis(200);

/// After so many faults there is no point in waiting for more.
const FAULTS: usize = 5;

/// A script that runs longer lets others in, who are told that the node is busy.
const SCRIPTS_MS: u64 = 100;

/// Where a client is answered nothing, what comes later than this is not seen.
const LATE: Duration = Duration::from_millis(2);

/// What both servers are told between two scenarios, in one write.
const AS_NEW: &[&[&str]] = &[
    &["DEBUG", "DIGEST"],
    &["FLUSHALL"],
    &["ACL", "LOG", "RESET"],
    &["SLOWLOG", "RESET"],
];

/// The same behind a scenario with scripts: an interpreter that is made anew takes its time.
const WITHOUT_SCRIPTS: &[&[&str]] = &[&["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]];

/// Both worlds, running.
pub(crate) struct Duel {
    plain: Side,
    proxied: Side,
    pub(crate) proxy: Proxy,
    pub(crate) plain_node: Node,
    pub(crate) flavor: Flavor,
    /// Subscribers share connections.
    sharing: bool,
    /// How long slipring may be late.
    patience: Duration,
    /// Sentinel subscribes to its channel on the node that it watches: here somebody does so on the plain one.
    _sentinels_like: Client,
    _cluster: Cluster,
}

/// Who may enter, and how.
pub(crate) enum Doors {
    Open,
    /// With this password.
    Locked(&'static str),
    /// Whoever comes; who subscribes shares a connection with others who do.
    Sharing,
}

// === impl Duel ===

impl Duel {
    /// Starts all of it.
    pub(crate) fn start(flavor: Flavor, doors: &Doors) -> Result<Self> {
        let scripts = format!("lua-time-limit {SCRIPTS_MS}");
        let mut builder = Cluster::builder(flavor)
            .nodes(1)
            .sentinels(1)
            // Scripts and pauses that keep a node from answering are no reason to fail over.
            .down_after(Duration::from_secs(60))
            .node_config(&scripts);
        let mut plain = Node::builder(flavor.server()?).config(&scripts);
        let mut proxy = Proxy::builder(env!("CARGO_BIN_EXE_slipring"));
        match doors {
            Doors::Open => {}
            Doors::Locked(password) => {
                let login = Login {
                    user: None,
                    password: (*password).to_owned(),
                };
                builder = builder.node_login(login.clone());
                plain = plain.login(Some(login));
                proxy = proxy.flag("--password", password);
            }
            // One worker: it is no chance how many the node counts.
            Doors::Sharing => {
                proxy = proxy
                    .env("SLIPRING_SHARE_SUBSCRIPTIONS", "true")
                    .flag("--workers", "1");
            }
        }
        // Side by side as they come, or each beside another worker's: it must not matter.
        if flavor == Flavor::Valkey {
            proxy = proxy.flag("--spread-after", "1");
        }
        let (plain, cluster) = (plain.start()?, builder.start()?);
        let proxy = proxy.sentinels(&cluster).start()?;
        let mut sentinels_like = plain.client()?;
        sentinels_like.command(&["SUBSCRIBE", "__sentinel__:hello"])?;
        let primary = &cluster.shards[0].nodes[0];
        Ok(Self {
            plain: Side::new(plain.address(), &plain)?,
            proxied: Side::new(proxy.address(), primary)?,
            proxy,
            plain_node: plain,
            flavor,
            sharing: matches!(doors, Doors::Sharing),
            patience: PATIENCE,
            _sentinels_like: sentinels_like,
            _cluster: cluster,
        })
    }

    /// Plays it on both sides: what differs, if anything does.
    pub(crate) fn play(&mut self, scenario: &Scenario) -> Result<Option<String>> {
        let difference = self
            .play_steps(scenario)
            .with_context(|| format!("in the midst of\n{scenario}"))?;
        let left = self.clear(scenario)?;
        Ok(difference.or(left))
    }

    /// From now on slipring may be no later than this.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    fn play_steps(&mut self, scenario: &Scenario) -> Result<Option<String>> {
        self.plain.begin(scenario);
        self.proxied.begin(scenario);
        if std::env::var_os("DIFFERENTIAL_TRACE").is_some() {
            println!("{}", scenario.name);
        }
        for (index, step) in scenario.steps.iter().enumerate() {
            let difference = match step {
                Step::Wait(time) => {
                    sleep(*time);
                    self.plain.settle(0)?;
                    self.differ(scenario)?
                }
                Step::Client(name, act) => {
                    self.step(*name, act)?;
                    self.differ(scenario)?
                }
            };
            if let Some(difference) = difference {
                return Ok(Some(format!("at step {}, {step}\n{difference}", index + 1)));
            }
        }
        Ok(self
            .last_words(scenario)?
            .map(|late| format!("at the end\n{late}")))
    }

    fn step(&mut self, name: char, act: &Act) -> Result<()> {
        let sent = self.plain.act(name, act)?;
        if let Act::Read(count) = act {
            self.plain
                .read_until(PATIENCE, |side| side.heard(name) >= *count)?;
        }
        self.plain.settle(sent)?;
        self.proxied.act(name, act)?;
        Ok(())
    }

    /// Each client that is still there says PING, twice: replies too many, and replies withheld, show before its answers,
    /// and so does what comes a little late. Where no answer is due, a moment must do.
    fn last_words(&mut self, scenario: &Scenario) -> Result<Option<String>> {
        for _ in 0..2 {
            for name in scenario.clients() {
                let there = self.plain.peers.get(&name).is_some_and(|peer| !peer.ended);
                if there {
                    self.step(name, &Act::Say("PING".to_owned()))?;
                }
            }
            if let Some(difference) = self.differ(scenario)? {
                return Ok(Some(difference));
            }
        }
        let peers = &self.plain.peers;
        let silent = |(name, peer): (&char, &Peer)| !peer.ended && self.plain.heard(*name) == 0;
        if !peers.iter().any(silent) {
            return Ok(None);
        }
        self.proxied.read_until(LATE, |_| false)?;
        self.differ(scenario)
    }

    /// Waits until slipring's clients have got as much as the plain server's, and compares.
    fn differ(&mut self, scenario: &Scenario) -> Result<Option<String>> {
        let plain = &mut self.plain;
        self.proxied.read_until(self.patience, |proxied| {
            // Timeouts end on either side first.
            let mut missing = plain.read_all().is_err();
            let mut differs = false;
            for (name, want) in &plain.peers {
                let got = proxied
                    .peers
                    .get_mut(name)
                    .expect("both sides have the same clients");
                match compare(want, got, scenario) {
                    Verdict::Same => {}
                    Verdict::Unfinished => missing = true,
                    Verdict::Different => differs = true,
                }
            }
            differs || !missing
        })?;
        let proxied = &mut self.proxied.peers;
        let mut differences = Vec::new();
        for (name, want) in &self.plain.peers {
            let got = proxied.get_mut(name).expect("both sides have the same clients");
            if compare(want, got, scenario) != Verdict::Same {
                differences.push(difference(*name, want, got, scenario));
            }
        }
        if !differences.is_empty() {
            return Ok(Some(differences.join("\n")));
        }
        let mut names = self.plain.peers.keys();
        if self.plain.peers.len() == 1 && names.all(|name| self.plain.heard(*name) > 0) {
            // Alone, and answered: it waits for nobody.
            return Ok(None);
        }
        // Whoever speaks next must find the others where they are on the plain server. Who blocks is told nothing, so
        // the nodes alone can say that it has come to that.
        let patience = self.patience;
        let unlike = self.unlike_traces(|blocks| if blocks { patience } else { TRACES })?;
        Ok(unlike.filter(|unlike| unlike.blocks).map(|unlike| unlike.shown))
    }

    /// Waits until both nodes have as many blocked and subscribed clients, for as long as `patience` says of what
    /// differs: what does in the end.
    fn unlike_traces(&mut self, patience: impl Fn(bool) -> Duration) -> Result<Option<Unlike>> {
        let started = Instant::now();
        loop {
            // What ends by itself ends on either node first.
            let (plain, proxied) = (self.plain.traces()?, self.proxied.traces()?);
            if plain == proxied {
                return Ok(None);
            }
            let blocks = plain.blocked != proxied.blocked;
            if started.elapsed() >= patience(blocks) {
                let shown = format!("  the nodes have\n    plain:    {plain:?}\n    slipring: {proxied:?}");
                return Ok(Some(Unlike { blocks, shown }));
            }
            sleep(Duration::from_micros(500));
        }
    }

    /// All clients hang up; what they leave behind is a difference, too. Then both servers are as new.
    fn clear(&mut self, scenario: &Scenario) -> Result<Option<String>> {
        let nobody = Scenario::default();
        self.plain.begin(&nobody);
        self.proxied.begin(&nobody);
        self.plain.settle(0)?;
        let mut left = None;
        let patience = self.patience;
        if let Some(unlike) = self.unlike_traces(|_| patience)? {
            left = Some(format!("its clients have gone\n{}", unlike.shown));
            // What comes next shall not suffer for it.
            self.proxied.tell_node(&[
                &["SCRIPT", "KILL"],
                &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
            ])?;
            self.unlike_traces(|_| PATIENCE)?;
        }
        let scripts: &[&[&str]] = if scenario.has_scripts() {
            WITHOUT_SCRIPTS
        } else {
            &[]
        };
        let orders = [AS_NEW, scripts].concat();
        let (want, got) = (self.plain.tell_node(&orders)?, self.proxied.tell_node(&orders)?);
        if want != got {
            left = Some(format!(
                "the keys differ\n    plain:    {want:?}\n    slipring: {got:?}"
            ));
        }
        Ok(left)
    }
}

/// How the nodes differ.
struct Unlike {
    /// In who is blocked, or cannot be asked.
    blocks: bool,
    shown: String,
}

/// What comparing two clients' stories came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    /// What both have is the same, and one has more.
    Unfinished,
    Different,
}

fn compare(want: &Peer, got: &mut Peer, scenario: &Scenario) -> Verdict {
    while let (Some(want), Some(new)) = (want.frames.get(got.matched), got.frames.get(got.matched)) {
        if comparable(want, scenario) != comparable(new, scenario) {
            return Verdict::Different;
        }
        got.matched += 1;
    }
    let whole = got.frames.len() == want.frames.len() && got.rest() == want.rest() && got.ended == want.ended;
    if whole { Verdict::Same } else { Verdict::Unfinished }
}

/// Where the two part, for a reader.
fn difference(name: char, want: &Peer, got: &Peer, scenario: &Scenario) -> String {
    let tail = |peer: &Peer| {
        let frames = peer.frames.iter().skip(got.matched).take(6);
        let mut lines: Vec<String> = frames.map(|frame| comparable(frame, scenario)).collect();
        lines.extend((!peer.rest().is_empty()).then(|| shown(peer.rest())));
        lines.extend(peer.ended.then(|| "(closed)".to_owned()));
        lines.join("\n              ")
    };
    format!(
        "  {name}, after {} replies\n    plain:    {}\n    slipring: {}",
        got.matched,
        tail(want),
        tail(got)
    )
}

/// Plays them all: none may differ but what the exceptions name, and that must.
pub(crate) fn play_all(duel: &mut Duel, scenarios: &[Scenario]) -> Result<()> {
    let only = std::env::var("DIFFERENTIAL_ONLY").unwrap_or_default();
    let mut exceptions = Exceptions::read(duel.flavor, duel.sharing)?;
    let mut faults = Vec::new();
    let mut played = 0;
    for scenario in scenarios {
        let elsewhere = scenario.only.is_some_and(|flavor| flavor != duel.flavor);
        if elsewhere || !scenario.name.contains(&only) {
            continue;
        }
        played += 1;
        // What may differ need not be waited for.
        let may = exceptions.allow(&scenario.name, false);
        duel.patience = if may { PATIENCE / 20 } else { PATIENCE };
        let difference = duel.play(scenario)?;
        if !exceptions.allow(&scenario.name, difference.is_some())
            && let Some(difference) = difference
        {
            println!("{scenario}{difference}\n");
            faults.push(scenario.name.clone());
            if faults.len() == FAULTS {
                println!("what comes behind is not played");
                break;
            }
        }
    }
    if faults.len() < FAULTS {
        faults.extend(exceptions.rotten());
    }
    println!("{played} scenarios, {} faults", faults.len());
    let panics = duel.proxy.metric("slipring_session_panics_total", &[])?;
    ensure!(panics == 0.0, "{panics} sessions panicked");
    ensure!(
        faults.is_empty(),
        "{} of {played} scenarios differ:\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}
