//! Who clients are: by the node's word (passthrough), by slipring's (proxy), or nobody in particular (none).

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::proxy::ProxyBuilder;
use testkit::{Client, Cluster, Flavor, Login, Node, Proxy, Reply, on_each_server};

use super::support::{PATIENCE, ask, counts, refuses, same_answers, same_batch, says, slipring, words};

const PASSWORD: &str = "open-sesame";

on_each_server! {
    fn clients_prove_who_they_are(flavor: Flavor) -> Result<()> {
        let login = Login::password(PASSWORD);
        let cluster = Cluster::builder(flavor)
            .nodes(2)
            .node_login(login.clone())
            .sentinel_login(Login::password("sentinel-secret"))
            .start()?;
        for node in &cluster.shard().nodes {
            node.command(&words("ACL SETUSER reader on >only-reads ~* &* +@read +@connection -@dangerous +acl|whoami"))?;
            node.command(&words("ACL SETUSER resident on >stays ~* &* +@all -select"))?;
        }
        let plain = Node::builder(flavor.server()?).login(Some(login)).start()?;
        plain.command(&words("ACL SETUSER reader on >only-reads ~* &* +@read +@connection -@dangerous +acl|whoami"))?;
        let ours = || {
            slipring()
                .sentinels(&cluster)
                .flag("--password", PASSWORD)
                .env("SLIPRING_SENTINEL_PASSWORD", "sentinel-secret")
        };
        let passthrough = ours().start()?;
        by_the_nodes_word(&passthrough, &plain)?;
        side_by_side(&passthrough)?;
        let proxy = ours().flag("--client-auth", "proxy").flag("--client-password", "for-slipring").start()?;
        by_our_word(&proxy)?;
        by_our_list(&cluster, ours())?;
        let none = ours().flag("--client-auth", "none").start()?;
        unasked(&none)?;
        let mut clients = [logged_in(&passthrough, "AUTH reader only-reads")?, none.client()?, proxy.client()?];
        says(&mut clients[2], "AUTH for-slipring", "OK")?;
        says(&mut clients[1], "SET kept value", "OK")?;
        let mut resident = logged_in(&passthrough, "AUTH open-sesame")?;
        selected_by_another(&mut resident)?;

        let old = cluster.primary()?.port();
        cluster.failover_planned()?;
        cluster.wait_switched(cluster.shard(), old, PATIENCE)?;
        for client in &mut clients {
            says(client, "GET kept", "value")?;
        }
        for (line, reply) in [("SET kept again", "OK"), ("ACL WHOAMI", "resident")] {
            says(&mut resident, line, reply)?;
        }
        says(&mut clients[1], "GET kept", "value")?;
        refuses(&mut clients[0], "SET kept other", "NOPERM")?;
        let log = ask(&mut logged_in(&passthrough, "AUTH open-sesame")?, "ACL LOG 1")?;
        let named = |words: &[String]| words == ["username", "reader"];
        ensure!(log.items()[0].texts().windows(2).any(named), "{log:?}");
        refuses(&mut passthrough.client()?, "GET kept", "NOAUTH")?;
        says(&mut logged_in(&passthrough, "AUTH open-sesame")?, "SET kept again", "OK")?;
        no_secret_is_shown(&passthrough, Some("AUTH open-sesame"))?;
        no_secret_is_shown(&proxy, Some("AUTH for-slipring"))?;
        no_secret_is_shown(&none, None)
    }

    /// As on the node itself: AUTH keeps the database, and SELECT asks who one is now.
    fn a_user_who_may_not_select_stays_where_he_is(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        cluster.primary()?.command(&words("ACL SETUSER bob on >secret ~* &* +@all -select"))?;
        let proxy = slipring().sentinels(&cluster).start()?;
        let mut client = proxy.client()?;
        for (line, reply) in [("SELECT 9", "OK"), ("AUTH bob secret", "OK"), ("SET k nine", "OK"), ("ACL WHOAMI", "bob")] {
            says(&mut client, line, reply)?;
        }
        refuses(&mut client, "SELECT 3", "NOPERM")?;
        says(&mut client, "GET k", "nine")?;
        let mut other = logged_in(&proxy, "AUTH bob secret")?;
        refuses(&mut other, "SELECT 9", "NOPERM")?;
        let mut nobody = proxy.client()?;
        says(&mut nobody, "SELECT 9", "OK")?;
        says(&mut nobody, "GET k", "nine")?;
        switched_off_and_on(&mut client, &mut other)?;
        asked_from_now_on(&proxy, nobody)
    }

    /// A client may log in before slipring itself knows any password of the nodes' clients.
    fn a_wrong_password_of_our_own_is_told(flavor: Flavor) -> Result<()> {
        let login = Login::user("proxy", "right");
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).node_login(login).start()?;
        let wrong = slipring()
            .sentinels(&cluster)
            .flag("--username", "proxy")
            .flag("--password", "wrong")
            .spawn()?;
        wrong.process().wait_until("/readyz to name the flag", || {
            let (status, report) = wrong.get("/readyz")?;
            ensure!(status == 503 && report.contains("--password"), "{status}: {report}");
            Ok(())
        })?;
        ensure!(!wrong.process().log().contains("wrong\""), "the password is in the log");
        let right = slipring()
            .sentinels(&cluster)
            .flag("--username", "proxy")
            .flag("--password", "right")
            .start()?;
        says(&mut logged_in(&right, "AUTH proxy right")?, "ACL WHOAMI", "proxy")
    }
}

