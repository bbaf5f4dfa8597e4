//! One seed, from the first connection to the verdict.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use super::blame::{Dread, Finding, blame, findings};
use super::chaos::Chaos;
use super::chronicle;
use super::ledger::Ledger;
use super::reply::show;
use super::rng::Rng;
use super::session::Session;
use super::task::{panics, spawn};
use super::trace;
use super::world::World;

/// What came of one seed.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What it was found guilty of, the worst first.
    pub findings: Vec<Finding>,
    /// Equal for equal runs.
    pub fingerprint: u64,
    /// How many things happened.
    pub events: u64,
    /// How long it took, in the world's time.
    pub lasted: Duration,
}

/// How long the proxy may need to find a primary on which everybody agrees: no longer than a dialled sentinel is let
/// rest, and then some.
const SOON: Duration = Duration::from_secs(4);

/// How long the world has to recover, once nothing goes wrong any more.
const RECOVERY: Duration = Duration::from_secs(90);

/// Runs one seed; `shown`: prints what happens.
#[must_use]
pub fn run(seed: u64, shown: bool) -> Verdict {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets");
    let local = LocalSet::new();
    let lasted = local.block_on(&runtime, async {
        trace::begin(shown);
        let start = Instant::now();
        story(Rng::new(seed)).await;
        start.elapsed()
    });
    drop(local);
    if panics() > 0 {
        blame(Dread::Stall, "a task panicked".to_owned());
    }
    let (fingerprint, events) = trace::fingerprint();
    Verdict {
        findings: findings(),
        fingerprint,
        events,
        lasted,
    }
}

async fn story(mut rng: Rng) {
    let world = Rc::new(World::start(&mut rng));
    let watched = Rc::clone(&world);
    spawn(async move { watch_service(&watched).await });
    let ledger = Rc::new(Ledger::default());
    let mut chaos = Chaos::new(&world, rng.fork());
    let sessions: Vec<_> = (0..3 + rng.below(4)).map(|_| rng.fork()).collect();
    let working = join_all(
        sessions
            .into_iter()
            .enumerate()
            .map(|(number, rng)| work(&world, &ledger, number % 3 == 2, rng)),
    );
    let breaking = async {
        sleep(Duration::from_millis(500)).await;
        chaos.rage().await;
        chaos.calm();
    };
    let all = join(breaking, join(working, listen(&world)));
    if timeout(Duration::from_secs(600), all).await.is_err() {
        blame(Dread::Stall, "not everybody was served in the end".to_owned());
    }
    ledger.audit(&world);
    chronicle::audit(&world, &ledger);
    check_handle(&world);
}

/// Whenever everybody agrees on a primary and everybody is heard, clients are soon served by a primary.
async fn watch_service(world: &World) {
    let (mut servable, mut since) = (None, Instant::now());
    loop {
        sleep(Duration::from_millis(100)).await;
        let now = world.servable();
        if world.serves() || now.is_none() || now != servable {
            (servable, since) = (now, Instant::now());
        } else if since.elapsed() > SOON {
            blame(
                Dread::Stall,
                format!("{servable:?} could have been served for {SOON:?}"),
            );
            return;
        }
    }
}

/// One client after the other, until the faults are over and the last has been served.
async fn work(world: &Rc<World>, ledger: &Rc<Ledger>, elsewhere: bool, mut rng: Rng) {
    while !Session::new(world, ledger, elsewhere, rng.fork()).live().await {
        if world.is_calm() && !recovers(world).await {
            return;
        }
    }
}

/// Whether the world is well again in time, which it must be.
async fn recovers(world: &World) -> bool {
    let settled = async {
        while !world.is_settled() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let recovers = timeout(RECOVERY, settled).await.is_ok();
    if !recovers {
        let last = world.published().last().map(|published| published.shard.clone());
        blame(
            Dread::Stall,
            format!("{RECOVERY:?} after the last fault: {last:?}"),
        );
    }
    recovers
}

/// A subscriber sees each message at most once and each session's in order, and is still there in the end.
async fn listen(world: &Rc<World>) {
    let mut subscriber = world.client(false);
    subscriber.send("SUBSCRIBE news").await;
    let mut seen = BTreeMap::<String, u64>::new();
    let mut publisher = None;
    loop {
        if world.is_calm() && publisher.is_none() {
            if !recovers(world).await {
                return;
            }
            sleep(Duration::from_secs(2)).await;
            let mut client = world.client(false);
            client.send("PUBLISH news end-1").await;
            publisher = Some((client, Instant::now()));
        }
        if let Some((_, at)) = &publisher
            && at.elapsed() > Duration::from_secs(10)
        {
            return blame(
                Dread::Stall,
                "the subscriber did not hear the last message".to_owned(),
            );
        }
        let heard = timeout(Duration::from_millis(500), subscriber.frame_or_end()).await;
        let Ok(heard) = heard else { continue };
        let Some(frame) = heard else {
            return blame(Dread::Stall, "the subscriber was disconnected".to_owned());
        };
        let shown = show(&frame);
        trace::note(|| format!("subscriber < {shown}"));
        if shown == "[subscribe news :1]" {
            continue;
        }
        let message = shown
            .strip_prefix("[message news ")
            .map(|rest| rest.trim_end_matches(']'));
        let Some((session, number)) = message.and_then(|message| message.split_once('-')) else {
            blame(Dread::Misdelivered, format!("{shown} is no message"));
            continue;
        };
        if session == "end" {
            return;
        }
        let number = number.trim_end_matches("@app").parse().unwrap_or(0);
        if let Some(before) = seen.insert(session.to_owned(), number)
            && before >= number
        {
            let dread = if before == number {
                Dread::Repeated
            } else {
                Dread::Disorder
            };
            blame(dread, format!("{session}-{number} came after {session}-{before}"));
        }
    }
}

fn check_handle(world: &World) {
    let families = world.handle().metrics().gather();
    let panicked = families
        .iter()
        .filter(|family| family.name() == "slipring_session_panics_total");
    let panicked: f64 = panicked
        .flat_map(|family| family.get_metric())
        .map(|row| row.get_counter().get_value())
        .sum();
    if panicked > 0.0 {
        blame(Dread::Stall, format!("{panicked} sessions panicked"));
    }
}
