//! One side of the comparison: where its clients connect, and what each of them has got so far.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use regex::bytes::Regex;
use testkit::client::encode;
use testkit::{Client, Node, Reply};

use super::scenario::{Act, Scenario};
use super::words::words;

/// A round of the node's loop reads no more than this of a connection.
const ROUND_BYTES: usize = 16 << 10;

/// Rounds without anything new after which a node that is asked directly has said all it has to say.
const QUIET_ROUNDS: usize = 3;

/// A server that has still something to say after so many rounds never ends.
const ROUNDS: usize = 10_000;

/// Between two looks at the sockets.
const GLANCE: Duration = Duration::from_micros(100);

/// So long may a server take none of what a client sends.
const STUCK: Duration = Duration::from_secs(20);

pub(crate) struct Side {
    address: SocketAddr,
    /// A connection to the node behind it, past slipring.
    node: Client,
    pub(crate) peers: BTreeMap<char, Peer>,
    /// What `${name}` stands for here.
    names: BTreeMap<String, Vec<u8>>,
    drops: Vec<Regex>,
}

/// One client.
pub(crate) struct Peer {
    stream: Option<TcpStream>,
    /// Kept back, to leave with the next line.
    kept: Vec<u8>,
    /// What came and is no whole frame yet.
    rest: Vec<u8>,
    /// `rest` will never be a frame.
    garbled: bool,
    pub(crate) frames: Vec<Frame>,
    /// So many of `frames` are known to be what they should be.
    pub(crate) matched: usize,
    pub(crate) ended: bool,
    /// Frames that it had got when it last sent something.
    spoke_at: usize,
    /// The frame of that number is kept under this name.
    asked: Option<(String, usize)>,
}

pub(crate) struct Frame {
    pub(crate) raw: Vec<u8>,
    pub(crate) reply: Reply,
}

/// What clients can leave behind on a node: as its INFO counts them, nothing while a script keeps it from answering.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Traces {
    pub(crate) blocked: Option<u64>,
    pub(crate) channels: Option<u64>,
    pub(crate) patterns: Option<u64>,
}

// === impl Side ===

impl Side {
    /// Clients of `address`, with `node` behind it.
    pub(crate) fn new(address: SocketAddr, node: &Node) -> Result<Self> {
        Ok(Self {
            address,
            node: node.client()?,
            peers: BTreeMap::new(),
            names: BTreeMap::new(),
            drops: Vec::new(),
        })
    }

    /// Forgets the last scenario: its clients hang up.
    pub(crate) fn begin(&mut self, scenario: &Scenario) {
        self.peers.clear();
        self.names.clear();
        self.drops.clone_from(&scenario.drops);
    }

    /// Does what the client does, and waits for nothing. Returns how many bytes it sent.
    pub(crate) fn act(&mut self, name: char, act: &Act) -> Result<usize> {
        if !self.peers.contains_key(&name) {
            let (peer, address) = Peer::connect(self.address)?;
            self.peers.insert(name, peer);
            self.names
                .insert(name.to_string(), address.to_string().into_bytes());
        }
        let peer = self.peers.get_mut(&name).expect("just made");
        let command = |line: &str| Ok::<_, anyhow::Error>(encode(&words(line, &self.names)?));
        let pieces: Vec<Vec<u8>> = match act {
            Act::Keep(line) => {
                peer.kept.extend(command(line)?);
                return Ok(0);
            }
            Act::Say(line) => vec![command(line)?],
            Act::Ask(name, line) => {
                peer.asked = Some((name.clone(), peer.frames.len()));
                vec![command(line)?]
            }
            Act::Raw(text) => vec![words(text, &self.names)?.concat()],
            Act::Bytes(text) => words(text, &self.names)?
                .concat()
                .into_iter()
                .map(|byte| vec![byte])
                .collect(),
            Act::Pieces(text) => words(text, &self.names)?,
            Act::Read(_) => Vec::new(),
            Act::End => {
                peer.end();
                Vec::new()
            }
            Act::Close => {
                peer.stream = None;
                Vec::new()
            }
        };
        let kept = std::mem::take(&mut peer.kept);
        if !pieces.is_empty() {
            peer.spoke_at = peer.frames.len();
        }
        let (first, others) = pieces
            .split_first()
            .map_or((&[][..], &[][..]), |(first, others)| (first, others));
        self.send(name, &[&kept, first].concat())?;
        for piece in others {
            self.send(name, piece)?;
        }
        Ok(kept.len() + pieces.iter().map(Vec::len).sum::<usize>())
    }

    /// Sends, and reads meanwhile, so that neither side's full buffers stall the other.
    fn send(&mut self, name: char, mut bytes: &[u8]) -> Result<()> {
        let mut deadline = Instant::now() + STUCK;
        while !bytes.is_empty() {
            let peer = self.peers.get_mut(&name).expect("it is there");
            match peer.write(bytes) {
                0 if self.read_all()? == 0 => {
                    ensure!(Instant::now() < deadline, "{name} cannot send");
                    sleep(GLANCE);
                }
                0 => deadline = Instant::now() + STUCK,
                sent => bytes = &bytes[sent..],
            }
        }
        Ok(())
    }

