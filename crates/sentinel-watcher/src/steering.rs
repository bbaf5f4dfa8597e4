//! What an operator orders: to hold writes, and to fail over without losing any.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::WatcherConfig;
use crate::topology::{Epoch, HostPort};

/// How many orders may wait; one more is refused.
pub(crate) const ORDERS_WAITING: usize = 16;

/// A failover that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The replica that is to serve next; `None`: the one that Sentinel prefers.
    pub to: Option<HostPort>,
    /// How long writes may wait for it.
    pub timeout: Duration,
}

/// What became of a [`Handover`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// The old primary.
    pub from: HostPort,
    /// The new one.
    pub to: HostPort,
    /// How long writes waited.
    pub held: Duration,
    /// The replication offset that the new one had reached before it was promoted.
    pub offset: u64,
    /// What an operator should know besides.
    pub remarks: Vec<String>,
}

/// One order, and where its outcome goes. An error is a sentence that says what was undone, too.
pub(crate) enum SteeringOrder {
    /// Hold all writes until further notice, or no longer; answered once that is so.
    Pause(bool, oneshot::Sender<()>),
    /// Fail over.
    Handover(Handover, oneshot::Sender<Result<HandedOver, String>>),
    /// Watch with this configuration from now on.
    Reconfigure(Box<WatcherConfig>, oneshot::Sender<()>),
}

/// Where operators' orders for one master go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Steering {
    orders: mpsc::Sender<SteeringOrder>,
    quiet: Arc<Quiet>,
}

/// The watcher's end.
#[derive(Debug)]
pub struct SteeringReceiver {
    orders: mpsc::Receiver<SteeringOrder>,
    quiet: Arc<Quiet>,
}

/// Which workers have nothing in flight any more, since which topology. Asked for during a handover alone.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    /// One a worker.
    since: Mutex<Vec<Epoch>>,
    /// Handovers that ask.
    asking: AtomicUsize,
}

/// One worker's place in the quiet that a handover waits for.
#[derive(Clone, Debug)]
pub struct QuietPlace {
    quiet: Arc<Quiet>,
    place: usize,
}

/// A bounded pair.
#[must_use]
pub fn steering() -> (Steering, SteeringReceiver) {
    let (sender, orders) = mpsc::channel(ORDERS_WAITING);
    let quiet = Arc::<Quiet>::default();
    let steering = Steering {
        orders: sender,
        quiet: Arc::clone(&quiet),
    };
    (steering, SteeringReceiver { orders, quiet })
}

// === impl Steering ===

impl Steering {
    /// Holds all writes until [`Self::resume`]; they are held when this ends. False: nobody took the order.
    pub async fn pause(&self) -> bool {
        self.set_paused(true).await
    }

    /// Lets them flow again. They do when this ends, unless something else holds them. False: nobody took the order.
    pub async fn resume(&self) -> bool {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> bool {
        let (done, heard) = oneshot::channel();
        self.orders.try_send(SteeringOrder::Pause(paused, done)).is_ok() && heard.await.is_ok()
    }

    /// Watches with `config` from now on; the master stays the same. False: nobody took the order.
    pub async fn reconfigure(&self, config: WatcherConfig) -> bool {
        let (done, heard) = oneshot::channel();
        let order = SteeringOrder::Reconfigure(Box::new(config), done);
        self.orders.send(order).await.is_ok() && heard.await.is_ok()
    }

    /// Fails over without losing a write. Goes on where the caller does not wait for it.
    ///
    /// # Errors
    /// Why it did not come to that, in a sentence; what it had done for it is undone.
    pub async fn hand_over(&self, handover: Handover) -> Result<HandedOver, String> {
        let (done, outcome) = oneshot::channel();
        let nobody = || "the watcher does not take orders now".to_owned();
        self.orders
            .try_send(SteeringOrder::Handover(handover, done))
            .map_err(|_| nobody())?;
        outcome.await.map_err(|_| nobody())?
    }

    /// A place for one worker, which must tell there from now on.
    #[must_use]
    pub fn quiet_place(&self) -> QuietPlace {
        let mut since = self.quiet.since();
        since.push(Epoch(0));
        QuietPlace {
            quiet: Arc::clone(&self.quiet),
            place: since.len() - 1,
        }
    }
}

// === impl SteeringReceiver ===

impl SteeringReceiver {
    /// The next order; `None`: nobody can give any more.
    pub(crate) async fn next(&mut self) -> Option<SteeringOrder> {
        self.orders.recv().await
    }

    pub(crate) fn quiet(&self) -> Arc<Quiet> {
        Arc::clone(&self.quiet)
    }
}

// === impl Quiet ===

impl Quiet {
    /// Asks the workers to tell from here on, for as long as the answer lives.
    pub(crate) fn ask(self: &Arc<Self>) -> Asking {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Asking(Arc::clone(self))
    }

    /// All workers have had nothing in flight since they act on topology `epoch` or a later one.
    pub(crate) fn since_epoch(&self, epoch: Epoch) -> bool {
        self.since().iter().all(|since| *since >= epoch)
    }

    fn since(&self) -> std::sync::MutexGuard<'_, Vec<Epoch>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody wants to know who is quiet.
pub(crate) struct Asking(Arc<Quiet>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl QuietPlace ===

impl QuietPlace {
    /// Somebody wants to know.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.quiet.asking.load(Ordering::Relaxed) > 0
    }

    /// This worker acts on topology `epoch`, in which writes wait, and nothing that it sent before is unanswered.
    pub fn tell(&self, epoch: Epoch) {
        if let Some(since) = self.quiet.since().get_mut(self.place) {
            *since = epoch;
        }
    }
}
