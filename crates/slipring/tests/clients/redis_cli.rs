//! redis-cli and valkey-cli: typed into, fed through a pipe, and in the modes that look a server over.

use std::process::Command;

use anyhow::{Result, ensure};
use testkit::{Flavor, Proxy, on_each_server};

use super::programme::{Programme, fail_over, lab, left_no_trace};

on_each_server! {
    fn is_typed_into_and_looks_the_server_over(flavor: Flavor) -> Result<()> {
        let (_cluster, proxy) = lab(flavor)?;
        typed(flavor, &proxy)?;
        mass_insertion(flavor, &proxy)?;
        for (mode, expected) in [
            (&["--bigkeys"][..], "Sampled 10000 keys"),
            (&["--memkeys"], "Sampled 10000 keys"),
            (&["--scan", "--pattern", "mass:77?"], "mass:777"),
            (&["--latency", "-i", "1"], "0"),
            (&["-3", "-r", "3", "PING"], "PONG"),
            (&["--no-raw", "OBJECT", "ENCODING", "mass:7"], "\"int\""),
        ] {
            let said = Programme::start(cli(flavor, &proxy)?.args(mode))?.finish()?.join("\n");
            ensure!(said.contains(expected), "{mode:?}: {said}");
        }
        dump(flavor, &proxy)?;
        left_no_trace(&proxy)?;
        orders(flavor, &proxy)
    }

    fn goes_on_through_a_failover(flavor: Flavor) -> Result<()> {
        let (cluster, proxy) = lab(flavor)?;
        let mut counter = Programme::start(&mut cli(flavor, &proxy)?)?;
        let mut subscriber = Programme::start(cli(flavor, &proxy)?.args(["SUBSCRIBE", "news"]))?;
        subscriber.says("1")?;
        let mut count = 0;
        let mut next = || {
            count += 1;
            counter.tell("INCR n")?;
            counter.says(&count.to_string())?;
            counter.tell(&format!("PUBLISH news {count}"))?;
            counter.says("1")?;
            subscriber.says("news")?;
            subscriber.says(&count.to_string())
        };
        for _ in 0..20 {
            next()?;
        }
        fail_over(&cluster, proxy.address())?;
        for _ in 0..20 {
            next()?;
        }
        counter.finish()?;
        left_no_trace(&proxy)
    }
}

fn cli(flavor: Flavor, proxy: &Proxy) -> Result<Command> {
    let mut cli = Command::new(flavor.server()?.cli());
    cli.args(["-p", &proxy.address().port().to_string()]);
    Ok(cli)
}

/// Lines as a person types them, the state of the connection among them.
fn typed(flavor: Flavor, proxy: &Proxy) -> Result<()> {
    let mut typed = Programme::start(&mut cli(flavor, proxy)?)?;
    for (line, answer) in [
        ("SET k \"a value\"", "OK"),
        ("GET k", "a value"),
        ("MULTI", "OK"),
        ("INCR n", "QUEUED"),
        (
            "NO SUCH COMMAND",
            "ERR unknown command 'NO', with args beginning with: 'SUCH' 'COMMAND' ",
        ),
        (
            "EXEC",
            "EXECABORT Transaction discarded because of previous errors.",
        ),
        ("SELECT 5", "OK"),
        ("DBSIZE", "0"),
        ("SELECT 0", "OK"),
        ("CLIENT SETNAME typed", "OK"),
        ("CLIENT GETNAME", "typed"),
        ("HELLO 3 SETNAME typed_again", "proto 3"),
        ("CLIENT GETNAME", "typed_again"),
        ("RESET", "RESET"),
        ("EVAL \"return {1,2}\" 0", "2"),
        ("FLUSHALL", "OK"),
    ] {
        typed.tell(line)?;
        typed.says(answer)?;
    }
    typed.finish()?;
    Ok(())
}

/// PROXY, as redis-cli shows it to a person: numbered lines, as they are, without quotes and escapes.
fn orders(flavor: Flavor, proxy: &Proxy) -> Result<()> {
    let answers = [
        ("HELP", "PROXY FAILOVER [MASTER]"),
        ("SHOW CLIENTS", "id="),
        ("SHOW POOLS", "role=primary"),
        ("SHOW TOPOLOGY", "master=mymaster phase=serving"),
        ("SHOW FAILOVERS", "none since the start"),
        ("SHOW CONFIG", "max-clients = 10000"),
        ("SHOW STATS", "clients_accepted_total "),
        ("KILL ADDR 127.0.0.1:1", "OK, 0 closed"),
        ("PAUSE", "OK"),
        ("RESUME", "OK"),
        ("RECONNECT", "OK"),
        ("RELOAD", "OK, nothing is changed"),
        ("DRAIN", "OK"),
    ];
    // Over both protocols; what leaves a trace once.
    for (protocol, answers) in [("-2", &answers[..8]), ("-3", &answers)] {
        let mut operator = Programme::start(cli(flavor, proxy)?.args(["--no-raw", protocol]))?;
        let orders: Vec<_> = answers
            .iter()
            .map(|(words, _)| format!("PROXY {words}"))
            .collect();
        operator.tell(&orders.join("\n"))?;
        let mut said = operator.finish()?.into_iter();
        for (words, expected) in answers {
            let found = said.by_ref().find(|line| {
                let numbered = line.trim_start().split_once(") ");
                let plain = numbered.is_some_and(|(number, shown)| {
                    number.parse::<u32>().is_ok() && !shown.contains(['"', '\\'])
                });
                plain && line.contains(expected)
            });
            ensure!(found.is_some(), "{words}: {:#?}", said.collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// `--pipe`: protocol in, and a count of the replies.
fn mass_insertion(flavor: Flavor, proxy: &Proxy) -> Result<()> {
    let mut pipe = Programme::start(cli(flavor, proxy)?.arg("--pipe"))?;
    let sets: String = (0..10_000).map(|i| format!("SET mass:{i} {i}\r\n")).collect();
    pipe.tell(sets.trim_end_matches('\n'))?;
    let said = pipe.finish()?;
    ensure!(
        said.last()
            .is_some_and(|last| last == "errors: 0, replies: 10000"),
        "{said:?}"
    );
    Ok(())
}

/// `--rdb`: SYNC, and what a replica would be sent, kept in a file.
fn dump(flavor: Flavor, proxy: &Proxy) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dump.rdb");
    Programme::start(cli(flavor, proxy)?.arg("--rdb").arg(&file))?.finish()?;
    let dump = std::fs::read(&file)?;
    ensure!(dump.starts_with(b"REDIS"), "{} bytes, and no dump", dump.len());
    ensure!(
        dump.windows(9).any(|window| window == b"mass:9999"),
        "a key is missing"
    );
    Ok(())
}