    /// Reads what has come, for all clients: how many of them have news.
    pub(crate) fn read_all(&mut self) -> Result<usize> {
        let mut news = 0;
        for peer in self.peers.values_mut() {
            news += peer.read(&self.drops)?;
            if let Some((name, value)) = peer.answer() {
                self.names.insert(name, value.into_bytes());
            }
        }
        Ok(news)
    }

    /// Reads until the node, asked directly, has said all that it has to say. A node sees what is in its sockets
    /// in each round of its loop, and answers before the next: so it is asked often enough, and nobody sleeps.
    pub(crate) fn settle(&mut self, sent: usize) -> Result<()> {
        let mut quiet = 0;
        let mut rounds = 0;
        while quiet < QUIET_ROUNDS + sent / ROUND_BYTES {
            rounds += 1;
            ensure!(rounds < ROUNDS, "the server never comes to rest");
            self.node.command(&["PING"])?;
            quiet = if self.read_all()? == 0 { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    /// Reads until `done`, or for so long.
    pub(crate) fn read_until(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            let news = self.read_all()?;
            if done(self) || Instant::now() >= deadline {
                return Ok(());
            }
            if news == 0 {
                sleep(GLANCE);
            }
        }
    }

    /// How many frames this client has got since it last sent something.
    pub(crate) fn heard(&self, name: char) -> usize {
        self.peers
            .get(&name)
            .map_or(0, |peer| peer.frames.len() - peer.spoke_at)
    }

    /// What its clients have left on the node.
    pub(crate) fn traces(&mut self) -> Result<Traces> {
        let info = self.node.command(&["INFO", "clients", "stats"])?;
        let mut traces = Traces::default();
        for line in info.text().unwrap_or_default().lines() {
            match line.split_once(':') {
                Some(("blocked_clients", count)) => traces.blocked = Some(count.parse()?),
                Some(("pubsub_channels", count)) => traces.channels = Some(count.parse()?),
                Some(("pubsub_patterns", count)) => traces.patterns = Some(count.parse()?),
                _ => {}
            }
        }
        Ok(traces)
    }

    /// Commands for the node behind it, in one write.
    pub(crate) fn tell_node(&mut self, commands: &[&[&str]]) -> Result<Vec<Reply>> {
        let commands: Vec<Vec<&str>> = commands.iter().map(|command| command.to_vec()).collect();
        Ok(self.node.pipeline(&commands)?)
    }
}

// === impl Peer ===

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "a plain client")]
    fn connect(address: SocketAddr) -> Result<(Self, SocketAddr)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let own = stream.local_addr()?;
        let peer = Self {
            stream: Some(stream),
            kept: Vec::new(),
            rest: Vec::new(),
            garbled: false,
            frames: Vec::new(),
            matched: 0,
            ended: false,
            spoke_at: 0,
            asked: None,
        };
        Ok((peer, own))
    }

    /// How many bytes left. A server that takes no more because it has closed is no failure: all "leave".
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(stream) = &mut self.stream else {
            return bytes.len();
        };
        match stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => bytes.len(),
        }
    }

    fn end(&self) {
        if let Some(stream) = &self.stream {
            // Fails where the server has closed already.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn read(&mut self, drops: &[Regex]) -> Result<usize> {
        let Some(stream) = &mut self.stream else {
            return Ok(0);
        };
        let before = self.rest.len();
        let mut buffer = [0; 64 << 10];
        let ended = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                // A reset is an end as good as any: which one it is depends on what was left unread.
                Err(_) => break true,
            }
        };
        let (bytes, frames) = (self.rest.len() - before, self.frames.len());
        self.parse(drops);
        // What is dropped is no news: a monitor would have some for ever.
        let news = self.frames.len() > frames || (!self.rest.is_empty() && bytes > 0);
        if ended {
            self.stream = None;
            self.ended = true;
        }
        Ok(usize::from(news) + usize::from(ended))
    }

    fn parse(&mut self, drops: &[Regex]) {
        let mut parsed = 0;
        while !self.garbled {
            let mut raw = Vec::new();
            match Reply::read(&mut &self.rest[parsed..], &mut raw) {
                Ok(reply) => {
                    parsed += raw.len();
                    if !drops.iter().any(|drop| drop.is_match(&raw)) {
                        self.frames.push(Frame { raw, reply });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(_) => self.garbled = true,
            }
        }
        self.rest.drain(..parsed);
    }

    /// What was asked for, and the text that answers it.
    fn answer(&mut self) -> Option<(String, String)> {
        let (_, at) = self.asked.as_ref()?;
        let value = match &self.frames.get(*at)?.reply {
            Reply::Integer(number) => number.to_string(),
            other => other.text().unwrap_or_default().to_owned(),
        };
        Some((self.asked.take()?.0, value))
    }

    /// What came and is no frame.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.rest
    }
}
