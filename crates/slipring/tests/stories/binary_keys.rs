//! Keys and values are bytes: any bytes, and none at all.

use anyhow::{Result, ensure};
use testkit::{Client, Cluster, Flavor, Reply, on_each_server};

use super::support::before;

on_each_server! {
    fn any_bytes_travel_both_ways(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        let mut client = proxy.client()?;
        let mut node = cluster.primary()?.client()?;
        let keys = keys();
        for (index, key) in keys.iter().enumerate() {
            let value = [&index.to_le_bytes()[..], key, b"\r\n$-1\r\n"].concat();
            ensure!(client.command(&[b"SET", &key[..], &value])?.text() == Some("OK"), "SET {key:?}");
            for reader in [&mut client, &mut node] {
                let held = reader.command(&[b"GET", &key[..]])?;
                ensure!(held == Reply::Bulk(value.clone()), "{key:?} holds {held:?}");
            }
        }
        many_at_once(&mut client, &keys)?;
        ensure!(node.command(&["DBSIZE"])?.integer() == Some(keys.len() as i64 + 2), "keys too many or too few");
        let message = [b"\0\r\n>2\r\n".to_vec(), (0..=255).collect()].concat();
        let mut subscriber = proxy.client()?;
        subscriber.command(&[b"SUBSCRIBE", &message[..]])?;
        ensure!(client.command(&[b"PUBLISH", &message[..], &message])?.integer() == Some(1), "PUBLISH");
        let heard = subscriber.read()?;
        ensure!(heard.items().get(1..) == Some(&[Reply::Bulk(message.clone()), Reply::Bulk(message)]), "{heard:?}");
        Ok(())
    }
}

fn keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    keys.extend([
        Vec::new(),
        (0..=255).collect(),
        b"\r\n".to_vec(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        b"+OK\r\n".to_vec(),
        b"{tag}\0{}".to_vec(),
        "schl\u{fc}ssel \u{1f511}".as_bytes().to_vec(),
        vec![0xff; 70_000],
        b"k".repeat(300_000),
    ]);
    keys
}

fn many_at_once(client: &mut Client, keys: &[Vec<u8>]) -> Result<()> {
    let mget: Vec<&[u8]> = std::iter::once(&b"MGET"[..])
        .chain(keys.iter().map(Vec::as_slice))
        .collect();
    let held = client.command(&mget)?;
    ensure!(
        held.items().len() == keys.len() && !held.items().contains(&Reply::Null),
        "MGET"
    );
    let push: Vec<&[u8]> = [&b"RPUSH"[..], b"many \0"]
        .into_iter()
        .chain(keys.iter().map(Vec::as_slice))
        .collect();
    ensure!(
        client.command(&push)?.integer() == Some(keys.len() as i64),
        "RPUSH"
    );
    let range = client.command(&[&b"LRANGE"[..], b"many \0", b"0", b"-1"])?;
    ensure!(
        range
            .items()
            .iter()
            .zip(keys)
            .all(|(item, key)| *item == Reply::Bulk(key.clone())),
        "LRANGE"
    );
    // Commands that take a lease.
    client.command(&[&b"WATCH"[..], b"\0watched\r\n"])?;
    client.command(&["MULTI"])?;
    client.command(&[&b"SET"[..], b"\0watched\r\n", b"\r\n"])?;
    let executed = client.command(&["EXEC"])?;
    ensure!(executed.items().len() == 1, "{executed:?}");
    let held = client.command(&[&b"GET"[..], b"\0watched\r\n"])?;
    ensure!(held == Reply::Bulk(b"\r\n".to_vec()), "{held:?}");
    let popped = client.command(&[&b"BLPOP"[..], b"many \0", b"0"])?;
    ensure!(popped.items().last() == Some(&Reply::Bulk(vec![0])), "{popped:?}");
    Ok(())
}
