//! Clients with something in mind: each is in the middle of it when the primary moves.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{Client, Proxy, Reply};

use super::support::{ask, counts, says};

/// One client for each thing that a session remembers.
pub(crate) struct Bystanders {
    idle: Client,
    database: Client,
    third: Client,
    queued: Client,
    watching: Client,
    popping: Client,
    reading: Client,
    timed: Client,
    timed_since: Instant,
    pattern: Client,
}

/// What became of the node that they were on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// Demoted in good order.
    Demoted,
    /// Killed: whether a blocked pop took something, nobody knows.
    Dead,
}

/// Past the longest failover of these stories, so that it ends on the new primary.
const TIMED_SECS: u64 = 8;

impl Bystanders {
    /// Connects them all and brings each into the middle of its affair.
    pub(crate) fn start(proxy: &Proxy) -> Result<Self> {
        let mut idle = proxy.client()?;
        says(&mut idle, "CLIENT SETNAME bystander", "OK")?;
        let mut database = proxy.client()?;
        says(&mut database, "SELECT 5", "OK")?;
        says(&mut database, "SET place five", "OK")?;
        let mut third = proxy.client()?;
        ensure!(matches!(ask(&mut third, "HELLO 3")?, Reply::Map(_)), "HELLO 3");
        let mut queued = proxy.client()?;
        for line in ["MULTI", "RPUSH by:queued a", "RPUSH by:queued b"] {
            let reply = ask(&mut queued, line)?;
            ensure!(reply.error().is_none(), "{line}: {reply:?}");
        }
        let mut watching = proxy.client()?;
        says(&mut watching, "WATCH by:watched", "OK")?;
        let blocked = |line: &str| -> Result<Client> {
            let mut client = proxy.client()?;
            client.send(&super::support::words(line))?;
            Ok(client)
        };
        let mut pattern = proxy.client()?;
        ensure!(
            ask(&mut pattern, "PSUBSCRIBE by:*")?.items().len() == 3,
            "PSUBSCRIBE"
        );
        let popping = blocked("BLPOP by:queue 0")?;
        let reading = blocked("XREAD BLOCK 0 STREAMS by:stream $")?;
        let timed_since = Instant::now();
        let timed = blocked(&format!("BLPOP by:nothing {TIMED_SECS}"))?;
        proxy.process().wait_until("three to be blocked", || {
            let info = ask(&mut idle, "INFO clients")?;
            let waiting = info.text().unwrap_or_default().contains("\nblocked_clients:3\r");
            ensure!(waiting, "{info:?}");
            Ok(())
        })?;
        Ok(Self {
            idle,
            database,
            third,
            queued,
            watching,
            popping,
            reading,
            timed,
            timed_since,
            pattern,
        })
    }

    /// Carries each affair to its end, on the new primary.
    pub(crate) fn finish(mut self, old: Node) -> Result<()> {
        says(&mut self.idle, "CLIENT GETNAME", "bystander")?;
        says(&mut self.database, "GET place", "five")?;
        counts(&mut self.database, "DBSIZE", 1)?;
        ensure!(
            matches!(ask(&mut self.third, "CONFIG GET port")?, Reply::Map(_)),
            "no longer RESP3"
        );
        says(&mut self.queued, "RPUSH by:queued c", "QUEUED")?;
        let executed = ask(&mut self.queued, "EXEC")?;
        ensure!(
            executed
                .items()
                .iter()
                .map(Reply::integer)
                .eq([1, 2, 3].map(Some)),
            "{executed:?}"
        );
        says(&mut self.watching, "MULTI", "OK")?;
        says(&mut self.watching, "SET by:watched x", "QUEUED")?;
        let watched = ask(&mut self.watching, "EXEC")?;
        ensure!(
            watched == Reply::Null,
            "EXEC of a WATCH on the former primary: {watched:?}"
        );
        says(&mut self.watching, "SET by:watched y", "OK")?;
        self.finish_blocked(old)?;
        counts(&mut self.idle, "PUBLISH by:channel hello", 1)?;
        ensure!(
            self.pattern.read()?.texts() == ["pmessage", "by:*", "by:channel", "hello"],
            "PSUBSCRIBE"
        );
        Ok(())
    }

    fn finish_blocked(&mut self, old: Node) -> Result<()> {
        if old == Node::Dead {
            for client in [&mut self.popping, &mut self.timed] {
                let popped = client.read()?;
                let unknown = popped.error().is_some_and(|error| error.starts_with("UNKNOWN "));
                ensure!(unknown, "a BLPOP on a dead node: {popped:?}");
                client.send(&["BLPOP", "by:queue", "0"])?;
            }
            ask(&mut self.idle, "RPUSH by:queue second")?;
        }
        ask(&mut self.idle, "RPUSH by:queue element")?;
        let popped = self.popping.read()?;
        if old == Node::Demoted {
            ensure!(popped.texts() == ["by:queue", "element"], "{popped:?}");
            // It has waited here and there for as long as it was told. (That it waits no longer is asked in memory, where
            // a slow machine has no say in it.)
            ensure!(self.timed.read()? == Reply::Null, "BLPOP that runs out");
            let waited = self.timed_since.elapsed();
            ensure!(waited >= Duration::from_secs(TIMED_SECS), "{waited:?}");
        } else {
            ensure!(popped.items().len() == 2, "{popped:?}");
            ensure!(self.timed.read()?.items().len() == 2, "the second BLPOP");
        }
        ensure!(
            ask(&mut self.idle, "XADD by:stream * field value")?
                .text()
                .is_some(),
            "XADD"
        );
        let read = self.reading.read()?;
        ensure!(read.items().len() == 1, "XREAD: {read:?}");
        Ok(())
    }
}
