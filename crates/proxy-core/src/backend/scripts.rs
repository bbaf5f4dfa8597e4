//! Scripts that this process has seen, so that a new primary can be told them before it is asked for one by digest.
//!
//! ```text
//!   EVAL, SCRIPT LOAD --> Scripts::note ---(a text not seen lately)---> ScriptStore, shared by the workers
//!   EVALSHA ----------> Scripts::missing_at(link) --(once a node and digest)--^   its text, if another node was told
//! ```
//! Neither takes a lock for a script that the worker knows already.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, RequestLimits, RequestScan, write};
use sentinel_watcher::Epoch;
use sha1::{Digest as _, Sha1};

use crate::backend::Link;
use crate::limits;

/// SHA-1 of a script's text, as the nodes call it.
pub(crate) type Digest = [u8; 20];

/// The texts, for all workers. The one that was used longest ago makes room.
#[derive(Default)]
pub(crate) struct ScriptStore {
    texts: Mutex<Texts>,
    /// Grows whenever a text leaves: what workers remember of earlier ones is void.
    forgotten: AtomicU64,
}

/// What one worker knows of one master's scripts.
pub(crate) struct Scripts {
    store: Arc<ScriptStore>,
    /// Fingerprints of texts that are in the store.
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Texts {
    texts: BTreeMap<Digest, Text>,
    /// By last use.
    uses: BTreeMap<u64, Digest>,
    used: u64,
    bytes: usize,
}

struct Text {
    body: Bytes,
    /// The term of the primary that was sent it.
    term: Option<Epoch>,
    used: u64,
}

#[derive(Default)]
struct Seen {
    fingerprints: BTreeSet<u64>,
    /// [`ScriptStore::forgotten`] when they were taken.
    forgotten: u64,
}

// === impl Scripts ===

impl Scripts {
    /// Nothing seen yet by this worker.
    pub(crate) fn new(store: Arc<ScriptStore>) -> Self {
        Self {
            store,
            seen: RefCell::default(),
        }
    }

    /// Remembers the text of a command that carries one to the primary of `term`; SCRIPT FLUSH forgets all.
    pub(crate) fn note<B: AsRef<[u8]>>(&self, command: &Command<B>, term: Option<Epoch>) {
        let text = match command.spec().name {
            "eval" | "eval_ro" => command.arg(1),
            "script|load" => command.arg(2),
            "script|flush" if is_flush(command) => {
                self.store.forget_all();
                return;
            }
            _ => return,
        };
        let Some(text) = text.filter(|text| text.len() <= limits::SCRIPT_BYTES) else {
            return;
        };
        let seen = &mut *self.seen.borrow_mut();
        let forgotten = self.store.forgotten.load(Ordering::Relaxed);
        if seen.forgotten != forgotten || seen.fingerprints.len() >= limits::SCRIPTS_KNOWN {
            seen.fingerprints.clear();
            seen.forgotten = forgotten;
        }
        if seen.fingerprints.insert(fingerprint(text)) {
            self.store.put(text, term);
        }
    }

