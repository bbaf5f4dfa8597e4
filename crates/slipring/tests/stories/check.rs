//! `slipring check` before set-ups that are wrong on purpose, and `slipring status`: one cluster, whose configuration changes.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use testkit::{Client, Cluster, Flavor, on_each_server};

use super::support::{ask, before, says, words};

/// A cluster, and how often something was found wrong with it.
struct Case<'a> {
    cluster: &'a Cluster,
    found: usize,
}

on_each_server! {
    fn every_wrong_set_up_is_found_and_its_remedy_named(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).node_config("min-replicas-to-write 1").start()?;
        let mut case = Case { cluster: &cluster, found: 0 };
        let (right, said) = case.check(&[])?;
        ensure!(right && said.ends_with("0 wrong, 0 to look at\n"), "{said}");
        case.addresses_and_names()?;
        case.sentinels()?;
        case.nodes()?;
        case.passwords()?;
        let (right, said) = case.check(&[])?;
        ensure!(right && said.ends_with("0 wrong, 0 to look at\n"), "afterwards: {said}");
        ensure!(case.found >= 16, "{}", case.found);
        status(&cluster)
    }
}

/// One screen, or JSON; and what is said where nothing runs.
fn status(cluster: &Cluster) -> Result<()> {
    let proxy = before(cluster)?;
    let mut client = proxy.client()?;
    says(&mut client, "PING", "PONG")?;
    let at = proxy.admin_address().to_string();
    let (right, screen) = slipring(&["status", "--metrics-listen", &at])?;
    let primary = cluster.primary()?.address();
    ensure!(
        right && screen.contains(&format!("primary {primary}")),
        "{screen}"
    );
    let (right, json) = slipring(&["status", "--json", "--metrics-listen", &at])?;
    let known: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(
        right && known["ready"] == true && known["metrics"]["clients"] == 1.0,
        "{known}"
    );
    ask(&mut client, "PROXY PAUSE")?;
    proxy.process().wait_until("the pause", || {
        let (right, screen) = slipring(&["status", "--metrics-listen", &at])?;
        ensure!(
            !right && screen.contains("NOT READY") && screen.contains("mymaster: moving"),
            "{screen}"
        );
        Ok(())
    })?;
    let (right, json) = slipring(&["status", "--json", "--metrics-listen", &at])?;
    let known: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(!right && known["ready"] == false, "{known}");
    let (right, said) = slipring(&["status", "--metrics-listen", "127.0.0.1:1"])?;
    ensure!(!right && said.contains("is slipring running"), "{said}");
    Ok(())
}

/// Runs the binary. Whether it succeeds, and all that it prints.
fn slipring(arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_slipring"))
        .args(arguments)
        .output()?;
    let printed = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    ))
}

// === impl Case ===

