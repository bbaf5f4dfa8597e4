//! A client that remembers what it asked for, and what each answer allows.

mod asked;
mod events;
mod keys;
mod manner;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::blame::{Dread, blame};
use super::client::Client;
use super::ledger::{Fate, Ledger, ON_THE_WAY};
use super::reply::show;
use super::rng::Rng;
use super::trace;
use super::world::World;
use asked::Asked;
use events::Events;
use keys::{Counter, Known};
use manner::Manner;

/// How long any reply may take: longer than a command is held.
const PATIENCE: Duration = Duration::from_secs(60);

/// What makes a value large, and is of no other meaning.
const PADDING: char = '.';

/// More than travels on a shared connection.
const LARGE_BYTES: usize = 270 << 10;

/// One client, from its connection to its end.
pub struct Session {
    world: Rc<World>,
    ledger: Rc<Ledger>,
    name: String,
    client: Client,
    /// Reads may be answered by a replica, without regard to the order of writes.
    elsewhere: bool,
    rng: Rng,
    /// When its last replies had come, the newest last.
    heard: [Instant; 2],
    numbers: u64,
    keys: BTreeMap<u64, Known>,
    counter: Counter,
    manner: Manner,
    events: Events,
    /// What it has put into its own queue, and whether it got that out again.
    queued: BTreeMap<String, Option<u64>>,
}

/// The connection is of no more use.
pub struct HungUp;

type Heard<T> = Result<T, HungUp>;

// === impl Session ===

impl Session {
    /// A session over a fresh connection.
    #[must_use]
    pub fn new(world: &Rc<World>, ledger: &Rc<Ledger>, elsewhere: bool, rng: Rng) -> Self {
        Self {
            name: world.name(),
            client: world.client(elsewhere),
            world: Rc::clone(world),
            ledger: Rc::clone(ledger),
            elsewhere,
            rng,
            heard: [Instant::now(); 2],
            numbers: 0,
            keys: BTreeMap::new(),
            counter: Counter::default(),
            manner: Manner::default(),
            events: Events::default(),
            queued: BTreeMap::new(),
        }
    }

    /// Asks and checks until all is calm and it has been served after that. False: it hung up half way.
    pub async fn live(&mut self) -> bool {
        if self.introduce().await.is_err() {
            return false;
        }
        while !self.world.is_calm() {
            let heard = match self.rng.below(6) {
                0 => self.transact().await,
                1 => self.compare_and_set().await,
                _ => self.pipeline().await,
            };
            if heard.is_err() {
                return false;
            }
            let pause = Duration::from_millis(self.rng.below(60));
            sleep(pause).await;
        }
        while !self.world.is_settled() {
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_secs(1)).await;
        self.settle_up().await.is_ok()
    }

    /// Some commands in one write.
    async fn pipeline(&mut self) -> Heard<()> {
        let asked: Vec<_> = (0..1 + self.rng.below(6)).map(|_| self.choose()).collect();
        let lines: Vec<_> = asked.iter().map(|asked| self.line(asked)).collect();
        if self.elsewhere {
            // A replica may have a write before the read that was asked before it.
            asked.iter().for_each(|asked| self.foresee(asked));
        }
        let (stamp, times) = self.send_all(&lines).await?;
        let stays = if self.rng.once_in(40) {
            self.rng.below(asked.len() as u64) as usize
        } else {
            asked.len()
        };
        let mut asked = asked.into_iter().zip(times);
        for (one, at) in asked.by_ref().take(stays) {
            if self.hear(one, stamp, at).await.is_err() {
                asked.for_each(|(one, at)| self.give_up(one, at));
                return Err(HungUp);
            }
        }
        if asked.len() > 0 {
            asked.for_each(|(one, at)| self.give_up(one, at));
            return Err(HungUp);
        }
        Ok(())
    }

    /// Once nothing goes wrong any more, everything is answered, and is what it may be.
    async fn settle_up(&mut self) -> Heard<()> {
        for key in self.keys.keys().copied().collect::<Vec<_>>() {
            let (stamp, _) = self.send(&format!("GET {}:{key}", self.name)).await?;
            let shown = self.reply().await?;
            self.check_get(key, shown, stamp);
        }
        let id = self.id();
        let (_, at) = self.send(&format!("RPUSH log {id}")).await?;
        let shown = self.reply().await?;
        if !shown.starts_with(':') {
            blame(Dread::Stall, format!("{} after all faults: {shown}", self.name));
        }
        self.note(id, Fate::of(&shown, ":"), at);
        Ok(())
    }

    async fn send(&mut self, line: &str) -> Heard<(u64, Instant)> {
        let (stamp, times) = self.send_all(&[line]).await?;
        Ok((stamp, times[0]))
    }

