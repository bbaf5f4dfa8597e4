//! Every split: each stream is cut in two at each position, and answered as if it had come whole.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::compare::shown;
use super::duel::Duel;
use super::words::words;

/// Longer than slipring needs to read a first half, so that the second is a read of its own.
const APART: Duration = Duration::from_millis(15);

/// What a server has not said by then, it does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// Streams whose replies are the same however often and in whatever company they are sent. Each ends the connection.
const STREAMS: &str = include_str!("scenarios/splits.txt");

/// Sends all streams, cut at each position.
pub(crate) fn check(duel: &Duel) -> Result<()> {
    let mut faults = Vec::new();
    for line in STREAMS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let stream = words(line, &Default::default())
            .with_context(|| line.to_owned())?
            .concat();
        let whole = told(duel.plain_node.address(), &stream, &[0])?;
        let want = &whole[0];
        let positions: Vec<usize> = (0..stream.len()).collect();
        let heard = told(duel.proxy.address(), &stream, &positions)?;
        let differing: Vec<usize> = positions.into_iter().filter(|at| heard[*at] != *want).collect();
        if let Some(first) = differing.first() {
            faults.push(format!(
                "{line}, cut at {differing:?}\n    plain:    {}\n    slipring: {}",
                shown(want),
                shown(&heard[*first])
            ));
        }
    }
    ensure!(
        faults.is_empty(),
        "{} streams:\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}

/// All that comes back for each cut, on a connection of its own.
fn told(address: SocketAddr, stream: &[u8], cuts: &[usize]) -> Result<Vec<Vec<u8>>> {
    let mut clients = Vec::new();
    for cut in cuts {
        let mut client = connect(address)?;
        client.write_all(&stream[..*cut])?;
        clients.push(client);
    }
    sleep(APART);
    for (client, cut) in clients.iter_mut().zip(cuts) {
        client.write_all(&stream[*cut..])?;
    }
    let heard = clients.into_iter().map(|mut client| {
        let mut heard = Vec::new();
        // A reset is an end, too.
        let _ = client.read_to_end(&mut heard);
        heard
    });
    Ok(heard.collect())
}

#[expect(clippy::disallowed_methods, reason = "a plain client")]
fn connect(address: SocketAddr) -> Result<TcpStream> {
    let client = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}
