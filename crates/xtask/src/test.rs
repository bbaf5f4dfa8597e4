//! Everything that must pass, one step after another; a failed step does not hide what the later ones say.

use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::servers::Server;
use testkit::{Flavor, Runtime};

use crate::setup::{self, Found};
use crate::tool::Tool;

/// What came of one step.
enum Outcome {
    Passed,
    Failed(String),
    NotRun(String),
}

struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs all steps and prints a summary: whether all passed.
///
/// # Errors
/// None: whatever a step cannot do is its failure.
pub(crate) fn run() -> Result<bool> {
    let began = Instant::now();
    let mut found = Found {
        servers: Vec::new(),
        missing: Flavor::ALL.to_vec(),
    };
    let mut missing_libraries = Runtime::ALL.to_vec();
    let mut counts = false;
    let mut steps = vec![step("set-up", || {
        // All are looked for, whatever becomes of the first.
        let servers = setup::servers(false).map(|servers| found = servers);
        let libraries = setup::libraries(false).map(|missing| missing_libraries = missing);
        counts = setup::valgrind(false)?;
        servers.and(libraries)?;
        Ok(Outcome::Passed)
    })];
    steps.push(cargo("format", &["fmt", "--all", "--check"]));
    steps.push(cargo(
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    ));
    steps.push(if Tool::cargo(&["nextest", "--version"]).works() {
        cargo("tests", &["nextest", "run", "--workspace"])
    } else {
        cargo(
            "tests",
            &[
                "test",
                "--workspace",
                "--lib",
                "--bins",
                "--tests",
                "--no-fail-fast",
            ],
        )
    });
    steps.push(cargo(
        "defects that tests must find",
        &[
            "test",
            "--workspace",
            "--features",
            "testkit/sabotage",
            "--test",
            "bite",
        ],
    ));
    steps.push(cargo(
        "tests in documentation",
        &["test", "--workspace", "--doc", "--quiet"],
    ));
    steps.push(step("documentation", || {
        let doc = Tool::cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
        told(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
    }));
    steps.push(step("command table", || check_command_table(&found.servers)));
    summarise(
        &steps,
        &found.missing,
        &missing_libraries,
        counts,
        began.elapsed(),
    );
    Ok(steps
        .iter()
        .all(|step| !matches!(step.outcome, Outcome::Failed(_))))
}

fn cargo(name: &'static str, args: &[&str]) -> Step {
    step(name, || told(Tool::cargo(args)))
}

fn told(tool: Tool) -> Result<Outcome> {
    let line = tool.to_string();
    Ok(if tool.passes()? {
        Outcome::Passed
    } else {
        Outcome::Failed(line)
    })
}

fn step(name: &'static str, run: impl FnOnce() -> Result<Outcome>) -> Step {
    println!("\n=== {name} ===");
    let began = Instant::now();
    let outcome = run().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    Step {
        name,
        outcome,
        took: began.elapsed(),
    }
}

/// Only the very servers that the table was made from can tell whether it is fresh.
fn check_command_table(servers: &[Server]) -> Result<Outcome> {
    let table = std::fs::read_to_string(crate::command_table())?;
    let heading = table.lines().next().unwrap_or_default();
    let made_from = |flavor: Flavor| {
        let server = servers.iter().find(|server| server.flavor == flavor);
        server.is_some_and(|server| heading.contains(&format!("{flavor} {}", server.version)))
    };
    if !Flavor::ALL.into_iter().all(made_from) {
        return Ok(Outcome::NotRun(
            "it was made from other versions than those here".to_owned(),
        ));
    }
    crate::generate(true).map(|()| Outcome::Passed)
}

fn summarise(steps: &[Step], servers: &[Flavor], libraries: &[Runtime], counts: bool, took: Duration) {
    println!("\n=== summary, after {} s ===", took.as_secs());
    for Step { name, outcome, took } in steps {
        let (word, why) = match outcome {
            Outcome::Passed => ("passed", String::new()),
            Outcome::Failed(why) => ("FAILED", format!("  {why}")),
            Outcome::NotRun(why) => ("not run", format!("  {why}")),
        };
        println!("{word:>8}  {name:<24}{:>6.1} s{why}", took.as_secs_f64());
    }
    for flavor in servers {
        println!(
            " not run  all tests against {flavor}: {} is missing",
            flavor.program()
        );
    }
    for runtime in libraries {
        println!(" not run  all tests with the client libraries for {runtime}: they are missing");
    }
    if !counts {
        println!(" not run  the count of instructions: valgrind is missing");
    }
}
