//! SIGHUP and PROXY RELOAD under load: what can change does, what would do harm is refused as a whole, and no request
//! in flight is dropped.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::servers::Login;
use testkit::{Client, Cluster, Flavor, Load, Proxy, on_each_server};

use super::support::{ask, refuses, says, slipring, words};

/// A configuration file beside its secrets.
struct Files {
    folder: TempDir,
    sentinels: String,
}

on_each_server! {
    fn what_can_change_does_and_nobody_notices(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor)
            .nodes(2)
            .sentinels(1)
            .sentinel_login(Login::password("watch"))
            .start()?;
        for node in &cluster.shard().nodes {
            node.command(&words("ACL SETUSER app on >one ~* &* +@all"))?;
        }
        let files = Files::new(&cluster)?;
        let proxy = slipring().flag("--config", &files.path("slipring.toml")).start()?;
        let login = Login { user: None, password: "door".to_owned() };
        let load = Load::builder(proxy.address()).clients(8).login(Some(login)).start()?;
        let mut old = proxy.client()?;
        says(&mut old, "AUTH door", "OK")?;
        says(&mut old, "SET key value", "OK")?;
        let mut operator = proxy.client()?;
        says(&mut operator, "AUTH door", "OK")?;
        ensure!(reload(&mut operator)? == "OK, nothing is changed", "nothing was");
        let shown = ask(&mut operator, "PROXY SHOW CONFIG")?.texts();
        ensure!(shown.contains(&"max-clients = 500".to_owned()), "{shown:?}");
        ensure!(!shown.iter().any(|line| line.contains("door") || line.contains("one")), "{shown:?}");

        takes_effect(&files, &proxy, &mut operator, &mut old)?;
        passwords_rotate(&cluster, &files, &proxy, &mut operator, &mut old)?;
        the_sentinels_password_rotates(&cluster, &files, &proxy, &mut operator)?;
        harm_is_refused(&files, &proxy, &mut operator)?;
        // Many in a row, with every connection made anew from other pools.
        for round in 0..40 {
            files.write(&format!("node-timeout = '{}ms'\nconnect-timeout = '{}ms'\n", 2000 + round, 1500 + round))?;
            let said = reload(&mut operator)?;
            ensure!(said == "OK, changed: connect-timeout, node-timeout", "{said}");
        }
        says(&mut old, "GET key", "value")?;

        let history = load.finish();
        let verdict = history.verify(&mut cluster.primary()?.client()?)?;
        ensure!(verdict.is_clean(), "{verdict:?}");
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.unknown.is_empty() && all.dropped == 0 && all.stale == 0, "{all:?}");
        ends_as_last_told(&files, &proxy, &mut operator)
    }
}

/// With the delay of the last reload: newcomers are let in, for all that slipring is about to end.
fn ends_as_last_told(files: &Files, proxy: &Proxy, operator: &mut Client) -> Result<()> {
    files.write("drain-delay = '10m'\nupgrade-linger = '1m'\n")?;
    let lines = ask(operator, "PROXY RELOAD")?.texts();
    ensure!(lines[1] == "only a restart changes: upgrade-linger", "{lines:?}");
    proxy.process().signal(Signal::SIGTERM)?;
    proxy.process().wait_until("the drain to begin", || {
        let (status, body) = proxy.get("/readyz")?;
        ensure!(status == 503 && body.contains("draining"), "{status}: {body}");
        Ok(())
    })?;
    says(&mut proxy.client()?, "AUTH gate", "OK")
}

