//! Random clients: streams of commands over few keys, pipelined and split at random, two or three clients in turns.
//!
//! A seed that fails is printed with the shortest story that still fails, in the language of the scenarios.
//! `DIFFERENTIAL_SEED=7 cargo nextest run -p slipring --test differential random` tells that seed alone;
//! `DIFFERENTIAL_SEEDS=100000` tells so many.

mod commands;

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::duel::Duel;
use super::scenario::{Act, Scenario, Step};
use super::words::escaped;
use commands::Speaker;

const SEEDS: u64 = 200;

/// While a story is made shorter, silence is waited for over and over.
const IMPATIENCE: Duration = Duration::from_millis(400);

/// Longer than a command that waits for a millisecond.
const TIMED: Duration = Duration::from_millis(8);

/// What one client sends before another has its turn.
#[derive(Clone)]
struct Turn {
    client: char,
    commands: Vec<Vec<u8>>,
    /// Where its writes end: so many thousandths of the way.
    cuts: Vec<usize>,
}

/// Chance, from a seed.
pub(crate) struct Chance(u64);

/// Tells stories until one fails.
pub(crate) fn check(duel: &mut Duel) -> Result<()> {
    let number = |name: &str| {
        env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().context(text))
            .transpose()
    };
    let seeds = match number("DIFFERENTIAL_SEED")? {
        Some(seed) => seed..seed + 1,
        None => 0..number("DIFFERENTIAL_SEEDS")?.unwrap_or(SEEDS),
    };
    for seed in seeds {
        let turns = turns(&mut Chance::new(seed));
        if let Some(difference) = duel.play(&story(seed, &turns))? {
            println!("seed {seed} differs, and is made shorter: {difference}");
            duel.be_patient(IMPATIENCE);
            let (turns, difference) = shortened(duel, seed, turns, difference)?;
            bail!("seed {seed}\n{}{difference}", story(seed, &turns));
        }
    }
    Ok(())
}

fn turns(chance: &mut Chance) -> Vec<Turn> {
    let clients = 1 + chance.below(3);
    let mut speakers: Vec<Speaker> = (0..clients)
        .map(|index| Speaker::new(b'A' + index as u8))
        .collect();
    let mut turns = Vec::new();
    for _ in 0..4 + chance.below(12) {
        let speaker = &mut speakers[chance.below(clients)];
        let depth = if chance.one_in(4) {
            1 + chance.below(30)
        } else {
            1 + chance.below(5)
        };
        let commands = speaker.speak(chance, depth);
        let cuts = (0..chance.below(3)).map(|_| chance.below(1000)).collect();
        turns.push(Turn {
            client: speaker.name(),
            commands,
            cuts,
        });
        if speaker.is_over() {
            *speaker = speaker.successor();
        }
    }
    turns
}

fn story(seed: u64, turns: &[Turn]) -> Scenario {
    let steps = |turn: &Turn| {
        let bytes = turn.commands.concat();
        let mut cuts: Vec<usize> = turn.cuts.iter().map(|part| bytes.len() * part / 1000).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<String> = cuts
            .windows(2)
            .map(|pair| escaped(&bytes[pair[0]..pair[1]]))
            .collect();
        let sent = Step::Client(turn.client, Act::Pieces(pieces.join(" ")));
        // What waits for so long and no longer is over before anybody else has a turn, one after the other.
        let timed = turn
            .commands
            .iter()
            .filter(|command| commands::is_timed(command))
            .count();
        std::iter::once(sent).chain(std::iter::repeat_n(Step::Wait(TIMED), timed))
    };
    Scenario {
        name: format!("random {seed}"),
        steps: turns.iter().flat_map(steps).collect(),
        ..Scenario::default()
    }
}

/// Leaves out whatever is not needed to fail: turns, then commands.
fn shortened(
    duel: &mut Duel,
    seed: u64,
    mut turns: Vec<Turn>,
    mut difference: String,
) -> Result<(Vec<Turn>, String)> {
    let mut without = |candidate: Vec<Turn>, turns: &mut Vec<Turn>| -> Result<bool> {
        let Some(found) = duel.play(&story(seed, &candidate))? else {
            return Ok(false);
        };
        difference = found;
        *turns = candidate;
        Ok(true)
    };
    let mut at = turns.len();
    while at > 0 {
        at -= 1;
        let mut candidate = turns.clone();
        candidate.remove(at);
        without(candidate, &mut turns)?;
    }
    for turn in (0..turns.len()).rev() {
        for at in (0..turns[turn].commands.len()).rev() {
            let mut candidate = turns.clone();
            candidate[turn].commands.remove(at);
            without(candidate, &mut turns)?;
        }
    }
    Ok((turns, difference))
}

// === impl Chance ===

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    /// SplitMix64: whatever the seed, the first numbers are as good as the later ones.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}