    /// SCRIPT LOAD commands that the node of `link` needs before `frames`, because they name scripts by digest that
    /// only a former primary was told.
    pub(crate) fn missing_at(&self, link: &Link, frames: &[u8]) -> Vec<Bytes> {
        let mut missing = Vec::new();
        let mut rest = frames;
        while let Ok(Some(found)) = RequestScan::default().advance(rest, &RequestLimits::AUTHENTICATED) {
            let Some((frame, more)) = rest.split_at_checked(found.len) else {
                break;
            };
            rest = more;
            let command = Command::new(frame, found);
            if command.spec().class != Class::Script || !command.spec().name.starts_with("evalsha") {
                continue;
            }
            let Some(digest) = command.arg(1).and_then(digest) else {
                continue;
            };
            if link.note_script(digest)
                && let Some(text) = self.store.text_for(&digest, link.node.term)
            {
                let mut load = BytesMut::new();
                write::command(&mut load, &[b"SCRIPT", b"LOAD", &text]);
                missing.push(load.freeze());
            }
        }
        missing
    }
}

// === impl ScriptStore ===

impl ScriptStore {
    fn put(&self, text: &[u8], term: Option<Epoch>) {
        let digest: Digest = Sha1::digest(text).into();
        let texts = &mut *self.texts();
        texts.remove(&digest);
        texts.used += 1;
        texts.bytes += text.len() + limits::SCRIPT_OVERHEAD;
        texts.uses.insert(texts.used, digest);
        let text = Text {
            body: Bytes::copy_from_slice(text),
            term,
            used: texts.used,
        };
        texts.texts.insert(digest, text);
        while texts.bytes > limits::SCRIPTS_BYTES
            && let Some((_, oldest)) = texts.uses.first_key_value()
        {
            let oldest = *oldest;
            texts.remove(&oldest);
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The text of that digest, unless the primary of `term` has been sent it.
    fn text_for(&self, digest: &Digest, term: Option<Epoch>) -> Option<Bytes> {
        let texts = &mut *self.texts();
        texts.used += 1;
        let used = texts.used;
        let text = texts.texts.get_mut(digest)?;
        let before = std::mem::replace(&mut text.used, used);
        let missing = (text.term != term).then(|| text.body.clone());
        texts.uses.remove(&before);
        texts.uses.insert(used, *digest);
        missing
    }

    fn forget_all(&self) {
        *self.texts() = Texts::default();
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    fn texts(&self) -> std::sync::MutexGuard<'_, Texts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Texts ===

impl Texts {
    fn remove(&mut self, digest: &Digest) {
        if let Some(text) = self.texts.remove(digest) {
            self.uses.remove(&text.used);
            self.bytes -= text.body.len() + limits::SCRIPT_OVERHEAD;
        }
    }
}

/// A digest as commands write it: forty hexadecimal digits, of either case.
fn digest(text: &[u8]) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        let nibble = |digit: &u8| char::from(*digit).to_digit(16);
        let [high, low] = pair else { return None };
        *byte = u8::try_from(nibble(high)? * 16 + nibble(low)?).ok()?;
    }
    Some(digest)
}

/// SCRIPT FLUSH that a node executes.
fn is_flush<B: AsRef<[u8]>>(command: &Command<B>) -> bool {
    match command.arg(2) {
        None => true,
        Some(how) => {
            command.argc() == 3 && (how.eq_ignore_ascii_case(b"async") || how.eq_ignore_ascii_case(b"sync"))
        }
    }
}

/// Tells texts apart at a tenth of SHA-1's cost. Two that it takes for one cost no more than a NOSCRIPT.
fn fingerprint(text: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (words, rest) = text.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(text.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = b"return 1";
    const ONE_DIGEST: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    fn stored(store: &ScriptStore, term: u64) -> Option<Bytes> {
        store.text_for(&digest(ONE_DIGEST.as_bytes()).unwrap(), Some(Epoch(term)))
    }

    fn note(scripts: &Scripts, words: &[&[u8]], term: u64) {
        let mut frame = BytesMut::new();
        write::command(&mut frame, words);
        let found = RequestScan::default().advance(&frame, &RequestLimits::AUTHENTICATED);
        scripts.note(
            &Command::new(&frame[..], found.unwrap().unwrap()),
            Some(Epoch(term)),
        );
    }

    #[test]
    fn a_text_is_found_by_its_digest_once_another_node_was_told() {
        let store = Arc::new(ScriptStore::default());
        let scripts = Scripts::new(Arc::clone(&store));
        assert_eq!(stored(&store, 1), None);
        note(&scripts, &[b"eval", ONE, b"0"], 1);
        assert_eq!(stored(&store, 1), None, "it has it");
        assert_eq!(stored(&store, 2).as_deref(), Some(ONE));
        assert_eq!(digest(b"e0e1"), None);
        assert_eq!(digest(&[b'x'; 40]), None);
        assert_eq!(
            digest(ONE_DIGEST.to_uppercase().as_bytes()),
            digest(ONE_DIGEST.as_bytes())
        );
    }

    #[test]
    fn a_flush_empties_the_store_and_what_other_workers_remember() {
        let store = Arc::new(ScriptStore::default());
        let (one, other) = (Scripts::new(Arc::clone(&store)), Scripts::new(Arc::clone(&store)));
        note(&one, &[b"script", b"load", ONE], 1);
        note(&other, &[b"script", b"flush", b"nonsense"], 1);
        assert!(stored(&store, 2).is_some(), "the node refuses that");
        note(&other, &[b"SCRIPT", b"FLUSH", b"async"], 1);
        assert_eq!(stored(&store, 2), None);
        note(&one, &[b"eval", ONE, b"0"], 1);
        assert!(stored(&store, 2).is_some());
    }

    #[test]
    fn the_store_is_bounded_and_keeps_what_is_used() {
        let store = Arc::new(ScriptStore::default());
        let scripts = Scripts::new(Arc::clone(&store));
        note(&scripts, &[b"eval", ONE, b"0"], 1);
        for number in 0..40_u32 {
            let text = vec![b'a' + number as u8; limits::SCRIPT_BYTES];
            note(&scripts, &[b"eval", &text, b"0"], 1);
            assert!(stored(&store, 2).is_some());
            assert!(store.texts().bytes <= limits::SCRIPTS_BYTES);
        }
        assert!(store.texts().texts.len() < 40);
    }
}