/// Limits, lists and the log's level.
fn takes_effect(files: &Files, proxy: &Proxy, operator: &mut Client, old: &mut Client) -> Result<()> {
    files.write(
        "deny-commands = ['flushall']\nlog-level = 'warn'\nread-policy = 'prefer-primary'\nworkers = 3\n",
    )?;
    let lines = ask(operator, "PROXY RELOAD")?.texts();
    ensure!(
        lines
            == [
                "OK, changed: deny-commands, log-level, read-policy",
                "only a restart changes: workers"
            ],
        "{lines:?}"
    );
    refuses(old, "FLUSHALL", "NOPERM")?;
    let told = || {
        proxy
            .process()
            .log()
            .contains("deny-commands, log-level, read-policy")
    };
    ensure!(!told(), "a line of no warning");
    // By the signal, back again.
    files.write("")?;
    proxy.process().signal(Signal::SIGHUP)?;
    proxy.process().wait_until("the reload", || {
        let shown = ask(operator, "PROXY SHOW CONFIG")?.texts();
        ensure!(shown.contains(&"log-level = info".to_owned()), "{shown:?}");
        ensure!(told(), "a line of the same words");
        Ok(())
    })?;
    // One client fewer than there are: who is in stays in.
    files.write("max-clients = 1\n")?;
    reload(operator)?;
    let mut surplus = proxy.client()?;
    refuses(&mut surplus, "PING", "ERR max number of clients reached")?;
    files.write("")?;
    reload(operator)?;
    says(old, "PING", "PONG")
}

/// The client's and slipring's own: sessions that stand keep working, over fresh connections too.
fn passwords_rotate(
    cluster: &Cluster,
    files: &Files,
    proxy: &Proxy,
    operator: &mut Client,
    old: &mut Client,
) -> Result<()> {
    for node in &cluster.shard().nodes {
        node.command(&words("ACL SETUSER app >two"))?;
    }
    files.secret("node", "two")?;
    files.secret("client", "gate")?;
    ensure!(
        reload(operator)? == "OK, changed: client-password-file, password-file",
        "named"
    );
    for node in &cluster.shard().nodes {
        node.command(&words("ACL SETUSER app <one"))?;
    }
    let mut stranger = proxy.client()?;
    refuses(&mut stranger, "AUTH door", "WRONGPASS")?;
    says(&mut stranger, "AUTH gate", "OK")?;
    says(&mut stranger, "GET key", "value")?;
    // A transaction takes a connection of its own, a fresh one.
    says(old, "WATCH key", "OK")?;
    says(old, "MULTI", "OK")?;
    says(old, "GET key", "QUEUED")?;
    ensure!(ask(old, "EXEC")?.items().len() == 1, "a session from before");
    says(old, "SELECT 3", "OK")?;
    says(old, "SELECT 0", "OK")?;
    Ok(())
}

/// New connections to sentinels present the new one.
fn the_sentinels_password_rotates(
    cluster: &Cluster,
    files: &Files,
    proxy: &Proxy,
    operator: &mut Client,
) -> Result<()> {
    let mut sentinel = cluster.sentinels[0].client()?;
    says(&mut sentinel, "ACL SETUSER default >guard", "OK")?;
    files.secret("sentinel", "guard")?;
    ensure!(
        reload(operator)? == "OK, changed: sentinel-password-file",
        "named"
    );
    says(&mut sentinel, "ACL SETUSER default <watch", "OK")?;
    let connections = || proxy.metric("slipring_sentinels", &["state=\"watching\""]);
    // Whatever was made with the old one.
    for kind in ["pubsub", "normal"] {
        ask(&mut sentinel, &format!("CLIENT KILL TYPE {kind} SKIPME yes"))?;
    }
    proxy
        .process()
        .wait_until("the sentinel to be watched again", || {
            let list = ask(&mut sentinel, "CLIENT LIST TYPE pubsub")?;
            ensure!(
                list.text().is_some_and(|list| list.contains("psub=1")),
                "{list:?}"
            );
            ensure!(connections()? == 1.0, "not yet");
            Ok(())
        })?;
    says(&mut sentinel, "ACL SETUSER default >watch", "OK")
}

