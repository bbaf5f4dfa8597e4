//! What operators order of the process as a whole, over PROXY. The binary obeys: it has the files and the signals.

use tokio::sync::{mpsc, oneshot};

use crate::limits;

/// One order.
#[derive(Debug)]
pub enum Demand {
    /// Read configuration and secrets again. The answer: lines that say what is changed, or why nothing is.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
    /// Drain, as at SIGTERM.
    Drain,
}

/// Where sessions put their orders.
#[derive(Clone, Debug)]
pub(crate) struct Demands(mpsc::Sender<Demand>);

/// Where the binary takes them.
pub(crate) type DemandReceiver = mpsc::Receiver<Demand>;

/// A bounded pair.
pub(crate) fn demands() -> (Demands, DemandReceiver) {
    let (sender, receiver) = mpsc::channel(limits::DEMANDS_WAITING);
    (Demands(sender), receiver)
}

// === impl Demands ===

impl Demands {
    /// What is changed, or why nothing is.
    pub(crate) async fn reload(&self) -> Result<Vec<String>, String> {
        let (answer, heard) = oneshot::channel();
        let nobody = || "too many orders wait: try again".to_owned();
        self.0.try_send(Demand::Reload(answer)).map_err(|_| nobody())?;
        heard.await.map_err(|_| nobody())?
    }

    /// False: nobody takes orders.
    pub(crate) fn drain(&self) -> bool {
        self.0.try_send(Demand::Drain).is_ok()
    }
}
