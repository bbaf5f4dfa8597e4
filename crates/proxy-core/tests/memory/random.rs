//! Random clients in a world that goes wrong at random, checked against a model of what may have happened.
//!
//! A seed that fails is printed; `SEED=7 cargo test -p proxy-core --test memory random` repeats it alone.

mod chaos;
mod session;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{join, join_all};
use proxy_core::ReadPolicy;
use tokio::time::sleep;

use crate::common::rng::Rng;
use crate::common::world::{World, run_with};
use chaos::Chaos;
use session::{Fate, Session};

/// What all sessions of a world have done.
#[derive(Default)]
struct Tally {
    /// What they appended to the common log, in the order of each session.
    pushed: RefCell<Vec<(String, Fate)>>,
    /// The faults are over.
    calm: Cell<bool>,
    names: Cell<u64>,
}

/// Names the seed of a world that goes down.
struct Banner(u64);

const SEEDS: u64 = 200;

#[test]
fn whatever_happens_a_reply_is_its_own_clients_and_a_write_happens_at_most_once() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    for seed in seeds {
        let _banner = Banner(seed);
        let mut rng = Rng::new(seed);
        let workers = 1 + rng.below(2) as usize;
        run_with(
            |settings| settings.workers = workers,
            async |world| story(world, rng).await,
        );
    }
}

async fn story(world: &World, mut rng: Rng) {
    let tally = Tally::default();
    let mut chaos = Chaos::new(world, rng.fork());
    let mut sessions: Vec<_> = (0..3 + rng.below(3))
        .map(|number| {
            let policies = [
                ReadPolicy::Primary,
                ReadPolicy::Primary,
                ReadPolicy::PreferReplica,
            ];
            (rng.fork(), policies[number as usize % 3])
        })
        .collect();
    let working = join_all(
        sessions
            .iter_mut()
            .map(|(rng, reads)| work(world, &tally, rng, *reads)),
    );
    let breaking = async {
        chaos.rage().await;
        chaos.calm().await;
        tally.calm.set(true);
        chaos
    };
    let listening = listen(world, &tally);
    let (chaos, _) = join(breaking, join(working, listening)).await;
    check_log(&tally.pushed.borrow(), &chaos.primary().list("log"));
}

/// One client after the other, until the faults are over and the last has been served.
async fn work(world: &World, tally: &Tally, rng: &mut Rng, reads: ReadPolicy) {
    loop {
        let name = format!("s{}", tally.names.get());
        tally.names.set(tally.names.get() + 1);
        let mut session = Session::new(name, world.client_reading(reads), reads, rng.fork());
        let whole = session.live(|| tally.calm.get()).await;
        tally.pushed.borrow_mut().extend(session.pushed());
        if whole {
            return;
        }
    }
}

/// A subscriber sees each message at most once, and is still there in the end.
async fn listen(world: &World, tally: &Tally) {
    let mut subscriber = world.client();
    assert_eq!(subscriber.ask("SUBSCRIBE news").await, "[subscribe news :1]");
    let mut seen = BTreeSet::new();
    let mut publisher = None;
    loop {
        if tally.calm.get() && publisher.is_none() {
            sleep(Duration::from_secs(1)).await;
            let mut client = world.client();
            assert_eq!(client.ask("PUBLISH news end").await, ":1");
            publisher = Some(client);
        }
        let Ok(frame) = tokio::time::timeout(Duration::from_millis(500), subscriber.frame()).await else {
            continue;
        };
        let shown = crate::common::reply::show(&frame);
        let message = shown
            .strip_prefix("[message news ")
            .and_then(|rest| rest.strip_suffix(']'));
        let message = message
            .unwrap_or_else(|| panic!("{shown} is no message"))
            .to_owned();
        if message == "end" {
            return;
        }
        assert!(seen.insert(message), "{shown} twice");
    }
}

/// Each session's entries: acknowledged ones once, unknown ones at most once, refused ones never; all in order.
fn check_log(pushed: &[(String, Fate)], log: &[String]) {
    let mut places = std::collections::BTreeMap::new();
    for (at, id) in log.iter().enumerate() {
        assert!(
            places.insert(id.as_str(), at).is_none(),
            "{id} was executed twice"
        );
    }
    let mut last = std::collections::BTreeMap::new();
    for (id, fate) in pushed {
        let place = places.get(id.as_str());
        match fate {
            Fate::Done => assert!(place.is_some(), "{id} was acknowledged and is lost"),
            Fate::Refused => assert!(place.is_none(), "{id} was refused and executed"),
            Fate::Unknown => {}
        }
        if let Some(place) = place {
            let session = id.split('-').next().unwrap();
            let before = last.insert(session, *place);
            assert!(
                before.is_none_or(|before| before < *place),
                "{id} overtook what its session sent before"
            );
        }
    }
}

impl Drop for Banner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEED={}", self.0);
        }
    }
}
