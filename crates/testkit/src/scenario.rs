//! The scenarios that slipring promises something about: each breaks something under a load of plain clients, and tells
//! what they got. Counts are for tests; times are for a calm machine.

mod acts;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::load::{History, Hold, Load, Outcome, Verdict};
use crate::proxy::{Proxy, ProxyBuilder};
use crate::servers::{Cluster, ClusterBuilder, Flavor, Login, Node};

/// What happens to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// SENTINEL FAILOVER.
    Planned,
    /// Ten of them, one behind the other.
    TenPlanned,
    /// kill -9 of the primary.
    Kill,
    /// The primary freezes, is replaced, and thaws.
    Freeze,
    /// The primary is cut off from sentinels, replicas and us, and slipring still reaches it.
    Partition,
    /// A replica that is read dies, and comes back.
    ReplicaKilled,
    /// The leading sentinel dies when it has promoted the candidate, and told nobody.
    LeaderKilled,
    /// One, two and all sentinels go and come back, one freezes; then a planned failover.
    SentinelsLost,
    /// The only node is restarted, and has much to load.
    Loading,
    /// slipring is there first.
    BeforeCluster,
    /// Commands are executed and their replies destroyed, five times with 35 in flight.
    RepliesDestroyed,
}

/// Before what, and with what.
#[derive(Clone, Debug)]
pub struct Lab {
    /// slipring.
    pub program: PathBuf,
    /// Before which servers.
    pub flavor: Flavor,
    /// What nodes and sentinels ask for.
    pub login: Option<Login>,
    /// The sentinels' down-after.
    pub down_after: Duration,
}

/// What clients got.
#[derive(Debug)]
pub struct Told {
    /// Of what.
    pub scenario: Scenario,
    /// Operations that ended.
    pub operations: usize,
    /// Error replies, the unknown outcomes aside, by text.
    pub errors: Vec<String>,
    /// Unknown outcomes.
    pub unknown: usize,
    /// Connections lost.
    pub dropped: usize,
    /// Acknowledged writes that are not there, and were sent when commands waited already.
    pub lost_after_hold: usize,
    /// All acknowledged writes that are not there: what Redis had not replicated when it broke.
    pub lost: usize,
    /// The longest time without any write that stayed.
    pub gap: Duration,
    /// From the break to the promotion, where that is what clients wait for.
    pub promotion: Option<Duration>,
    /// What was promised and not kept, times aside.
    pub broken: Vec<String>,
}

/// What an act did, for the judgement.
struct Act {
    began: Instant,
    /// When something broke: it was whole before the first, and broken after the second moment.
    broke: Option<[Instant; 2]>,
    promoted: Option<Instant>,
    /// Reads may be older than the client's own writes.
    stale: bool,
    /// Commands that were in flight may have been executed or not.
    in_doubt: bool,
}

/// A cluster and slipring before it.
struct Stage {
    lab: Lab,
    cluster: Cluster,
    proxy: Proxy,
}

/// How long clients may be without a write that stayed: after the promotion or, without one, in all.
const fn allowed(scenario: Scenario) -> Option<Duration> {
    match scenario {
        Scenario::Kill | Scenario::Freeze => Some(Duration::from_millis(100)),
        // The node is made to sleep.
        Scenario::RepliesDestroyed => None,
        _ => Some(Duration::from_millis(250)),
    }
}

// === impl Scenario ===

impl Scenario {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Planned,
        Self::TenPlanned,
        Self::Kill,
        Self::Freeze,
        Self::Partition,
        Self::ReplicaKilled,
        Self::LeaderKilled,
        Self::SentinelsLost,
        Self::Loading,
        Self::BeforeCluster,
        Self::RepliesDestroyed,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned failover",
            Self::TenPlanned => "ten planned in a row",
            Self::Kill => "kill -9",
            Self::Freeze => "SIGSTOP, then SIGCONT",
            Self::Partition => "primary cut off, not from slipring",
            Self::ReplicaKilled => "replica killed, --read-policy replica",
            Self::LeaderKilled => "leader killed before it announces",
            Self::SentinelsLost => "sentinels gone and back, one hung",
            Self::Loading => "only node restarted, LOADING",
            Self::BeforeCluster => "slipring before the cluster",
            Self::RepliesDestroyed => "replies destroyed, 35 in flight, x5",
        }
    }

    /// Whether it can be played here: under CI it must.
    ///
    /// # Errors
    /// Under CI, when it cannot.
    pub fn runs_here(self) -> Result<bool> {
        match self {
            Self::Partition => crate::netns::are_possible(),
            _ => Ok(true),
        }
    }

    /// Plays it.
    ///
    /// # Errors
    /// When it could not be played, which tells nothing of what is promised.
    pub fn play(self, lab: &Lab) -> Result<Told> {
        acts::play(self, lab).with_context(|| self.name())
    }
}

// === impl Lab ===

impl Lab {
    fn cluster(&self) -> ClusterBuilder {
        let builder = Cluster::builder(self.flavor).down_after(self.down_after);
        match &self.login {
            Some(login) => builder.node_login(login.clone()).sentinel_login(login.clone()),
            None => builder,
        }
    }

