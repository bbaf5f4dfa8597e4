//! Hot keys and large values among the sampled commands, in bounded memory.
//!
//! Keys are counted by the space-saving algorithm: where there is no room, the rarest one makes it, and the newcomer
//! inherits its count as possible error. Whatever has more than its share of the samples is sure to be there.

use std::cmp::Reverse;

use resp_codec::Command;
use tokio::time::Instant;

use super::quoted;
use crate::limits;

#[derive(Debug, Default)]
pub(super) struct HotKeys {
    keys: Vec<Hot>,
    large: Vec<Large>,
    /// Samples with a key, as far as they still count.
    samples: u64,
}

#[derive(Clone, Debug)]
struct Hot {
    key: Box<[u8]>,
    count: u64,
    /// So much of the count may be another key's.
    error: u64,
}

/// The largest that was seen of a key: a request with its value, or a reply.
#[derive(Clone, Debug)]
struct Large {
    key: Box<[u8]>,
    bytes: usize,
    command: &'static str,
    seen: Instant,
}

// === impl HotKeys ===

impl HotKeys {
    /// A sampled command whose request or reply is so large.
    pub(super) fn note(&mut self, command: &Command<&[u8]>, bytes: usize, now: Instant) {
        let Ok(keys) = command.keys() else { return };
        for range in keys.into_iter().take(limits::SAMPLED_KEYS) {
            let key = command.frame().get(range).unwrap_or_default();
            let key = key.get(..limits::SAMPLED_KEY_BYTES).unwrap_or(key);
            self.count(key);
            if bytes >= limits::LARGE_BYTES {
                self.enlarge(Large {
                    key: key.into(),
                    bytes,
                    command: command.spec().name,
                    seen: now,
                });
            }
        }
    }

    fn count(&mut self, key: &[u8]) {
        self.samples += 1;
        if self.samples >= limits::SAMPLES_REMEMBERED {
            // What was hot long ago is not hot.
            self.samples /= 2;
            for hot in &mut self.keys {
                hot.count /= 2;
                hot.error /= 2;
            }
        }
        if let Some(hot) = self.keys.iter_mut().find(|hot| *hot.key == *key) {
            hot.count += 1;
        } else if self.keys.len() < limits::HOT_KEYS {
            self.keys.push(Hot {
                key: key.into(),
                count: 1,
                error: 0,
            });
        } else if let Some(rarest) = self.keys.iter_mut().min_by_key(|hot| hot.count) {
            *rarest = Hot {
                key: key.into(),
                count: rarest.count + 1,
                error: rarest.count,
            };
        }
    }

    fn enlarge(&mut self, large: Large) {
        if let Some(known) = self.large.iter_mut().find(|known| known.key == large.key) {
            if known.bytes <= large.bytes {
                *known = large;
            }
        } else if self.large.len() < limits::LARGE_VALUES {
            self.large.push(large);
        } else if let Some(least) = self.large.iter_mut().min_by_key(|known| known.bytes)
            && least.bytes < large.bytes
        {
            *least = large;
        }
    }

    /// Adds what another worker has found.
    pub(super) fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        for hot in &other.keys {
            match self.keys.iter_mut().find(|known| known.key == hot.key) {
                Some(known) => {
                    known.count += hot.count;
                    known.error += hot.error;
                }
                None => self.keys.push(hot.clone()),
            }
        }
        other.large.iter().for_each(|large| self.enlarge(large.clone()));
    }

    /// The hottest first, then the largest.
    pub(super) fn lines(mut self, now: Instant) -> Vec<String> {
        self.keys.sort_by_key(|hot| Reverse(hot.count));
        self.large.sort_by_key(|large| Reverse(large.bytes));
        let percent = |count: u64| 100.0 * count as f64 / self.samples.max(1) as f64;
        let hot = self.keys.iter().take(limits::HOT_KEYS_SHOWN).map(|hot| {
            let (share, error) = (percent(hot.count), percent(hot.error));
            format!("hot share={share:.1}% error={error:.1}% key={}", shown(&hot.key))
        });
        let large = self.large.iter().map(|large| {
            let ago = now.saturating_duration_since(large.seen).as_secs();
            let key = shown(&large.key);
            format!(
                "large bytes={} command={} seen={ago}s-ago key={key}",
                large.bytes, large.command
            )
        });
        let samples = format!("samples={}", self.samples);
        std::iter::once(samples).chain(hot).chain(large).collect()
    }
}

fn shown(key: &[u8]) -> String {
    quoted(key, limits::SAMPLED_KEY_BYTES, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_key_is_found_among_many_cold_ones() {
        let mut hot = HotKeys::default();
        for number in 0..20_000_u32 {
            hot.count(if number % 5 == 0 { b"hot" } else { &[0; 8][..] });
            hot.count(&number.to_be_bytes());
        }
        assert_eq!(hot.keys.len(), limits::HOT_KEYS);
        let lines = hot.lines(Instant::now());
        // A half is different each time, a tenth of all is the one, four tenths the other.
        assert!(lines[1].starts_with("hot share=4"), "{lines:?}");
        assert!(
            lines[2].starts_with("hot share=1") && lines[2].ends_with("key=\"hot\""),
            "{lines:?}"
        );
    }

    #[test]
    fn what_was_hot_is_forgotten() {
        let mut hot = HotKeys::default();
        for _ in 0..limits::SAMPLES_REMEMBERED {
            hot.count(b"old");
        }
        for _ in 0..4 * limits::SAMPLES_REMEMBERED {
            hot.count(b"new");
        }
        assert!(hot.samples < limits::SAMPLES_REMEMBERED);
        assert!(hot.lines(Instant::now())[1].ends_with("key=\"new\""));
    }

    #[test]
    fn the_largest_stay() {
        let mut hot = HotKeys::default();
        for bytes in 0..100_usize {
            hot.enlarge(Large {
                key: (bytes / 2).to_be_bytes().into(),
                bytes,
                command: "get",
                seen: Instant::now(),
            });
        }
        let mut sizes: Vec<_> = hot.large.iter().map(|large| large.bytes).collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len(), limits::LARGE_VALUES);
        assert!(
            sizes.first() >= Some(&(100 - 2 * limits::LARGE_VALUES)),
            "{sizes:?}"
        );
    }
}
