//! Asks one node who it is, again and again, over a connection that is kept.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::dial::Dial;
use crate::driver::Order;
use crate::limits;
use crate::link::{Link, Manners, is_tls_alert};
use crate::machine::Input;
use crate::topology::HostPort;
use crate::verify::{Denial, Verdict};

/// The probe task of one node.
pub(super) struct Prober {
    pub(super) node: HostPort,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) manners: Manners,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) inputs: mpsc::Sender<Input>,
}

// === impl Prober ===

impl Prober {
    pub(super) async fn run(mut self) {
        let mut link = None;
        // How many demands for a fresh connection have been met.
        let mut afresh = 0;
        loop {
            let every = self.orders.borrow_and_update().every;
            let verdict = self.probe(&mut link, &mut afresh).await;
            let node = self.node.clone();
            if self.inputs.send(Input::Probed { node, verdict }).await.is_err() {
                return;
            }
            sleep(limits::PROBE_GAP).await;
            let rest = every.saturating_sub(limits::PROBE_GAP);
            tokio::select! {
                biased;
                _ = self.orders.changed() => {}
                // Promotion kills a node's clients, and so does its death: worth asking at once.
                () = broken(&mut link) => {}
                () = sleep(rest) => {}
            }
        }
    }

    /// One probe: over the link that is open, else, or where that fails, over a fresh one. So it is too where
    /// a fresh one is demanded, even now: a silent link may hide a living node.
    async fn probe(&self, link: &mut Option<Link>, afresh: &mut u64) -> Verdict {
        if let Some(mut open) = link.take() {
            let mut orders = self.orders.clone();
            let met = *afresh;
            let verdict = tokio::select! {
                biased;
                _ = orders.wait_for(|order| order.afresh != met) => None,
                verdict = self.ask(&mut open, false) => verdict.ok(),
            };
            if let Some(verdict) = verdict {
                *link = unless_refused(open, &verdict);
                return verdict;
            }
        }
        *afresh = self.orders.borrow().afresh;
        let mut fresh = match Link::dial(&*self.dial, &self.node, self.manners.connect_timeout).await {
            Ok(fresh) => fresh,
            Err(error) => return undialled(&error),
        };
        match self.ask(&mut fresh, true).await {
            Ok(verdict) => {
                *link = unless_refused(fresh, &verdict);
                verdict
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Verdict::Unreachable("it takes connections and does not answer")
            }
            // It is there, and has no place for us: it may serve those that it has.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Verdict::Refused(Denial::read(&error.to_string()))
            }
            Err(error) if is_tls_alert(&error) => Verdict::Blind(error.to_string()),
            Err(_) => Verdict::Unreachable("it takes connections and closes them"),
        }
    }

    async fn ask(&self, link: &mut Link, fresh: bool) -> io::Result<Verdict> {
        let credentials = self.manners.credentials.as_ref().filter(|_| fresh);
        let auth = credentials.map(|credentials| credentials.auth());
        let questions: [&[&[u8]]; 2] = [&[b"rOlE"], &[b"pInG"]];
        let commands: Vec<&[&[u8]]> = auth.iter().map(Vec::as_slice).chain(questions).collect();
        let replies = link.ask(&commands, self.manners.answer_timeout).await?;
        let (auth, answers) = replies.split_at(auth.iter().len());
        Ok(Verdict::read(auth.first(), answers))
    }
}

/// Refused, a node is to be asked again as somebody: over a new link.
fn unless_refused(link: Link, verdict: &Verdict) -> Option<Link> {
    (!matches!(verdict, Verdict::Refused(_))).then_some(link)
}

/// Resolves when the link breaks; never where there is none.
async fn broken(link: &mut Option<Link>) {
    match link {
        Some(open) => open.broken().await,
        None => std::future::pending().await,
    }
    *link = None;
}

/// Whether a failed dial speaks of the node, or of ourselves.
fn undialled(error: &io::Error) -> Verdict {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Verdict::Unreachable("it refuses connections"),
        ErrorKind::TimedOut => Verdict::Unreachable("it takes no connection in time"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            Verdict::Unreachable("there is no way to its host")
        }
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => {
            Verdict::Unreachable("it takes connections and closes them")
        }
        _ => Verdict::Blind(error.to_string()),
    }
}
