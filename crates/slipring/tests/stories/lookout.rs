//! Slow commands, hot keys, and spans of commands and failovers at a collector's stand-in.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use testkit::wait::{STEP_TIMEOUT, wait_for};
use testkit::{Cluster, Flavor, on_each_server};

use super::support::{ask, says, slipring};

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<u8>>>);

on_each_server! {
    fn what_is_slow_hot_and_failed_over_is_told(flavor: Flavor) -> Result<()> {
        let (collector, address) = Collector::start()?;
        let cluster = Cluster::builder(flavor).nodes(2).start()?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--slowlog-threshold", "150ms")
            .flag("--sample-commands", "1")
            .flag("--otlp-endpoint", &format!("http://{address}"))
            .start()?;
        let mut client = proxy.client()?;
        for _ in 0..20 {
            says(&mut client, "SET hot value", "OK")?;
        }
        says(&mut client, "DEBUG SLEEP 0.2", "OK")?;
        let slow = ask(&mut client, "PROXY SHOW SLOWLOG")?.texts().join("\n");
        ensure!(slow.contains("\"DEBUG\" \"SLEEP\" \"0.2\""), "{slow}");
        let hot = ask(&mut client, "PROXY SHOW HOTKEYS")?.texts().join("\n");
        ensure!(hot.contains("key=\"hot\""), "{hot}");

        collector.has(&["slipring", "db.operation.name", "SET", "slipring.master", "mymaster"])?;
        cluster.failover_planned()?;
        let to = cluster.primary()?.address().to_string();
        collector.has(&["failover", "slipring.failover.kind", "planned", "promoted", "hold", &to])?;
        Ok(())
    }
}

// === impl Collector ===

impl Collector {
    fn start() -> Result<(Self, String)> {
        let socket = TcpListener::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?.to_string();
        let collector = Self::default();
        let kept = Arc::clone(&collector.0);
        std::thread::spawn(move || {
            for connection in socket.incoming().flatten() {
                let mut connection = BufReader::new(connection);
                let mut length = 0;
                let mut line = String::new();
                while connection.read_line(&mut line).is_ok_and(|read| read > 2) {
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if connection.read_exact(&mut body).is_ok() {
                    kept.lock().expect("nobody panics with it").extend(body);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                let _ = connection.get_mut().write_all(answer);
            }
        });
        Ok((collector, address))
    }

    /// Waits until it has been sent all of these words: protobuf writes strings as they are.
    fn has(&self, words: &[&str]) -> Result<()> {
        wait_for("the spans", STEP_TIMEOUT, || {
            let kept = self.0.lock().expect("nobody panics with it");
            for word in words {
                let mut windows = kept.windows(word.len());
                windows
                    .any(|window| window == word.as_bytes())
                    .then_some(())
                    .with_context(|| format!("{word} was not sent, in {} bytes", kept.len()))?;
            }
            Ok(())
        })
    }
}