impl Case<'_> {
    fn check(&self, flags: &[&str]) -> Result<(bool, String)> {
        let sentinels = self.cluster.sentinel_list();
        let named = flags.contains(&"--sentinels");
        let usual: &[&str] = if named {
            &["check"]
        } else {
            &["check", "--sentinels", &sentinels]
        };
        slipring(&[usual, flags].concat())
    }

    /// With these flags, `what` is found and `remedy` is named; `wrong`: it is more than a risk.
    fn finds(&mut self, flags: &[&str], wrong: bool, what: &str, remedy: &str) -> Result<()> {
        let (right, said) = self.check(flags)?;
        let lines: Vec<_> = said.lines().collect();
        let grade = if wrong { "WRONG" } else { "RISK" };
        let told = lines.windows(2).any(|pair| {
            pair[0].starts_with(grade)
                && pair[0].contains(what)
                && pair[1].contains("->")
                && pair[1].contains(remedy)
        });
        ensure!(told && right != wrong, "{flags:?}: {what}: {remedy}\n{said}");
        self.found += 1;
        Ok(())
    }

    fn addresses_and_names(&mut self) -> Result<()> {
        let primary = self.cluster.primary()?.address().to_string();
        self.finds(
            &["--master", "yours"],
            true,
            "knows no master named \"yours\"",
            "mymaster",
        )?;
        self.finds(
            &["--sentinels", "127.0.0.1:1"],
            true,
            "cannot be asked",
            "is something listening",
        )?;
        self.finds(
            &["--sentinels", &primary],
            true,
            "is no sentinel, but a node",
            "26379",
        )?;
        let elsewhere = format!("{primary}=127.0.0.1:1");
        let unreachable = "cannot be reached at the announced address";
        self.finds(&["--address-map", &elsewhere], true, unreachable, "--address-map")?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("ca.pem");
        fs::write(&file, authority.pem())?;
        let file = file.to_string_lossy().into_owned();
        self.finds(
            &["--node-tls", "--node-tls-ca-file", &file],
            true,
            unreachable,
            "does it speak TLS (--node-tls)",
        )?;
        let flags = ["--sentinel-tls", "--sentinel-tls-ca-file", &file];
        self.finds(
            &flags,
            true,
            "cannot be asked",
            "does it speak TLS (--sentinel-tls)",
        )
    }

    fn sentinels(&mut self) -> Result<()> {
        let set = |count: usize, field: &str, value: &str| {
            let sentinels = self.cluster.sentinels.iter().take(count);
            let mut sentinels = sentinels;
            sentinels.try_for_each(|sentinel| {
                sentinel
                    .command(&["SENTINEL", "SET", "mymaster", field, value])
                    .map(drop)
            })
        };
        let cases = [
            (3, "quorum", "9", true, "it never fails over", "quorum 2"),
            (3, "quorum", "1", false, "the quorum is 1", "quorum 2"),
            (1, "quorum", "3", false, "sentinels differ", "the same on all"),
            (3, "quorum", "2", false, "", ""),
            (
                1,
                "down-after-milliseconds",
                "900",
                false,
                "busy for a moment",
                "5000",
            ),
            (
                1,
                "down-after-milliseconds",
                "90000",
                false,
                "wait that long",
                "5000",
            ),
            (1, "down-after-milliseconds", "1000", false, "", ""),
        ];
        let mut found = Vec::new();
        for (count, field, value, wrong, what, remedy) in cases {
            set(count, field, value)?;
            found.push((wrong, what, remedy, self.check(&[])?));
        }
        for (wrong, what, remedy, (right, said)) in found.into_iter().filter(|(_, what, ..)| !what.is_empty())
        {
            ensure!(
                right != wrong && said.contains(what) && said.contains(remedy),
                "{what}: {remedy}\n{said}"
            );
            self.found += 1;
        }
        Ok(())
    }

    fn nodes(&mut self) -> Result<()> {
        let primary = self.cluster.primary()?;
        let port = primary.port();
        let nodes = self.cluster.shard().nodes.iter();
        let replicas: Vec<_> = nodes.filter(|node| node.port() != port).collect();
        primary.command(&words("CONFIG SET min-replicas-to-write 9"))?;
        self.finds(
            &[],
            true,
            "it refuses writes",
            "CONFIG SET min-replicas-to-write 2",
        )?;
        primary.command(&words("CONFIG SET min-replicas-to-write 0"))?;
        self.finds(
            &[],
            false,
            "goes on taking writes that are lost",
            "CONFIG SET min-replicas-to-write 1",
        )?;
        primary.command(&words("CONFIG SET min-replicas-to-write 1"))?;
        replicas[0].command(&words("CONFIG SET replica-read-only no"))?;
        self.finds(
            &[],
            false,
            "writes to it are lost",
            "CONFIG SET replica-read-only yes",
        )?;
        replicas[0].command(&words("CONFIG SET replica-read-only yes"))?;
        replicas[0].command(&words("CONFIG SET replica-priority 0"))?;
        self.finds(
            &[],
            false,
            "its replica-priority is 0",
            "CONFIG SET replica-priority 100",
        )?;
        replicas[1].command(&words("CONFIG SET replica-priority 0"))?;
        self.finds(
            &[],
            true,
            "no replica can be promoted",
            "CONFIG SET replica-priority 100",
        )?;
        for replica in replicas {
            replica.command(&words("CONFIG SET replica-priority 100"))?;
        }
        Ok(())
    }

    /// Of a replica and of a sentinel, by connections that were there before.
    fn passwords(&mut self) -> Result<()> {
        let primary = self.cluster.primary()?.port();
        let replica = self
            .cluster
            .shard()
            .nodes
            .iter()
            .find(|node| node.port() != primary);
        let mut replica: Client = replica.expect("there are two").client()?;
        says(&mut replica, "CONFIG SET requirepass secret", "OK")?;
        let closed = "does not let slipring in";
        self.finds(&[], true, closed, "set --password-file")?;
        self.finds(
            &["--password", "other"],
            true,
            closed,
            "check --username and --password-file",
        )?;
        self.finds(
            &["--username", "nobody", "--password", "x"],
            true,
            closed,
            "check --username",
        )?;
        self.finds(
            &["--password", "secret"],
            true,
            "has no masterauth",
            "CONFIG SET masterauth",
        )?;
        ask(&mut replica, "ACL SETUSER default nopass")?;
        let mut sentinel = self.cluster.sentinels[0].client()?;
        says(&mut sentinel, "ACL SETUSER default resetpass >secret", "OK")?;
        self.finds(&[], true, closed, "set --sentinel-password-file")?;
        self.finds(
            &["--sentinel-password", "other"],
            true,
            closed,
            "check --sentinel-username",
        )?;
        says(&mut sentinel, "ACL SETUSER default nopass", "OK")
    }
}
