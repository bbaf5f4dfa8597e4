//! How what was acknowledged and what there is differ.

use std::collections::BTreeSet;
use std::fmt;

/// How what was acknowledged and what there is differ. Numbers are indices into
/// [`History::operations`](super::History::operations).
#[derive(Default)]
pub struct Verdict {
    /// Acknowledged writes that the primary does not hold.
    pub lost: BTreeSet<usize>,
    /// Writes that the primary holds more than once.
    pub doubled: BTreeSet<usize>,
    /// Writes that were refused by an error, and that the primary holds all the same.
    pub contradicted: BTreeSet<usize>,
    /// Acknowledged writes that the primary holds behind a later one of the same client.
    pub disordered: BTreeSet<usize>,
    /// Clients whose transactions were executed in part.
    pub torn: BTreeSet<usize>,
    /// Ids of the queue that BLPOP gave twice: a pop that a failover undid.
    pub redelivered: BTreeSet<u64>,
}

// === impl Verdict ===

impl Verdict {
    /// Whether everything acknowledged is there, once, and nothing that was refused.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Self {
            lost, redelivered, ..
        } = self;
        lost.is_empty() && redelivered.is_empty() && self.is_right()
    }

    /// Whether everything was executed once, whole and in order, and nothing that was refused; what Redis may lose aside.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let wrong = [&self.doubled, &self.contradicted, &self.disordered, &self.torn];
        wrong.iter().all(|wrong| wrong.is_empty())
    }
}

/// Counts, and the first few of each: there may be thousands.
impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        fn few<T: fmt::Debug>(set: &BTreeSet<T>) -> String {
            let first: Vec<_> = set.iter().take(SHOWN).collect();
            let more = if set.len() > SHOWN { ", ..." } else { "" };
            format!("{} {first:?}{more}", set.len())
        }
        write!(
            f,
            "lost {}; doubled {}; contradicted {}; disordered {}; torn {}; redelivered {}",
            few(&self.lost),
            few(&self.doubled),
            few(&self.contradicted),
            few(&self.disordered),
            few(&self.torn),
            few(&self.redelivered)
        )
    }
}
