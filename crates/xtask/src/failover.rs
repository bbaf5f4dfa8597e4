//! What failovers cost, scenario by scenario: the table that is promised, measured.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use testkit::scenario::{self, Lab, Scenario};
use testkit::servers::{Server, target_folder};
use testkit::{Flavor, Login};

use crate::setup;
use crate::tool::Tool;

/// Plays every scenario before `wanted`, or before each server that there is: whether all was kept, in time, too.
///
/// # Errors
/// When one could not be played.
pub(crate) fn run(wanted: Option<Flavor>, passwords: bool) -> Result<bool> {
    let found = setup::servers(false)?;
    let wanted = |server: &&Server| wanted.is_none_or(|flavor| flavor == server.flavor);
    let servers: Vec<_> = found.servers.iter().filter(wanted).collect();
    ensure!(!servers.is_empty(), anyhow!("there is no server to measure with"));
    println!("building slipring ...");
    let build = Tool::cargo(&["build", "--release", "--package", "slipring"]);
    ensure!(build.passes()?, "slipring does not build");
    let mut kept = true;
    for server in servers {
        println!(
            "\n{} {}, 3 nodes, 3 sentinels, down-after 1 s, 32 clients",
            server.flavor, server.version
        );
        println!("{}", scenario::head());
        let lab = Lab {
            program: target_folder().join("release").join("slipring"),
            flavor: server.flavor,
            login: passwords.then(|| Login {
                user: None,
                password: "secret".to_owned(),
            }),
            down_after: Duration::from_secs(1),
        };
        for scenario in Scenario::ALL {
            if !scenario.runs_here()? {
                println!("{:<38}not run: it needs root and iproute2", scenario.name());
                continue;
            }
            let told = scenario.play(&lab)?;
            println!("{told}");
            kept &= told.broken.is_empty() && told.is_in_time();
        }
    }
    Ok(kept)
}
