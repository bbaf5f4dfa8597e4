//! slipring beside a plain server: the same bytes to both, the same bytes back.
//!
//! A client must not be able to tell the two apart, but for what `exceptions.txt` lists and docs/SEMANTICS.md explains.
//! To add a scenario, add two lines to a file in `scenarios/` (the language: [`scenario`]):
//!
//! ```text
//! == what it shows
//! A SET key value
//! ```
//! `DIFFERENTIAL_ONLY=inline cargo nextest run -p slipring --test differential` plays those alone whose name holds the
//! word.

#![expect(
    clippy::disallowed_methods,
    reason = "real processes and plain threads take real time"
)]

mod compare;
mod duel;
mod exceptions;
mod pipelines;
mod random;
mod scenario;
mod side;
mod splits;
mod sweep;
mod words;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use testkit::{Flavor, on_each_server};

use duel::{Doors, Duel, play_all};
use scenario::{Scenario, parse};

on_each_server! {
    fn scenarios(flavor: Flavor) -> Result<()> {
        play_all(&mut Duel::start(flavor, &Doors::Open)?, &read("open")?)
    }

    fn scenarios_behind_a_password(flavor: Flavor) -> Result<()> {
        play_all(&mut Duel::start(flavor, &Doors::Locked("secret"))?, &read("locked")?)
    }

    fn scenarios_with_shared_subscriptions(flavor: Flavor) -> Result<()> {
        let mut scenarios = read("open")?;
        scenarios.retain(|scenario| scenario.to_string().to_uppercase().contains("SUBSCRIBE"));
        play_all(&mut Duel::start(flavor, &Doors::Sharing)?, &scenarios)
    }

    fn every_command(flavor: Flavor) -> Result<()> {
        play_all(&mut Duel::start(flavor, &Doors::Open)?, &sweep::scenarios())
    }

    fn every_split(flavor: Flavor) -> Result<()> {
        splits::check(&Duel::start(flavor, &Doors::Open)?)
    }

    fn random_clients(flavor: Flavor) -> Result<()> {
        random::check(&mut Duel::start(flavor, &Doors::Open)?)
    }

    fn huge_pipelines(flavor: Flavor) -> Result<()> {
        pipelines::check(&Duel::start(flavor, &Doors::Open)?)
    }
}

/// The scenarios of one folder.
fn read(folder: &str) -> Result<Vec<Scenario>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/differential/scenarios")
        .join(folder);
    let mut files = Vec::new();
    for file in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        files.push(file?.path());
    }
    files.sort();
    let mut scenarios = Vec::new();
    for file in files {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        scenarios.extend(parse(&name, &fs::read_to_string(&file)?)?);
    }
    Ok(scenarios)
}
