//! One piece of the hot path, to be counted: `counts <case>`. What is to be counted happens in `measured` alone.

use std::hint::black_box;
use std::process::ExitCode;

use slipring_benches::counted::{Case, Prepared};

fn main() -> anyhow::Result<ExitCode> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(case) = Case::ALL.into_iter().find(|case| case.name() == name) else {
        let names: Vec<_> = Case::ALL.iter().map(Case::name).collect();
        eprintln!("counts: {name:?} is no case; there are {}", names.join(", "));
        return Ok(ExitCode::from(64));
    };
    let mut prepared = case.prepare()?;
    // Warm: connections made, buffers grown.
    prepared.run()?;
    measured(&mut prepared)?;
    Ok(ExitCode::SUCCESS)
}

/// Known by its name to whoever counts.
#[inline(never)]
fn measured(prepared: &mut Prepared) -> anyhow::Result<()> {
    black_box(prepared).run()
}
