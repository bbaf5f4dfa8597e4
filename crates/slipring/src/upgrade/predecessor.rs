//! The process that is taken over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use proxy_core::{
    Departure, Entrant, Listen, Passage, STATE_VERSION, SessionState, from_socket, into_socket, is_plain,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::channel::{Channel, DESCRIPTORS};
use super::{ANSWER_TIMEOUT, Inherited, Offer, PROTOCOL, SERVING_TIMEOUT, Word};
use crate::service;

/// Sessions under way at once: sent, and neither taken nor left.
const WINDOW: usize = 64;

/// How often it is looked whether anybody is left.
const LOOK: Duration = Duration::from_millis(20);

/// What this process offers to a successor.
pub(crate) struct Predecessor {
    offer: Offer,
    /// The listening sockets.
    sockets: Vec<OwnedFd>,
    linger: Duration,
}

/// What a takeover has to do with in this process.
pub(crate) struct House<'a> {
    pub(crate) passage: &'a Passage,
    /// Whether the admin endpoint answers here.
    pub(crate) admin: &'a watch::Sender<bool>,
    /// This process takes over itself, and is to stop that.
    pub(crate) own_takeover: &'a CancellationToken,
}

/// How a takeover ended.
enum End {
    /// Nobody is left, or the time is over.
    Served,
    /// The successor has hung up in order: it will not be back, and neither will its clients.
    Parted,
    /// The successor is gone, or does not answer.
    Lost,
}

/// A session that has been sent.
struct Sent {
    socket: OwnedFd,
    state: Bytes,
}

// === impl Predecessor ===