/// Neither in what it tells of itself, nor in what it tells of its clients.
fn no_secret_is_shown(proxy: &Proxy, auth: Option<&str>) -> Result<()> {
    let mut client = auth.map_or_else(|| proxy.client(), |auth| logged_in(proxy, auth))?;
    let mut shown = vec![proxy.process().log(), proxy.metrics()?];
    for path in ["/topology", "/failovers", "/readyz"] {
        shown.push(proxy.get(path)?.1);
    }
    for line in ["CLIENT LIST", "CLIENT INFO"] {
        shown.extend(ask(&mut client, line)?.text().map(str::to_owned));
    }
    for what in [
        "CLIENTS",
        "POOLS",
        "CONFIG",
        "STATS",
        "TOPOLOGY",
        "FAILOVERS",
        "SLOWLOG",
    ] {
        let told = ask(&mut client, &format!("PROXY SHOW {what}"))?;
        ensure!(told.error().is_none(), "{what}: {told:?}");
        shown.extend(told.texts());
    }
    ensure!(shown.iter().any(|text| text.contains("cmd=client")), "{shown:?}");
    for secret in [PASSWORD, "sentinel-secret", "for-slipring", "only-reads"] {
        let place = shown.iter().find(|text| text.contains(secret));
        ensure!(place.is_none(), "{secret} is told: {place:?}");
    }
    Ok(())
}

fn logged_in(proxy: &Proxy, auth: &str) -> Result<Client> {
    let mut client = proxy.client()?;
    says(&mut client, auth, "OK")?;
    Ok(client)
}

/// `other` leaves nobody who could choose `client`'s database on a further connection. As on the node itself, `client` may
/// still order what is about no database.
fn switched_off_and_on(client: &mut Client, other: &mut Client) -> Result<()> {
    says(other, "ACL SETUSER default off", "OK")?;
    for line in ["CONFIG SET maxmemory-samples 6", "ACL SETUSER default on"] {
        says(client, line, "OK")?;
        says(client, "GET k", "nine")?;
    }
    Ok(())
}

/// A password that is set meanwhile is asked of newcomers, and of no `resident`; one that was changed lets nobody in.
fn asked_from_now_on(proxy: &Proxy, mut resident: Client) -> Result<()> {
    says(&mut proxy.client()?, "CONFIG SET requirepass first", "OK")?;
    refuses(&mut proxy.client()?, "GET k", "NOAUTH")?;
    says(&mut resident, "GET k", "nine")?;
    let mut knower = logged_in(proxy, "AUTH first")?;
    says(&mut knower, "ACL SETUSER default resetpass >second", "OK")?;
    refuses(&mut proxy.client()?, "AUTH first", "WRONGPASS")?;
    says(&mut logged_in(proxy, "AUTH second")?, "ACL WHOAMI", "default")?;
    for client in [&mut knower, &mut resident] {
        says(client, "ACL WHOAMI", "default")?;
    }
    says(
        &mut logged_in(proxy, "AUTH second")?,
        "ACL SETUSER default nopass",
        "OK",
    )?;
    // The password that it has proven is none any more; it is the same user without.
    says(&mut knower, "SELECT 5", "OK")?;
    says(&mut knower, "ACL WHOAMI", "default")
}

/// The user who may SELECT chose the database, and one who may not stays there, on leases too.
fn selected_by_another(client: &mut Client) -> Result<()> {
    for (line, reply) in [
        ("SELECT 9", "OK"),
        ("AUTH resident stays", "OK"),
        ("SET kept nine", "OK"),
        ("WATCH kept", "OK"),
        ("GET kept", "nine"),
        ("UNWATCH", "OK"),
        ("ACL WHOAMI", "resident"),
    ] {
        says(client, line, reply)?;
    }
    refuses(client, "SELECT 3", "NOPERM")?;
    refuses(client, "SELECT 9", "NOPERM")?;
    says(client, "GET kept", "nine")
}

