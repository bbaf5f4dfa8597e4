//! A plain client: it writes commands and reads replies, and knows nothing of what is behind the door.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Progress, ReplyScan, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::pipe::End;
use super::reply::show;

/// How long a client waits for anything, in the world's time.
const PATIENCE: Duration = Duration::from_secs(120);

/// One client's end of a connection.
pub struct Client {
    io: End,
    input: BytesMut,
    scan: ReplyScan,
    scanned: usize,
}

impl Client {
    /// A client on `io`, which has said nothing yet.
    pub fn new(io: End) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            scan: ReplyScan::default(),
            scanned: 0,
        }
    }

    /// Sends the commands of all `lines`, which `; ` parts, in one write. When each line was written whole, or `None`
    /// where the connection has ended.
    pub(super) async fn try_send(&mut self, lines: &[impl AsRef<str>]) -> Option<Vec<Instant>> {
        let mut out = BytesMut::new();
        let ends = lines.iter().map(|line| {
            out.extend_from_slice(&frames(line.as_ref()));
            out.len()
        });
        let ends: Vec<_> = ends.collect();
        let (mut written, mut times) = (0, Vec::new());
        while written < out.len() {
            let wrote = timeout(PATIENCE, self.io.write(&out[written..])).await;
            written += wrote.ok()?.ok()?;
            let whole = ends.iter().filter(|end| **end <= written).count();
            times.resize(whole, Instant::now());
        }
        Some(times)
    }

    /// Sends the commands of `line`, which `; ` parts, in one write.
    pub async fn send(&mut self, line: &str) {
        self.send_bytes(&frames(line)).await;
    }

    /// Sends one command of any bytes.
    pub async fn send_words(&mut self, words: &[&[u8]]) {
        let mut out = BytesMut::new();
        write::command(&mut out, words);
        self.send_bytes(&out).await;
    }

    /// Sends any bytes in one write.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let written = timeout(PATIENCE, self.io.write_all(bytes)).await;
        written
            .expect("the proxy reads")
            .expect("the proxy keeps the connection");
    }

    /// Sends no more, and still reads.
    pub async fn end(&mut self) {
        let ended = self.io.shutdown().await;
        ended.expect("the proxy keeps the connection");
    }

    /// Sends commands and shows their replies, in brackets of their own: `+OK`, `:1 text`.
    pub async fn ask(&mut self, line: &str) -> String {
        self.send(line).await;
        self.replies(line.split("; ").count()).await
    }

    /// So many replies, shown.
    pub async fn replies(&mut self, count: usize) -> String {
        let mut shown = Vec::new();
        for _ in 0..count {
            shown.push(self.reply().await);
        }
        shown.join(" ")
    }

    /// The next reply, shown.
    pub async fn reply(&mut self) -> String {
        show(&self.frame().await)
    }

    /// The next reply.
    pub async fn frame(&mut self) -> Bytes {
        match timeout(PATIENCE, self.frame_or_end()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => panic!("closed in place of a reply, after {}", shorten(&self.input)),
            Err(_) => panic!("no reply, after {}", shorten(&self.input)),
        }
    }

    /// The next reply, or `None` where the connection has ended.
    pub async fn frame_or_end(&mut self) -> Option<Bytes> {
        loop {
            let fresh = &self.input[self.scanned..];
            match self.scan.feed(fresh).expect("the proxy sends RESP") {
                Progress::Complete { used, .. } => {
                    let end = std::mem::take(&mut self.scanned) + used;
                    return Some(self.input.split_to(end).freeze());
                }
                Progress::Partial => self.scanned = self.input.len(),
            }
            match self.io.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// When the reply that was read last had come: who is busy writing reads it later.
    pub(super) fn arrived(&self) -> Instant {
        self.io.arrived()
    }

    /// Replies to what was asked at `then` had to wait until this client read.
    pub(super) fn was_full_since(&self, then: Instant) -> bool {
        self.io.was_full_since(then)
    }

    /// The connection has ended within a reply of more than `bytes`.
    pub fn ended_within(&self, bytes: usize) -> bool {
        let header = self.input.strip_prefix(b"$").unwrap_or_default();
        let digits = header.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length = std::str::from_utf8(&header[..digits]).ok();
        length
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: usize| length > bytes)
    }

    /// Nothing comes for `long`.
    pub async fn hears_nothing_for(&mut self, long: Duration) {
        if let Ok(frame) = timeout(long, self.frame_or_end()).await {
            panic!("{:?} came", frame.as_deref().map(shorten));
        }
    }

    /// The connection ends, and nothing whole comes before.
    pub async fn is_closed(&mut self) {
        match timeout(PATIENCE, self.frame_or_end()).await {
            Ok(None) => {}
            Ok(Some(frame)) => panic!("{} came in place of the end", shorten(&frame)),
            Err(_) => panic!("the connection stays"),
        }
    }
}

/// The commands of `line`, as bytes.
fn frames(line: &str) -> BytesMut {
    let mut out = BytesMut::new();
    for command in line.split("; ") {
        let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        write::command(&mut out, &words);
    }
    out
}

/// What a person can read of `bytes`.
fn shorten(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::sleep;

    use super::*;
    use crate::sim::pipe::{Carriage, connect};
    use crate::sim::rng::Rng;

    /// A client and its peer, with room for 64 bytes between them in each direction.
    fn pair() -> (Client, End) {
        let carriage = Carriage {
            window: 64,
            latency: Duration::ZERO,
            jitter_millis: 0,
            rng: Rng::new(0),
        };
        let [client, proxy]: [Arc<str>; 2] = ["client", "proxy"].map(Arc::from);
        let (near, far, _) = connect(&client, &proxy, &carriage, (false, false));
        (Client::new(near), far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_busy_writing_knows_when_its_reply_came() {
        let (mut client, mut peer) = pair();
        let (start, large) = (Instant::now(), format!("SET b {}", "x".repeat(100)));
        let answering = async {
            sleep(Duration::from_millis(10)).await;
            peer.write_all(b"+OK\r\n").await.unwrap();
            sleep(Duration::from_millis(990)).await;
            let mut taken = BytesMut::new();
            while taken.len() < frames("SET a 1").len() + 100 {
                peer.read_buf(&mut taken).await.unwrap();
            }
        };
        let lines = ["SET a 1", &large];
        let (times, ()) = tokio::join!(client.try_send(&lines), answering);
        assert_eq!(times, Some(vec![start, start + Duration::from_secs(1)]));
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(client.arrived(), start + Duration::from_millis(10));
        assert!(!client.was_full_since(start));
    }

    #[tokio::test(start_paused = true)]
    async fn replies_that_waited_for_room_are_known_to_have_waited() {
        let (mut client, mut peer) = pair();
        let (start, reply) = (Instant::now(), format!("+{}\r\n", "x".repeat(100)));
        let reading = async {
            sleep(Duration::from_secs(1)).await;
            client.reply().await
        };
        let (written, shown) = tokio::join!(peer.write_all(reply.as_bytes()), reading);
        written.unwrap();
        assert_eq!(shown.len(), 101);
        assert!(client.was_full_since(start));
        assert!(!client.was_full_since(Instant::now()));
    }
}