    fn proxy(&self) -> ProxyBuilder {
        let builder = Proxy::builder(&self.program);
        match &self.login {
            Some(login) => builder
                .flag("--password", &login.password)
                .flag("--sentinel-password", &login.password),
            None => builder,
        }
    }
}

// === impl Stage ===

impl Stage {
    fn set(lab: &Lab) -> Result<Self> {
        let cluster = lab.cluster().start()?;
        let proxy = lab.proxy().sentinels(&cluster).start()?;
        Ok(Self {
            lab: lab.clone(),
            cluster,
            proxy,
        })
    }

    fn load(&self) -> Result<Load> {
        Load::builder(self.proxy.address())
            .clients(32)
            .login(self.lab.login.clone())
            .start()
    }

    fn judge(&self, scenario: Scenario, load: Load, act: &Act, last: &Node) -> Result<Told> {
        let history = load.finish();
        let verdict = history.verify(&mut last.client()?)?;
        Ok(judge(scenario, &history, &verdict, act, &self.proxy.holds()?))
    }
}

fn judge(scenario: Scenario, history: &History, verdict: &Verdict, act: &Act, holds: &[Hold]) -> Told {
    let all = history.phase(verdict, act.began, history.ended);
    let behind = history.lost_behind(verdict, holds);
    let stale = history.stale_reads(verdict);
    let errors = all.errors.iter().map(|(text, times)| format!("{times} x {text}"));
    let mut told = Told {
        scenario,
        operations: all.operations,
        errors: errors.collect(),
        unknown: all.unknown_count(),
        dropped: all.dropped,
        lost_after_hold: behind.len(),
        lost: verdict.lost.len(),
        gap: all.longest_pause,
        promotion: act
            .promoted
            .zip(act.broke)
            .map(|(promoted, broke)| promoted - broke[0]),
        broken: Vec::new(),
    };
    let mut promise = |kept: bool, what: String| {
        if !kept {
            told.broken.push(what);
        }
    };
    promise(all.errors.is_empty(), format!("no errors: {:?}", all.errors));
    promise(
        all.dropped == 0,
        format!(
            "no connection dropped: {} {:?}",
            all.dropped,
            why_dropped(history)
        ),
    );
    promise(
        told.lost_after_hold == 0,
        format!(
            "nothing lost after the hold: {verdict:?}, {:?} of {holds:?}",
            behind.first()
        ),
    );
    promise(
        verdict.is_right(),
        format!("everything once, whole and in order: {verdict:?}"),
    );
    promise(
        act.in_doubt || told.unknown == 0,
        format!("no doubt: {:?}", all.unknown),
    );
    promise(
        act.stale || stale == 0,
        format!("{stale} reads older than the client's own writes"),
    );
    let over = act.promoted.or(act.broke.map(|broke| broke[1]));
    let late = over.map_or(0, |over| doubts_behind(history, over));
    promise(
        late == 0,
        format!("{late} outcomes unknown of what was sent later"),
    );
    let after = over.unwrap_or(act.began);
    let served = history.phase(verdict, after, history.ended).acknowledged_writes;
    promise(served > 100, format!("served again: {served} writes"));
    let heard = history
        .window(after, history.ended)
        .filter(|(_, one)| one.kind == crate::load::Kind::Receive);
    promise(heard.count() > 5, "subscribers hear what is published".to_owned());
    told
}

/// Why connections were lost.
fn why_dropped(history: &History) -> BTreeSet<&str> {
    let dropped = history.operations.iter().filter_map(|one| match &one.outcome {
        Outcome::Dropped(why) => Some(why.as_str()),
        _ => None,
    });
    dropped.collect()
}

/// How many outcomes are unknown of what was sent when all was well again.
fn doubts_behind(history: &History, over: Instant) -> usize {
    let doubts = history
        .operations
        .iter()
        .filter(|one| matches!(one.outcome, Outcome::Unknown(_)));
    doubts.filter(|one| one.sent > over).count()
}

// === impl Told ===

impl Told {
    /// Whether clients were without a write that stayed for no longer than is promised.
    #[must_use]
    pub fn is_in_time(&self) -> bool {
        allowed(self.scenario).is_none_or(|allowed| self.gap <= self.promotion.unwrap_or_default() + allowed)
    }
}

/// One row of the table.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = allowed(self.scenario).map_or(String::new(), |allowed| {
            let promotion = self
                .promotion
                .map_or(String::new(), |after| format!("{} + ", after.as_millis()));
            format!("  (<= {promotion}{} ms)", allowed.as_millis())
        });
        write!(
            f,
            "{:<38}{:>8}{:>9}{:>9}{:>7}{:>7}{:>10}{bound}{}",
            self.scenario.name(),
            self.errors.len(),
            self.unknown,
            self.dropped,
            self.lost_after_hold,
            self.lost,
            format!("{} ms", self.gap.as_millis()),
            if self.is_in_time() { "" } else { "  LATE" },
        )?;
        self.broken
            .iter()
            .try_for_each(|broken| write!(f, "\n    BROKEN: {broken}"))
    }
}

/// The head of the table.
#[must_use]
pub fn head() -> String {
    format!(
        "{:<38}{:>8}{:>9}{:>9}{:>7}{:>7}{:>10}",
        "", "errors", "unknown", "dropped", "lost", "(all)", "gap"
    )
}
