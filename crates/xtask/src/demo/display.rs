//! One line that tells where the load stands, rewritten in place on a terminal; elsewhere a line every few seconds.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use testkit::load::{History, Live, Load};
use testkit::proxy;

const ON_A_TERMINAL: Duration = Duration::from_millis(250);
const ELSEWHERE: Duration = Duration::from_secs(3);

pub(super) struct Display {
    shown: Arc<Mutex<Shown>>,
    thread: JoinHandle<()>,
}

/// A load whose state is displayed until it is finished.
pub(super) struct Watched {
    shown: Arc<Mutex<Shown>>,
}

struct Shown {
    act: &'static str,
    load: Option<Load>,
    is_over: bool,
}

// === impl Display ===

impl Display {
    /// Shows nothing but the act until there is a load. `admin` is asked who is primary.
    pub(super) fn start(admin: SocketAddr) -> Self {
        let shown = Arc::new(Mutex::new(Shown {
            act: "",
            load: None,
            is_over: false,
        }));
        let thread = thread::spawn({
            let shown = Arc::clone(&shown);
            move || show(&shown, admin)
        });
        Self { shown, thread }
    }

    pub(super) fn watch(&self, load: Load) -> Watched {
        lock(&self.shown).load = Some(load);
        Watched {
            shown: Arc::clone(&self.shown),
        }
    }

    /// Names what is happening now; the longest pause is counted anew.
    pub(super) fn say(&self, act: &'static str) {
        let mut shown = lock(&self.shown);
        shown.act = act;
        if let Some(load) = &shown.load {
            load.reset_longest_pause();
        }
    }

    pub(super) fn stop(self) {
        lock(&self.shown).is_over = true;
        self.thread.thread().unpark();
        // It ends at once, and its panic would have been seen.
        let _ = self.thread.join();
    }
}

// === impl Watched ===

impl Watched {
    pub(super) fn finish(self) -> History {
        let load = lock(&self.shown).load.take();
        load.expect("a watched load is finished once").finish()
    }
}

fn show(shown: &Mutex<Shown>, admin: SocketAddr) {
    let in_place = stdout().is_terminal();
    let interval = if in_place { ON_A_TERMINAL } else { ELSEWHERE };
    let began = Instant::now();
    let (mut last_operations, mut last_shown) = (0, began);
    loop {
        thread::park_timeout(interval);
        let (act, live) = {
            let shown = lock(shown);
            if shown.is_over {
                break;
            }
            (shown.act, shown.load.as_ref().map(Load::live))
        };
        let Some(Live {
            operations,
            errors,
            dropped,
            longest_pause,
        }) = live
        else {
            continue;
        };
        let rate = (operations - last_operations) as f64 / last_shown.elapsed().as_secs_f64();
        (last_operations, last_shown) = (operations, Instant::now());
        let line = format!(
            "{:5.1} s  {act:<22} {rate:6.0} operations/s  errors {errors}  dropped {dropped}  longest pause {} ms  primary {}",
            began.elapsed().as_secs_f64(),
            longest_pause.as_millis(),
            primary(admin).unwrap_or_else(|| "?".to_owned()),
        );
        if in_place {
            print!("\r\x1b[K{line}")
        } else {
            println!("{line}")
        }
        // A terminal that has gone away is no reason to end.
        let _ = stdout().flush();
    }
    if in_place {
        println!("\r\x1b[K");
    }
}

/// Whom slipring holds for the primary.
fn primary(admin: SocketAddr) -> Option<String> {
    let (_, page) = proxy::get(admin, "/metrics").ok()?;
    let series = page
        .lines()
        .find(|line| line.starts_with("slipring_primary_info{"))?;
    let (_, address) = series.split_once("address=\"")?;
    address.split_once('"').map(|(address, _)| address.to_owned())
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}