/// Every answer is the node's own.
fn by_the_nodes_word(proxy: &Proxy, plain: &Node) -> Result<()> {
    // As nobody.
    let script = "
        GET key
        PING
        SET key value
        NOSUCHCOMMAND
        SELECT 1
        CLIENT SETNAME name
        SUBSCRIBE channel
        MULTI
        EXEC
        BLPOP key 1
        MONITOR
        HELLO 3
        HELLO 2
        HELLO 3 AUTH default wrong
        AUTH wrong
        AUTH nobody wrong
        AUTH reader wrong
        GET key
        AUTH open-sesame
        GET key
        AUTH wrong
        SET key value
        ACL WHOAMI
        AUTH reader only-reads
        GET key
        SET key other
        ACL WHOAMI
        CONFIG GET port
        AUTH default open-sesame
        SET key value
        ACL WHOAMI
        DEL key
        RESET
        GET key
        RESET";
    let fresh = || Ok::<_, anyhow::Error>((Client::connect(plain.address())?, proxy.client()?));
    let (mut node, mut client) = fresh()?;
    same_answers(&mut node, &mut client, script)?;
    let (mut node, mut client) = fresh()?;
    same_batch(&mut node, &mut client, script, script.trim().lines().count())?;

    let (_, mut client) = fresh()?;
    let greeting = ask(
        &mut client,
        &format!("HELLO 3 AUTH default {PASSWORD} SETNAME greeted"),
    )?;
    ensure!(matches!(greeting, Reply::Map(_)), "{greeting:?}");
    says(&mut client, "CLIENT GETNAME", "greeted")?;
    says(&mut client, "SET greeted yes", "OK")?;

    // As nobody, little may be sent; as somebody, much.
    for bytes in [
        &b"*11\r\n$3\r\nSET\r\n"[..],
        b"*1\r\n$16385\r\n",
        b"*2\r\n$3\r\nGET\r\n$100000000\r\n",
    ] {
        let (mut node, mut client) = fresh()?;
        let told = |client: &mut Client| {
            client.send_raw(bytes)?;
            Ok::<_, anyhow::Error>(client.read_to_end())
        };
        let (want, got) = (told(&mut node)?, told(&mut client)?);
        ensure!(got == want, "{bytes:?}: {got:?} instead of {want:?}");
    }
    let mut client = logged_in(proxy, &format!("AUTH {PASSWORD}"))?;
    let long = "x".repeat(100_000);
    says(&mut client, &format!("SET long {long}"), "OK")?;
    counts(&mut client, "DEL long greeted a b c d e f g h i j k l", 2)
}

/// Users share slipring, and nothing else.
fn side_by_side(proxy: &Proxy) -> Result<()> {
    let mut writers = (0..4)
        .map(|_| logged_in(proxy, &format!("AUTH {PASSWORD}")))
        .collect::<Result<Vec<_>>>()?;
    let mut readers = (0..4)
        .map(|_| logged_in(proxy, "AUTH reader only-reads"))
        .collect::<Result<Vec<_>>>()?;
    let mut nobody = proxy.client()?;
    for round in 0..25 {
        for (writer, reader) in writers.iter_mut().zip(&mut readers) {
            writer.send_raw(format!("SET shared {round}\r\nACL WHOAMI\r\n").as_bytes())?;
            reader.send_raw(b"SET shared x\r\nACL WHOAMI\r\n")?;
            nobody.send_raw(b"GET shared\r\nACL WHOAMI\r\n")?;
        }
        for (writer, reader) in writers.iter_mut().zip(&mut readers) {
            ensure!(
                writer.read()?.text() == Some("OK") && writer.read()?.text() == Some("default"),
                "writer"
            );
            let refused = reader.read()?;
            ensure!(
                refused.error().is_some_and(|error| error.starts_with("NOPERM")),
                "{refused:?}"
            );
            ensure!(reader.read()?.text() == Some("reader"), "reader");
            for _ in 0..2 {
                let refused = nobody.read()?;
                ensure!(
                    refused.error().is_some_and(|error| error.starts_with("NOAUTH")),
                    "{refused:?}"
                );
            }
        }
    }
    says(&mut readers[0], "GET shared", "24")?;
    counts(&mut writers[0], "DEL shared", 1)
}

