//! The table of what is promised, scenario by scenario, as counts; `cargo xtask load --failover` measures the times.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::scenario::{Lab, Scenario};
use testkit::{Flavor, Login, on_each_server};

/// How long a node may be silent, beside other tests: with less, a sentinel that is not let run calls the new primary down
/// at once. Where nobody is to be found out, a stalled machine is not to make anybody fail over.
const fn down_after(scenario: Scenario) -> Duration {
    match scenario {
        Scenario::Kill | Scenario::Freeze | Scenario::Partition => Duration::from_secs(2),
        _ => Duration::from_secs(20),
    }
}

fn kept(scenario: Scenario, flavor: Flavor, login: Option<Login>) -> Result<()> {
    if !scenario.runs_here()? {
        eprintln!("NOT RUN: {} needs root and iproute2", scenario.name());
        return Ok(());
    }
    let lab = Lab {
        program: PathBuf::from(env!("CARGO_BIN_EXE_slipring")),
        flavor,
        login,
        down_after: down_after(scenario),
    };
    let told = scenario.play(&lab)?;
    eprintln!("{flavor}\n{}\n{told}", testkit::scenario::head());
    ensure!(told.broken.is_empty(), "{told}");
    Ok(())
}

/// Rows that are played once before each server are played with passwords before one of them.
fn password_of(flavor: Flavor) -> Option<Login> {
    password().filter(|_| flavor == Flavor::Valkey)
}

fn password() -> Option<Login> {
    Some(Login {
        user: None,
        password: "se cret".replace(' ', "-"),
    })
}

on_each_server! {
    fn planned_with_passwords(flavor: Flavor) -> Result<()> {
        kept(Scenario::Planned, flavor, password())
    }

    fn ten_planned_in_a_row(flavor: Flavor) -> Result<()> {
        kept(Scenario::TenPlanned, flavor, password_of(flavor))
    }

    fn kill_with_passwords(flavor: Flavor) -> Result<()> {
        kept(Scenario::Kill, flavor, password())
    }

    fn freeze_with_passwords(flavor: Flavor) -> Result<()> {
        kept(Scenario::Freeze, flavor, password())
    }

    fn primary_cut_off(flavor: Flavor) -> Result<()> {
        kept(Scenario::Partition, flavor, password_of(flavor))
    }

    fn replica_killed(flavor: Flavor) -> Result<()> {
        kept(Scenario::ReplicaKilled, flavor, password_of(flavor))
    }

    fn leader_killed(flavor: Flavor) -> Result<()> {
        kept(Scenario::LeaderKilled, flavor, password_of(flavor))
    }

    fn sentinels_lost(flavor: Flavor) -> Result<()> {
        kept(Scenario::SentinelsLost, flavor, password_of(flavor))
    }

    fn node_restarted_with_much_to_load(flavor: Flavor) -> Result<()> {
        kept(Scenario::Loading, flavor, password_of(flavor))
    }

    fn slipring_before_the_cluster_with_passwords(flavor: Flavor) -> Result<()> {
        kept(Scenario::BeforeCluster, flavor, password())
    }

    fn replies_destroyed(flavor: Flavor) -> Result<()> {
        kept(Scenario::RepliesDestroyed, flavor, password_of(flavor))
    }
}
