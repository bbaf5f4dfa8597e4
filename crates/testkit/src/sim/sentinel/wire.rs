//! A sentinel as a server: it answers polls and publishes events.

use std::time::Duration;

use bytes::BytesMut;
use resp_codec::{Command, RequestLimits, RequestScan, write};
use sentinel_watcher::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{DOWN_AFTER, Gossip, MASTER, QUORUM, Sentinel};
use crate::sim::pipe::End;
use crate::sim::task::spawn;
use crate::sim::trace;

/// Answers requests until the connection is cut.
pub(super) async fn serve(sentinel: Sentinel, mut stream: End, cut: CancellationToken) {
    let (sender, mut events) = mpsc::unbounded_channel::<Vec<u8>>();
    let (mut input, mut scan) = (BytesMut::new(), RequestScan::default());
    loop {
        tokio::select! {
            biased;
            () = cut.cancelled() => return,
            Some(event) = events.recv() => {
                sentinel.thawed().await;
                if stream.write_all(&event).await.is_err() {
                    return;
                }
            }
            read = stream.read_buf(&mut input) => if !matches!(read, Ok(1..)) {
                return;
            }
        }
        while let Some(found) = scan
            .advance(&input, &RequestLimits::AUTHENTICATED)
            .expect("the watcher writes RESP")
        {
            sentinel.thawed().await;
            let frame = input.split_to(found.len).freeze();
            let words: Vec<_> = Command::new(frame, found)
                .args()
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            if words == ["PSUBSCRIBE", "*"] {
                sentinel.state().subscribers.push(sender.clone());
            }
            let answer = sentinel.answer(&words);
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

impl Sentinel {
    /// Publishes an event.
    pub(super) fn tell(&self, channel: &str, payload: &str) {
        trace::note(|| format!("{} {channel} {payload}", self.address().host));
        let mut message = BytesMut::new();
        write::command(
            &mut message,
            &[b"pmessage", b"*", channel.as_bytes(), payload.as_bytes()],
        );
        let state = &mut *self.state();
        let times = match state.gossip {
            Gossip::Faithful => 1,
            Gossip::Silent => 0,
            Gossip::Careless => state.rng.below(3),
        };
        for _ in 0..times {
            let late = state.gossip == Gossip::Careless && state.rng.once_in(2);
            let late = if late { state.rng.below(1500) } else { 0 };
            state.subscribers.retain(|subscriber| !subscriber.is_closed());
            for subscriber in state.subscribers.clone() {
                let message = message.to_vec();
                if late == 0 {
                    let _ = subscriber.send(message);
                    continue;
                }
                spawn(async move {
                    sleep(Duration::from_millis(late)).await;
                    let _ = subscriber.send(message);
                });
            }
        }
    }

    async fn thawed(&self) {
        while !self.is_running() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn answer(&self, words: &[&str]) -> Vec<u8> {
        let mut out = BytesMut::new();
        match words {
            ["PING"] => write::simple(&mut out, "PONG"),
            ["PSUBSCRIBE", "*"] => {
                write::array_header(&mut out, 3);
                texts(&mut out, &["psubscribe", "*"]);
                write::integer(&mut out, 1);
            }
            ["SENTINEL", "MYID"] => texts(&mut out, &[&self.id()]),
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER] => {
                let HostPort { host, port } = self.master();
                write::array_header(&mut out, 2);
                texts(&mut out, &[&host, &port.to_string()]);
            }
            ["SENTINEL", "MASTER", MASTER] => self.describe_master(&mut out),
            ["SENTINEL", "REPLICAS", MASTER] => self.describe_replicas(&mut out),
            ["SENTINEL", "SENTINELS", MASTER] => {
                let peers = self.0.peers.borrow();
                write::array_header(&mut out, peers.len());
                for peer in peers.iter() {
                    let HostPort { host, port } = peer.address();
                    table(
                        &mut out,
                        &[("ip", host), ("port", &port.to_string()), ("runid", &peer.id())],
                    );
                }
            }
            _ => write::error(&mut out, "ERR unknown command"),
        }
        out.to_vec()
    }

    fn id(&self) -> String {
        format!("id-{}", self.address().host)
    }

    fn describe_master(&self, out: &mut BytesMut) {
        let state = self.state();
        let seen = state.seen.get(&state.belief.master);
        let mut flags = "master".to_owned();
        for (flag, says) in [
            (",s_down", seen.is_some_and(|seen| seen.down)),
            (",o_down", state.objectively_down),
            (",failover_in_progress", state.attempt.is_some()),
        ] {
            if says {
                flags += flag;
            }
        }
        let (epoch, quorum) = (state.belief.config_epoch.to_string(), QUORUM.to_string());
        let down_after = DOWN_AFTER.as_millis().to_string();
        let mut fields = vec![
            ("flags", flags.as_str()),
            ("config-epoch", &epoch),
            ("quorum", &quorum),
            ("down-after-milliseconds", &down_after),
        ];
        if let Some(attempt) = &state.attempt {
            fields.push(("failover-state", attempt.name()));
        }
        table(out, &fields);
    }

    fn describe_replicas(&self, out: &mut BytesMut) {
        let state = self.state();
        let nodes = self.0.nodes.iter().map(super::Node::address);
        let replicas: Vec<_> = nodes.filter(|address| **address != state.belief.master).collect();
        write::array_header(out, replicas.len());
        for address in replicas {
            let mut flags = "slave".to_owned();
            if state.seen.get(address).is_some_and(|seen| seen.down) {
                flags += ",s_down";
            }
            let chosen = state.attempt.as_ref().and_then(super::Attempt::chosen);
            if chosen == Some(address) {
                flags += ",promoted";
            }
            table(
                out,
                &[
                    ("ip", &address.host),
                    ("port", &address.port.to_string()),
                    ("flags", &flags),
                    ("slave-priority", "100"),
                ],
            );
        }
    }
}

fn texts(out: &mut BytesMut, texts: &[&str]) {
    for text in texts {
        write::bulk(out, Some(text.as_bytes()));
    }
}

fn table(out: &mut BytesMut, fields: &[(&str, &str)]) {
    write::array_header(out, fields.len() * 2);
    for (name, value) in fields {
        texts(out, &[name, value]);
    }
}
