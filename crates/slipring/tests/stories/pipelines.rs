//! Pipelines of ten thousand: every reply, in order, whoever else is talking.

use std::thread;

use anyhow::{Result, ensure};
use testkit::client::encode;
use testkit::{Client, Cluster, Flavor, Reply, on_each_server};

use super::support::{before, counts, says};

const COMMANDS: usize = 10_000;
const CLIENTS: usize = 8;

on_each_server! {
    fn ten_thousand_in_one_write(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        let workers = (0..CLIENTS)
            .map(|number| Ok((number, proxy.client()?)))
            .collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let running: Vec<_> = workers
                .into_iter()
                .map(|(number, mut client)| scope.spawn(move || mixed(number, &mut client)))
                .collect();
            running
                .into_iter()
                .try_for_each(|worker| worker.join().expect("it returns what goes wrong"))
        })?;
        let mut client = proxy.client()?;
        for number in 0..CLIENTS {
            counts(&mut client, &format!("LLEN list:{number}"), (COMMANDS / 5) as i64)?;
        }
        written_before_read(&mut client)?;
        transactions(&mut client)?;
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }
}

/// All kinds of commands in one pipeline: shared, answered here, transactions, and those that take a lease.
fn mixed(number: usize, client: &mut Client) -> Result<()> {
    let list = format!("list:{number}");
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for index in 0..COMMANDS {
        let text = format!("{number}:{index}");
        let (command, reply) = match index % 5 {
            0 => (vec!["SET", "last", &text], Reply::Simple("OK".into())),
            1 => (vec!["ECHO", &text], Reply::Bulk(text.clone().into())),
            2 => (vec!["RPUSH", &list, &text], Reply::Integer(index as i64 / 5 + 1)),
            3 if index % 500 == 3 => (vec!["BLPOP", "nothing", "0.001"], Reply::Null),
            3 if index % 100 == 3 => (vec!["CLIENT", "SETNAME", &list], Reply::Simple("OK".into())),
            3 => (vec!["PING", &text], Reply::Bulk(text.clone().into())),
            _ => (
                vec!["NOSUCH"],
                Reply::Error("ERR unknown command 'NOSUCH', with args beginning with: ".into()),
            ),
        };
        bytes.extend(encode(&command));
        expected.push(reply);
    }
    let replies = client.exchange(&bytes, COMMANDS)?;
    for (index, (got, want)) in replies.iter().zip(&expected).enumerate() {
        ensure!(
            got == want,
            "reply {index} of client {number}: {got:?} instead of {want:?}"
        );
    }
    says(client, "CLIENT GETNAME", &list)
}

/// A client that reads nothing until it has written everything: small requests fit into what lies between.
fn written_before_read(client: &mut Client) -> Result<()> {
    client.send_raw(&b"PING\r\n".repeat(COMMANDS))?;
    for index in 0..COMMANDS {
        ensure!(client.read_raw()? == b"+PONG\r\n", "reply {index}");
    }
    Ok(())
}

fn transactions(client: &mut Client) -> Result<()> {
    let block = [encode(&["MULTI"]), encode(&["INCR", "blocks"]), encode(&["EXEC"])].concat();
    let many = COMMANDS / 10;
    let replies = client.exchange(&block.repeat(many), 3 * many)?;
    for (index, replies) in replies.chunks(3).enumerate() {
        let right = replies[2].items().first().and_then(Reply::integer) == Some(index as i64 + 1);
        ensure!(
            right && replies[1].text() == Some("QUEUED"),
            "block {index}: {replies:?}"
        );
    }
    Ok(())
}