impl Predecessor {
    /// Awaits a successor at `path`, on the socket that a predecessor of this process has left there, if any.
    pub(crate) fn new<'a>(
        path: &Path,
        inherited: &mut Inherited,
        listening: impl Iterator<Item = &'a dyn Listen>,
        linger: Duration,
    ) -> anyhow::Result<Self> {
        let here = || format!("--upgrade-socket {}: cannot listen there", path.display());
        let offer = match inherited.take_offer(path) {
            Some(socket) => socket,
            None => Offer::bind(path).with_context(here)?,
        };
        let sockets = listening.filter_map(Listen::socket);
        let sockets = sockets.map(|socket| socket.try_clone_to_owned());
        let sockets = sockets.collect::<io::Result<Vec<_>>>().with_context(here)?;
        anyhow::ensure!(
            sockets.len() < DESCRIPTORS,
            "--upgrade-socket: too many listeners"
        );
        Ok(Self {
            offer: Offer::new(offer).with_context(here)?,
            sockets,
            linger,
        })
    }

    /// Serves successors, one after the other, until one has taken over.
    pub(crate) async fn run(&self, house: House<'_>) {
        loop {
            let met = async {
                let channel = self.offer.accept().await?;
                self.meet(&channel).await.map(|portable| (channel, portable))
            };
            let (channel, portable) = match met.await {
                Ok(met) => met,
                Err(error) => {
                    tracing::debug!(%error, "nobody who could take over");
                    continue;
                }
            };
            match self.hand_over(&channel, portable, &house).await {
                End::Served => return,
                End::Parted => {
                    tracing::info!(
                        clients = house.passage.clients(),
                        "the successor is taken over itself"
                    );
                    return self.linger(&house).await;
                }
                End::Lost => {
                    tracing::warn!("the successor is gone: this process serves on");
                    service::main_process(std::process::id());
                    house.admin.send_replace(true);
                    house.passage.stay().await;
                }
            }
        }
    }

    /// Gives the listening sockets, and waits until the successor could serve. Whether it can take sessions.
    async fn meet(&self, channel: &Channel) -> io::Result<bool> {
        let portable = match timeout(ANSWER_TIMEOUT, channel.receive()).await?? {
            Some((
                Word::Hello {
                    protocol: PROTOCOL,
                    state,
                },
                _,
            )) => state == STATE_VERSION,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let mut sockets: Vec<_> = self.sockets.iter().map(|socket| socket.as_fd()).collect();
        sockets.push(self.offer.socket());
        channel.send(&Word::Sockets, &sockets).await?;
        match timeout(SERVING_TIMEOUT + ANSWER_TIMEOUT, channel.receive()).await?? {
            Some((Word::Ready, _)) => Ok(portable),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    async fn hand_over(&self, channel: &Channel, portable: bool, house: &House<'_>) -> End {
        let passage = house.passage;
        let successor = channel.peer().unwrap_or_default();
        tracing::info!(
            clients = passage.clients(),
            process = successor,
            "another process takes over"
        );
        house.own_takeover.cancel();
        passage.goes_to(successor);
        let mut departures = passage.leave(if portable { is_plain } else { |_| false }).await;
        house.admin.send_replace(false);
        let begun = Word::Begin {
            last_id: passage.last_id(),
        };
        let mut under_way = BTreeMap::new();
        let end = match timeout(ANSWER_TIMEOUT, channel.send(&begun, &[])).await {
            Ok(Ok(())) => {
                service::main_process(successor);
                self.send_off(channel, &mut departures, &mut under_way, house)
                    .await
            }
            _ => End::Lost,
        };
        // From here on the successor knows of each session whether it has it.
        for word in channel.shut() {
            if let Word::Taken { ticket } = word {
                under_way.remove(&ticket);
            }
        }
        departures.close();
        while let Ok(departure) = departures.try_recv() {
            if let Some(sent) = Sent::new(departure) {
                sent.come_back(passage).await;
            }
        }
        for sent in under_way.into_values() {
            sent.come_back(passage).await;
        }
        end
    }

    /// Sends sessions as they come to rest.
    async fn send_off(
        &self,
        channel: &Channel,
        departures: &mut mpsc::Receiver<Departure>,
        under_way: &mut BTreeMap<u64, Sent>,
        house: &House<'_>,
    ) -> End {
        let until = Instant::now() + self.linger;
        let mut tickets = 0_u64;
        let mut heard = Instant::now();
        loop {
            let silent = heard + ANSWER_TIMEOUT;
            tokio::select! {
                biased;
                word = channel.receive() => match word {
                    Ok(Some((Word::Taken { ticket }, _))) => drop(under_way.remove(&ticket)),
                    Ok(Some((Word::Left { ticket }, _))) => {
                        if let Some(sent) = under_way.remove(&ticket) {
                            sent.come_back(house.passage).await;
                        }
                    }
                    Ok(Some((Word::Farewell, _))) => return End::Parted,
                    _ => return End::Lost,
                },
                Some(departure) = departures.recv(), if under_way.len() < WINDOW => {
                    let Some(sent) = Sent::new(departure) else { continue };
                    let word = Word::Session { ticket: tickets, state: sent.state.clone() };
                    let told = timeout(ANSWER_TIMEOUT, channel.send(&word, &[sent.socket.as_fd()])).await;
                    under_way.insert(tickets, sent);
                    if !matches!(told, Ok(Ok(()))) {
                        return End::Lost;
                    }
                    tickets += 1;
                }
                () = sleep_until(silent), if !under_way.is_empty() => return End::Lost,
                () = sleep_until(until) => return End::Served,
                () = tokio::time::sleep(LOOK) => {
                    if house.passage.clients() == 0 && under_way.is_empty() && departures.is_empty() {
                        tracing::info!(sessions = tickets, "all clients have moved");
                        let _ = channel.send(&Word::Done, &[]).await;
                        return End::Served;
                    }
                    if under_way.is_empty() {
                        heard = Instant::now();
                    }
                    continue;
                }
            }
            heard = Instant::now();
        }
    }

    /// Serves whoever is left.
    async fn linger(&self, house: &House<'_>) {
        let until = Instant::now() + self.linger;
        while house.passage.clients() > 0 && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
}

// === impl Sent ===

impl Sent {
    fn new(departure: Departure) -> Option<Self> {
        let socket = into_socket(departure.io);
        let socket = socket.inspect_err(|error| tracing::warn!(%error, "a client is lost on its way"));
        Some(Self {
            socket: socket.ok()?,
            state: departure.state.into(),
        })
    }

    /// It is served here again.
    async fn come_back(self, passage: &Passage) {
        let (Ok(state), Ok((socket, descriptor))) =
            (SessionState::decode(&self.state), from_socket(self.socket))
        else {
            return;
        };
        let entrant = Entrant {
            state,
            socket,
            descriptor,
        };
        passage.adopt(entrant).await;
    }
}
