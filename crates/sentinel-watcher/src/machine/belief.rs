//! Which address is true, when sentinels differ.

use crate::topology::HostPort;

/// "This address is primary since this config-epoch."
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) epoch: u64,
    pub(crate) address: HostPort,
}

/// The claim with the highest epoch. Among equals: `ours`, then the one that most sentinels make.
///
/// `ours` is the last confirmed primary: with its sentinels away, a stale one must not lead us back.
pub(crate) fn highest(ours: Option<&Claim>, claims: &[Claim]) -> Option<Claim> {
    let weight = |claim: &Claim| (claim.epoch, ours == Some(claim), votes(claim, claims));
    claims
        .iter()
        .chain(ours)
        .max_by_key(|claim| weight(claim))
        .cloned()
}

/// A claim that contradicts `top` and is made by a majority of all `known` sentinels, answering or not.
///
/// Sentinels that were recreated, or told REMOVE and MONITOR, start again at epoch 0: they are right, and the
/// higher epoch is a memory.
pub(crate) fn dissent(top: &Claim, claims: &[Claim], known: usize) -> Option<Claim> {
    let majority = claims.iter().find(|claim| is_majority(claim, claims, known))?;
    (majority != top).then(|| majority.clone())
}

/// More than half of all `known` sentinels make `claim`.
pub(crate) fn is_majority(claim: &Claim, claims: &[Claim], known: usize) -> bool {
    votes(claim, claims) * 2 > known
}

fn votes(claim: &Claim, claims: &[Claim]) -> usize {
    claims.iter().filter(|other| *other == claim).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(text: &str) -> Claim {
        let (port, epoch) = text.split_once('@').unwrap();
        Claim {
            epoch: epoch.parse().unwrap(),
            address: HostPort::new("h", port.parse().unwrap()),
        }
    }

    fn claims(text: &str) -> Vec<Claim> {
        text.split_whitespace().map(claim).collect()
    }

    #[test]
    fn the_highest_epoch_wins() {
        for (ours, said, top) in [
            ("1@0", "1@0 1@0 1@0", "1@0"),
            ("1@4", "2@5 1@4 1@4", "2@5"),
            // A stale sentinel alone does not lead back.
            ("2@5", "1@4", "2@5"),
            ("2@5", "", "2@5"),
            // Equal epochs: our own knowledge, then the votes.
            ("1@0", "2@0 2@0", "1@0"),
        ] {
            assert_eq!(
                highest(Some(&claim(ours)), &claims(said)),
                Some(claim(top)),
                "{ours} {said}"
            );
        }
        assert_eq!(highest(None, &claims("1@0 2@0 2@0")), Some(claim("2@0")));
        assert_eq!(highest(None, &[]), None);
    }

    #[test]
    fn a_majority_of_all_known_sentinels_may_contradict() {
        for (top, said, known, found) in [
            ("2@7", "1@0 1@0 2@7", 3, Some("1@0")),
            ("2@7", "2@0 2@0", 3, Some("2@0")),
            ("2@7", "1@0 2@7", 3, None),
            ("2@7", "1@0 1@1 2@7", 3, None),
            ("2@7", "2@7 2@7 1@0", 3, None),
            ("2@7", "1@0 1@0", 4, None),
        ] {
            assert_eq!(
                dissent(&claim(top), &claims(said), known),
                found.map(claim),
                "{top} {said}"
            );
        }
    }
}