/// Each of these leaves everything as it is.
fn harm_is_refused(files: &Files, proxy: &Proxy, operator: &mut Client) -> Result<()> {
    let before = ask(operator, "PROXY SHOW CONFIG")?.texts();
    for (more, why) in [
        ("max-clients = 'many'\n", "slipring.toml:7: max-clients"),
        ("max-client = 5\n", "did you mean max-clients?"),
        ("username = 'app'\nmax-clients = 5\n", "duplicate key"),
        ("node-tls = true\n", "needs --node-tls-ca-file"),
        ("listen = '6379'\n", "takes IP:PORT"),
        (
            "allow-cidr = ['192.0.2.0/24']\n",
            "lock everybody out: --allow-cidr names the address of nobody",
        ),
    ] {
        files.write(more)?;
        refuses(operator, "PROXY RELOAD", "ERR nothing is changed: ")?;
        let error = ask(operator, "PROXY RELOAD")?;
        ensure!(
            error.error().is_some_and(|error| error.contains(why)),
            "{more}: {error:?}"
        );
    }
    let instead = |from: &str, to: &str, why: &str, operator: &mut Client| {
        let text = files.text("").replace(from, to);
        fs::write(files.folder.path().join("slipring.toml"), text)?;
        let error = ask(operator, "PROXY RELOAD")?;
        ensure!(
            error.error().is_some_and(|error| error.contains(why)),
            "{to}: {error:?}"
        );
        anyhow::Ok(())
    };
    let client = format!("client-password-file = '{}'\n", files.path("client"));
    let sentinels = format!("sentinels = '{}'", files.sentinels);
    instead(
        &client,
        "",
        "lock everybody out: --client-auth stays proxy",
        operator,
    )?;
    instead(
        &sentinels,
        "sentinels = '127.0.0.1:1'",
        "lose the sentinels: 127.0.0.1:1",
        operator,
    )?;
    instead(
        "username = 'app'",
        "username = 'nobody'",
        "lock everybody out: 127.0.0.1:",
        operator,
    )?;
    files.secret("node", "wrong")?;
    instead("", "", "lock everybody out: 127.0.0.1:", operator)?;
    files.secret("node", "two")?;
    files.secret("sentinel", "wrong")?;
    instead("", "", "lose the sentinels: 127.0.0.1:", operator)?;
    files.secret("sentinel", "guard")?;
    fs::remove_file(files.folder.path().join("slipring.toml"))?;
    proxy.process().signal(Signal::SIGHUP)?;
    proxy.process().wait_until("the refusal", || {
        ensure!(
            proxy.process().log().contains("slipring.toml: No such file"),
            "not yet"
        );
        Ok(())
    })?;
    let after = ask(operator, "PROXY SHOW CONFIG")?.texts();
    ensure!(before == after, "{before:?}\n{after:?}");
    let log = proxy.process().log();
    ensure!(
        !["door", "gate", "two", "guard", "wrong"]
            .iter()
            .any(|secret| log.contains(&format!(" {secret}"))),
        "{log}"
    );
    Ok(())
}

/// The first line of the answer.
fn reload(operator: &mut Client) -> Result<String> {
    let reply = ask(operator, "PROXY RELOAD")?;
    ensure!(reply.error().is_none(), "{reply:?}");
    Ok(reply.texts().swap_remove(0))
}

// === impl Files ===

impl Files {
    fn new(cluster: &Cluster) -> Result<Self> {
        let files = Self {
            folder: tempfile::tempdir()?,
            sentinels: cluster.sentinel_list(),
        };
        files.secret("client", "door")?;
        files.secret("node", "one")?;
        files.secret("sentinel", "watch")?;
        files.write("")?;
        Ok(files)
    }

    fn path(&self, name: &str) -> String {
        let path: &Path = &self.folder.path().join(name);
        path.to_string_lossy().into_owned()
    }

    fn secret(&self, name: &str, secret: &str) -> Result<()> {
        Ok(fs::write(self.path(name), secret)?)
    }

    /// The usual configuration, and `more`.
    fn write(&self, more: &str) -> Result<()> {
        Ok(fs::write(self.path("slipring.toml"), self.text(more))?)
    }

    fn text(&self, more: &str) -> String {
        let usual = if more.contains("max-clients") {
            ""
        } else {
            "max-clients = 500"
        };
        format!(
            "sentinels = '{}'\nusername = 'app'\npassword-file = '{}'\nclient-password-file = '{}'\n{usual}\n\
             sentinel-password-file = '{}'\n{more}",
            self.sentinels,
            self.path("node"),
            self.path("client"),
            self.path("sentinel"),
        )
    }
}
