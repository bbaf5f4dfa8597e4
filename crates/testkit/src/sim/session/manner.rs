//! How a session speaks: as whom, in which protocol, and whether it keeps what it reads.

use std::collections::BTreeMap;

use super::{Heard, HungUp, Session};
use crate::sim::blame::{Dread, blame};
use crate::sim::ledger::Fate;
use crate::sim::world::USER;

/// How a session speaks.
#[derive(Default)]
pub(super) struct Manner {
    resp3: bool,
    /// What it makes up ends so: nodes check who brings it.
    pub(super) mark: &'static str,
    /// What it has read, until it is told that it has changed.
    cache: Option<BTreeMap<String, String>>,
}

impl Session {
    /// AUTH, HELLO and CLIENT TRACKING, or none of it.
    pub(super) async fn introduce(&mut self) -> Heard<()> {
        let (user, password) = USER;
        if self.rng.once_in(3) && self.becomes(&format!("AUTH {user} {password}"), "+OK").await? {
            self.manner.mark = "@app";
        }
        if self.rng.once_in(2) && self.becomes("HELLO 3", "%[server").await? {
            self.manner.resp3 = true;
            if self.rng.once_in(2) && self.becomes("CLIENT TRACKING ON", "+OK").await? {
                self.manner.cache = Some(BTreeMap::new());
            }
        }
        Ok(())
    }

    /// Whether it is so now. Where nobody knows, it is of no more use.
    async fn becomes(&mut self, line: &str, good: &str) -> Heard<bool> {
        self.send(line).await?;
        let shown = self.reply().await?;
        match self.fate(&shown, good) {
            Fate::Done => Ok(true),
            Fate::Refused => Ok(false),
            Fate::Unknown => Err(HungUp),
        }
    }

    pub(super) fn tracks(&self) -> bool {
        self.manner.cache.is_some()
    }

    /// Each protocol has a null of its own.
    pub(super) fn check_protocol(&self, frame: &[u8], shown: &str) {
        if shown == "nil" && frame.starts_with(b"_") != self.manner.resp3 {
            let name = &self.name;
            blame(
                Dread::Misdelivered,
                format!("{name} was answered in another protocol"),
            );
        }
    }

    /// What comes unasked: keys that have changed.
    pub(super) fn take_push(&mut self, shown: &str) {
        let told = shown.strip_prefix(">[invalidate ");
        match (&mut self.manner.cache, told) {
            (Some(cache), Some("nil]")) => cache.clear(),
            (Some(cache), Some(keys)) => {
                let keys = keys.trim_matches(['[', ']']).split(' ');
                keys.for_each(|key| drop(cache.remove(key)));
            }
            _ => blame(
                Dread::Misdelivered,
                format!("{}: {shown} was not asked for", self.name),
            ),
        }
    }

    /// A key has just been read: it is what it was, unless the session was told otherwise.
    pub(super) fn keep(&mut self, key: &str, shown: &str) {
        let Some(cache) = &mut self.manner.cache else {
            return;
        };
        let kept = cache.insert(key.to_owned(), shown.to_owned());
        if let Some(kept) = kept.filter(|kept| kept != shown) {
            let name = &self.name;
            blame(
                Dread::Disorder,
                format!("{name} was not told that {key} is {shown}, no longer {kept}"),
            );
        }
    }
}