/// slipring asks for a password of its own and runs everyone as its own user.
fn by_our_word(proxy: &Proxy) -> Result<()> {
    let mut client = proxy.client()?;
    for line in [
        "GET key",
        "PING",
        "MULTI",
        "SUBSCRIBE a",
        "SELECT 1",
        "CLIENT ID",
        "BLPOP a 0",
        "NOSUCH",
    ] {
        refuses(&mut client, line, "NOAUTH Authentication required.")?;
    }
    refuses(&mut client, "HELLO 3", "NOAUTH HELLO must be called")?;
    for line in [
        "AUTH wrong",
        "AUTH open-sesame",
        "AUTH nobody for-slipring",
        "AUTH default for-slippin",
    ] {
        refuses(&mut client, line, "WRONGPASS")?;
        refuses(&mut client, "GET key", "NOAUTH")?;
    }
    client.send_raw(b"*11\r\n")?;
    let (refusal, _) = client.read_to_end();
    ensure!(
        refusal == b"-ERR Protocol error: unauthenticated multibulk length\r\n",
        "{refusal:?}"
    );

    let mut client = logged_in(proxy, "AUTH for-slipring")?;
    says(&mut client, "SET key value", "OK")?;
    says(&mut client, "ACL WHOAMI", "default")?;
    refuses(&mut client, "AUTH wrong", "WRONGPASS")?;
    says(&mut client, "GET key", "value")?;
    says(&mut client, "RESET", "RESET")?;
    refuses(&mut client, "GET key", "NOAUTH")?;
    let greeting = ask(&mut client, "HELLO 3 AUTH default for-slipring")?;
    ensure!(matches!(greeting, Reply::Map(_)), "{greeting:?}");
    counts(&mut client, "DEL key", 1)
}

/// slipring knows names and hashes; the nodes see whom the file says.
fn by_our_list(cluster: &Cluster, builder: ProxyBuilder) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let hash = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    std::fs::write(at("reads"), "only-reads\n")?;
    std::fs::write(
        at("users.toml"),
        format!(
            "[web]\npasswords = [\"{hash}\"]\n[report]\npasswords = [\"{hash}\"]\nnode-user = \"reader\"\n\
             node-password-file = \"{}\"\n",
            at("reads")
        ),
    )?;
    let proxy = builder.flag("--users-file", &at("users.toml")).start()?;
    let mut client = proxy.client()?;
    refuses(&mut client, "GET key", "NOAUTH Authentication required.")?;
    for line in ["AUTH secret", "AUTH web wrong", "AUTH reader only-reads"] {
        refuses(&mut client, line, "WRONGPASS")?;
    }
    says(&mut client, "AUTH web secret", "OK")?;
    says(&mut client, "SET key value", "OK")?;
    says(&mut client, "ACL WHOAMI", "default")?;
    says(&mut client, "AUTH report secret", "OK")?;
    says(&mut client, "ACL WHOAMI", "reader")?;
    refuses(&mut client, "SET key other", "NOPERM")?;
    let greeting = ask(&mut client, "HELLO 3 AUTH web secret")?;
    ensure!(matches!(greeting, Reply::Map(_)), "{greeting:?}");
    counts(&mut client, "DEL key", 1)?;
    the_readers_password_rotates(cluster, &proxy, Path::new(&at("reads")))
}

/// What the file of its password says holds from a reload on, also for who is there already.
fn the_readers_password_rotates(cluster: &Cluster, proxy: &Proxy, file: &Path) -> Result<()> {
    let (mut operator, mut report) = (proxy.client()?, proxy.client()?);
    says(&mut operator, "AUTH web secret", "OK")?;
    says(&mut report, "AUTH report secret", "OK")?;
    std::fs::write(file, "reads-on\n")?;
    let refusal = "ERR nothing is changed: it would lock report out: ";
    refuses(&mut operator, "PROXY RELOAD", refusal)?;
    let on_all = |line: &str| -> Result<()> {
        let nodes = &cluster.shard().nodes;
        nodes
            .iter()
            .try_for_each(|node| node.command(&words(line)).map(drop))
    };
    on_all("ACL SETUSER reader >reads-on")?;
    let reloaded = ask(&mut operator, "PROXY RELOAD")?.texts();
    ensure!(reloaded == ["OK, changed: users-file"], "{reloaded:?}");
    on_all("ACL SETUSER reader <only-reads")?;
    // Another database takes a fresh connection.
    says(&mut report, "SELECT 3", "OK")?;
    says(&mut report, "ACL WHOAMI", "reader")?;
    on_all("ACL SETUSER reader >only-reads <reads-on")
}

/// Whoever comes is slipring's own user.
fn unasked(proxy: &Proxy) -> Result<()> {
    let mut client = proxy.client()?;
    says(&mut client, "SET key value", "OK")?;
    says(&mut client, "ACL WHOAMI", "default")?;
    refuses(
        &mut client,
        "AUTH anything",
        "ERR AUTH <password> called without any password configured",
    )?;
    counts(&mut client, "DEL key", 1)
}
