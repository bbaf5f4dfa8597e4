//! The instructions of each piece of the hot path, as callgrind counts them: a slip is seen the day it happens.
//!
//! After a change that is meant: `SLIPRING_WRITE_COUNTS=1 cargo test -p slipring-benches --test counts`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use slipring_benches::counted::{COMMANDS, Case};
use testkit::servers::under_ci;

/// Between what was written down and what is counted, per cent.
const ROOM: f64 = 5.0;

/// What it may cost to look out for slow commands and to sample: this case in terms of that one, at most.
const WATCHED: [(Case, Case); 2] = [
    (Case::GetFrom50Watched, Case::GetFrom50),
    (Case::GetPipelinedWatched, Case::GetPipelined),
];
const WATCHED_RATIO: f64 = 1.03;

/// `counts.json`.
#[derive(Debug, Deserialize, Serialize)]
struct Written {
    /// What made the program: another compiler makes another one.
    compiler: String,
    /// Instructions of one command, by case.
    instructions: BTreeMap<String, f64>,
}

#[test]
fn a_command_takes_no_more_instructions_than_before() -> Result<()> {
    let has = |program| Command::new(program).arg("--version").output().is_ok();
    if !has("valgrind") {
        ensure!(!under_ci(), "under CI valgrind must be there: cargo xtask setup");
        eprintln!("not run: there is no valgrind");
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counts.json");
    let mut instructions = BTreeMap::new();
    for case in Case::ALL {
        instructions.insert(case.name().to_owned(), count(case)?);
    }
    for (watched, plain) in WATCHED {
        let of = |case: Case| instructions.get(case.name()).copied().unwrap_or_default();
        let (watched, plain) = (of(watched), of(plain));
        ensure!(
            watched <= plain * WATCHED_RATIO,
            "{watched} instructions where {plain} do without slow log and samples"
        );
    }
    let now = Written {
        compiler: compiler()?,
        instructions,
    };
    if std::env::var_os("SLIPRING_WRITE_COUNTS").is_some() {
        return Ok(fs::write(path, serde_json::to_string_pretty(&now)? + "\n")?);
    }
    let before: Written = serde_json::from_str(&fs::read_to_string(path)?)?;
    if before.compiler != now.compiler {
        eprintln!(
            "not compared: written down with {}, this is {}",
            before.compiler, now.compiler
        );
        return Ok(());
    }
    let differs = |(name, now): (&String, &f64)| {
        let before = before.instructions.get(name).copied().unwrap_or_default();
        ((now - before).abs() * 100.0 > before * ROOM).then(|| format!("{name}: {before} before, {now} now"))
    };
    let differing: Vec<_> = now.instructions.iter().filter_map(differs).collect();
    ensure!(
        differing.is_empty(),
        "instructions of one command differ by more than {ROOM} %:\n{}\nif that is meant: \
         SLIPRING_WRITE_COUNTS=1 cargo test -p slipring-benches --test counts",
        differing.join("\n")
    );
    Ok(())
}

/// Instructions of one command.
fn count(case: Case) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=counts::measured*"])
        .arg(env!("CARGO_BIN_EXE_counts"))
        .arg(case.name())
        .output()
        .context("valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", case.name());
    let collected = told.lines().find_map(|line| line.split_once("Collected :"));
    let Some((_, collected)) = collected else {
        bail!("{}: no count in {told}", case.name());
    };
    let collected: f64 = collected
        .trim()
        .parse()
        .with_context(|| format!("a count: {collected}"))?;
    ensure!(
        collected > COMMANDS as f64,
        "{}: {collected} is nothing",
        case.name()
    );
    Ok((collected / COMMANDS as f64).round())
}

fn compiler() -> Result<String> {
    let told = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("--version")
        .output()?;
    Ok(String::from_utf8(told.stdout)?.trim().to_owned())
}