    /// The world's stamp before, and when each of the lines was written whole.
    async fn send_all(&mut self, lines: &[impl AsRef<str>]) -> Heard<(u64, Vec<Instant>)> {
        trace::note(|| {
            let lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
            let line = lines.join("; ");
            format!("{} > {}", self.name, &line[..line.len().min(400)])
        });
        let stamp = self.world.stamp();
        let Some(times) = self.client.try_send(lines).await else {
            blame(
                Dread::Stall,
                format!("{}: the proxy closed the connection", self.name),
            );
            return Err(HungUp);
        };
        Ok((stamp, times))
    }

    async fn reply(&mut self) -> Heard<String> {
        let mut heard = timeout(PATIENCE, self.client.frame_or_end()).await;
        while let Ok(Some(frame)) = &heard {
            let shown = show(frame).trim_end_matches(PADDING).to_owned();
            trace::note(|| format!("{} < {shown}", self.name));
            if !frame.starts_with(b">") {
                self.check_protocol(frame, &shown);
                self.heard = [self.heard[1], self.client.arrived()];
                return Ok(shown);
            }
            self.take_push(&shown);
            heard = timeout(PATIENCE, self.client.frame_or_end()).await;
        }
        match heard {
            Ok(Some(_)) => unreachable!("frames have been seen to"),
            // A reply that is passed on as it comes has no other end.
            Ok(None) if self.client.ended_within(LARGE_BYTES) => Err(HungUp),
            Ok(None) => {
                blame(
                    Dread::Stall,
                    format!("{}: the proxy closed the connection", self.name),
                );
                Err(HungUp)
            }
            Err(_) => {
                blame(
                    Dread::Stall,
                    format!("{} got no reply within {PATIENCE:?}", self.name),
                );
                Err(HungUp)
            }
        }
    }

    fn id(&mut self) -> String {
        self.numbers += 1;
        format!("{}-{}{}", self.name, self.numbers, self.manner.mark)
    }

    /// The answer, and what it means.
    async fn hear(&mut self, asked: Asked, stamp: u64, at: Instant) -> Heard<()> {
        let shown = match self.answer(&asked).await {
            Ok(shown) => shown,
            Err(hung_up) => {
                self.give_up(asked, at);
                return Err(hung_up);
            }
        };
        match asked {
            Asked::Block(key, value, id) => {
                let fate = self.fate(&shown, "[+OK :");
                self.note_set(key, value, fate, stamp);
                self.note(id, fate, at);
            }
            Asked::Set(key, value) | Asked::Large(key, value) => {
                let fate = self.fate(&shown, "+OK");
                self.note_set(key, value, fate, stamp);
            }
            Asked::Get(key) => self.check_get(key, shown, stamp),
            Asked::Peek(_) if shown.starts_with('-') => {
                self.fate(&shown, "a value");
            }
            Asked::Peek(key) => self.keep(&format!("cas:{key}"), &shown),
            Asked::Add(id) => self.note_added(id, &shown, stamp),
            Asked::Read(from) => self.check_read(from, &shown),
            Asked::Keep(id) => {
                let fate = self.fate(&shown, ":");
                self.note_kept(id, fate, stamp);
            }
            Asked::Vouch => self.check_vouched(&shown),
            Asked::Push(id) => {
                let fate = self.fate(&shown, ":");
                self.note(id, fate, at);
            }
            Asked::Script(id, refuses) => {
                let fate = match refuses {
                    // It may have written first.
                    _ if shown.starts_with("-READONLY") => Fate::Unknown,
                    true => self.fate(&shown, "-READONLY"),
                    false => self.fate(&shown, ":"),
                };
                self.note(id, fate, at);
            }
            Asked::Incr => self.check_counter(&shown, stamp),
            Asked::Echo(id) => self.check_echo(&id, &shown),
            Asked::Publish => drop(self.fate(&shown, ":")),
            Asked::Queue(id) => {
                if self.fate(&shown, ":") != Fate::Refused {
                    self.queued.insert(id, None);
                }
            }
            Asked::Pop => self.check_pop(&shown, stamp),
            Asked::Job(id) => {
                if self.fate(&shown, ":") != Fate::Refused {
                    self.ledger.offer(id);
                }
            }
            Asked::Work => match shown
                .strip_prefix("[jobs ")
                .map(|rest| rest.trim_end_matches(']'))
            {
                Some(id) => self.ledger.take(id, stamp, &self.world),
                None if shown == "nil" => {}
                None => drop(self.fate(&shown, "[jobs ")),
            },
        }
        Ok(())
    }

    async fn answer(&mut self, asked: &Asked) -> Heard<String> {
        if !matches!(asked, Asked::Block(..)) {
            return self.reply().await;
        }
        for good in ["+OK", "+QUEUED", "+QUEUED"] {
            let shown = self.reply().await?;
            self.fate(&shown, good);
        }
        self.reply().await
    }

