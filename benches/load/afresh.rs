//! Fronts that are measured one after the other, each started afresh: where memory counts.

use anyhow::Result;
use serde::Serialize;
use testkit::memory::resident_bytes;

use super::front::{Front, Setup};
use super::interrupt::Interrupt;
use super::lab::Lab;
use super::options::Options;
use super::peer::Peer;
use super::progress::progress;
use super::workload::Workload;

/// Where fronts are measured so, for one workload.
pub(super) struct Afresh<'a> {
    pub(super) lab: &'a Lab,
    pub(super) options: &'a Options,
    pub(super) workload: &'a Workload,
    pub(super) interrupt: &'a Interrupt,
}

/// What was measured of one front.
#[derive(Debug, Serialize)]
pub(super) struct Measured<F> {
    pub(super) peer: Peer,
    /// Resident memory before.
    pub(super) rest_bytes: u64,
    #[serde(flatten)]
    pub(super) figures: F,
    /// Why some of the figures are missing.
    pub(super) failure: Option<String>,
}

// === impl Afresh ===

impl Afresh<'_> {
    /// Measures each front that the workload concerns set up so. A front that fails has the figures
    /// that it had by then.
    pub(super) fn each<F: Default>(
        &self,
        setup: Setup,
        measure: impl Fn(&Front, &mut Measured<F>) -> Result<()>,
    ) -> Result<Vec<Measured<F>>> {
        let Self {
            lab,
            options,
            workload,
            interrupt,
        } = self;
        let mut results = Vec::new();
        for peer in options.peers_facing(&workload.kind) {
            progress(&format!("{}: {peer}", workload.name));
            lab.fill(setup.value_bytes)?;
            let front = Front::start(lab, peer, setup)?;
            let mut result = Measured {
                peer,
                rest_bytes: resident_bytes(front.pid)?,
                figures: F::default(),
                failure: None,
            };
            if let Err(e) = measure(&front, &mut result) {
                interrupt.check()?;
                result.failure = Some(format!("{e:#}"));
            }
            results.push(result);
        }
        lab.fill(16)?;
        progress("");
        Ok(results)
    }
}
