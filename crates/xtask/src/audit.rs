//! What need not run on every change: the dependencies' licences and sources, and the fuzz targets.

use anyhow::Result;
use clap::Args;
use testkit::servers::target_folder;

use crate::tool::Tool;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long each fuzz target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

/// Runs both: whether all was well.
///
/// # Errors
/// When a program that is there cannot be started.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let dependencies = dependencies()?;
    let fuzz = fuzz(options.seconds)?;
    Ok(dependencies && fuzz)
}

fn dependencies() -> Result<bool> {
    println!("=== dependencies ===");
    if !Tool::cargo(&["deny", "--version"]).works() {
        println!("cargo-deny is missing; to have it: cargo install --locked cargo-deny");
        return Ok(false);
    }
    Tool::cargo(&["deny", "check", "bans", "licenses", "sources"]).passes()
}

fn fuzz(seconds: u64) -> Result<bool> {
    println!("=== fuzz targets, {seconds} s each ===");
    if !Tool::cargo(&["fuzz", "--version"]).works() {
        println!("cargo-fuzz is missing; to have it: cargo install --locked cargo-fuzz");
        return Ok(false);
    }
    let mut all_well = true;
    for target in Tool::cargo(&["fuzz", "list"]).output()?.lines() {
        // What is found goes into the first folder, and the second is only read: what is committed is chosen by hand.
        let finds = target_folder().join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&finds)?;
        let corpora = [finds, crate::workspace().join("fuzz/corpus").join(target)];
        let limit = format!("-max_total_time={seconds}");
        // The sanitizers ask for a nightly compiler; the stable one has them behind this variable.
        let run = Tool::cargo(&["fuzz", "run", target])
            .args(&corpora)
            .args(&["--", &limit]);
        let run = run.env("RUSTC_BOOTSTRAP", "1");
        let well = run.passes()?;
        println!("{target}: {}", if well { "found nothing" } else { "FAILED" });
        all_well &= well;
    }
    Ok(all_well)
}