    /// A transaction command by command, with time between them.
    async fn transact(&mut self) -> Heard<()> {
        let watches = self.rng.once_in(2);
        if watches && !self.step(&format!("WATCH {}:w", self.name), "+OK").await? {
            return Ok(());
        }
        if !self.step("MULTI", "+OK").await? {
            return Ok(());
        }
        let (key, value, id) = (self.rng.below(2), self.id(), self.id());
        for line in [
            format!("SET {}:{key} {value}", self.name),
            format!("RPUSH log {id}"),
        ] {
            let pause = Duration::from_millis(self.rng.below(100));
            sleep(pause).await;
            if self.rng.once_in(40) {
                self.note(id, Fate::Refused, Instant::now());
                return Err(HungUp);
            }
            if !self.step(&line, "+QUEUED").await? {
                self.send("DISCARD").await?;
                self.reply().await?;
                self.note(id, Fate::Refused, Instant::now());
                return Ok(());
            }
        }
        let (stamp, at) = self.send("EXEC").await?;
        let Ok(shown) = self.reply().await else {
            self.note(id, Fate::Unknown, at);
            return Err(HungUp);
        };
        let fate = if shown == "nil" && watches {
            Fate::Refused
        } else {
            self.fate(&shown, "[+OK :")
        };
        self.note_set(key, value, fate, stamp);
        self.note(id, fate, at);
        Ok(())
    }

    /// A key that many write, each only upon what it has seen.
    async fn compare_and_set(&mut self) -> Heard<()> {
        let key = format!("cas:{}", self.rng.below(2));
        if !self.step(&format!("WATCH {}:w {key}", self.name), "+OK").await? {
            return Ok(());
        }
        self.send(&format!("GET {key}")).await?;
        let seen = self.reply().await?;
        if seen.starts_with('-') {
            self.fate(&seen, "a value");
            self.step("UNWATCH", "+OK").await?;
            return Ok(());
        }
        self.keep(&key, &seen);
        let seen = seen.split('|').next().unwrap_or_default().to_owned();
        let pause = Duration::from_millis(self.rng.below(40));
        sleep(pause).await;
        if self.rng.once_in(20) {
            return Err(HungUp);
        }
        let (value, id) = (self.id(), self.id());
        let line = format!("MULTI; SET {key} {value}|{seen}; RPUSH log {id}; EXEC");
        let (_, at) = self.send(&line).await?;
        let asked = Asked::Block(0, value, id.clone());
        let Ok(shown) = self.answer(&asked).await else {
            self.note(id, Fate::Unknown, at);
            return Err(HungUp);
        };
        let fate = if shown == "nil" {
            Fate::Refused
        } else {
            self.fate(&shown, "[+OK :")
        };
        self.note(id, fate, at);
        Ok(())
    }

    /// One command that must be done for the next to make sense.
    async fn step(&mut self, line: &str, good: &str) -> Heard<bool> {
        self.send(line).await?;
        let shown = self.reply().await?;
        Ok(self.fate(&shown, good) == Fate::Done)
    }

    /// Nobody will hear the answer.
    fn give_up(&mut self, asked: Asked, at: Instant) {
        match asked {
            Asked::Push(id) | Asked::Block(_, _, id) | Asked::Script(id, _) => {
                self.note(id, Fate::Unknown, at);
            }
            Asked::Job(id) => self.ledger.offer(id),
            _ => {}
        }
    }

    /// What a reply says of a command whose good reply starts with `good`.
    fn fate(&self, shown: &str, good: &str) -> Fate {
        let fate = Fate::of(shown, good);
        if fate != Fate::Done && self.world.is_peaceful() {
            blame(
                Dread::Stall,
                format!("{}: {shown}, though failovers are planned", self.name),
            );
        }
        if fate == Fate::Done && !shown.starts_with(good) {
            blame(
                Dread::Misdelivered,
                format!("{}: {shown} is no answer like {good}", self.name),
            );
        }
        fate
    }

    /// To the letter: one id may begin as another does.
    fn check_echo(&self, id: &str, shown: &str) {
        if self.fate(shown, id) == Fate::Done && shown != id {
            let name = &self.name;
            blame(Dread::Misdelivered, format!("{name}: {shown} is no echo of {id}"));
        }
    }

    fn note(&mut self, id: String, fate: Fate, asked: Instant) {
        let [before, now] = self.heard;
        // An answer of the primary may have waited behind that of a replica, or for room.
        let waited = self.elsewhere && now <= before + ON_THE_WAY || self.client.was_full_since(asked);
        let told = if waited { asked } else { now };
        self.ledger.note(id, fate, asked, told);
    }
}
