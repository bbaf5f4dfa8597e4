//! One conversation with a sentinel or a node: requests out, decoded replies in, both bounded.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use resp_codec::{Progress, ReplyScan, Value, value, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::credentials::Credentials;
use crate::dial::{BoxIo, Dial};
use crate::limits;
use crate::topology::HostPort;

/// A connection on which replies come in the order of requests, or unasked once subscribed.
pub struct Link {
    io: BoxIo,
    received: BytesMut,
    /// How much of `received` the scanner has seen.
    scanned: usize,
    scan: ReplyScan,
}

/// How long to wait for whom, and who to be.
#[derive(Clone)]
pub struct Manners {
    /// An ACL user and its password; `None`: nobody in particular.
    pub credentials: Option<Credentials>,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For the answers to one request or pipeline.
    pub answer_timeout: Duration,
}

// === impl Link ===

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// As the dial, or [`io::ErrorKind::TimedOut`].
    pub async fn dial(dial: &dyn Dial, to: &HostPort, deadline: Duration) -> io::Result<Self> {
        // The dial has a deadline of its own; a hung one must not stall us all the same.
        let io = timeout(deadline, dial.dial(to))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Self {
            io,
            received: BytesMut::new(),
            scanned: 0,
            scan: ReplyScan::default(),
        })
    }

    /// Sends `commands` in one write and collects one reply for each, all within `deadline`.
    ///
    /// A server that answers with an error and closes (too many clients, protected mode) is an
    /// [`io::ErrorKind::PermissionDenied`] in its own words.
    ///
    /// # Errors
    /// The link broke, no reply came in time, or what came is no reply.
    pub async fn ask(&mut self, commands: &[&[&[u8]]], deadline: Duration) -> io::Result<Vec<Value>> {
        let exchange = async {
            if let Err(error) = self.send(commands).await {
                // Who hangs up may have said why: in the words of TLS, which are an error of the next reading.
                return Err(self.next().await.err().filter(is_tls_alert).unwrap_or(error));
            }
            let mut replies = Vec::with_capacity(commands.len());
            for _ in commands {
                match self.next().await {
                    Ok(reply) => replies.push(reply),
                    Err(error) => return Err(last_words(&replies).unwrap_or(error)),
                }
            }
            Ok(replies)
        };
        timeout(deadline, exchange)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Sends `commands` in one write.
    pub(crate) async fn send(&mut self, commands: &[&[&[u8]]]) -> io::Result<()> {
        let mut out = BytesMut::new();
        for command in commands {
            write::command(&mut out, command);
        }
        self.io.write_all(&out).await?;
        self.io.flush().await
    }

    /// The next reply. May be dropped and called again: nothing is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Value> {
        loop {
            let unseen = self.received.get(self.scanned..).unwrap_or_default();
            match self.scan.feed(unseen).map_err(malformed)? {
                Progress::Complete { used, .. } => {
                    let frame = self.received.split_to(self.scanned + used);
                    self.scanned = 0;
                    return value::decode(&frame).map_err(malformed);
                }
                Progress::Partial => self.scanned = self.received.len(),
            }
            self.receive().await?;
        }
    }

    /// Resolves once the peer closes, or says something unasked: either way the link is of no more use.
    pub(crate) async fn broken(&mut self) {
        let _ = self.receive().await;
    }

    async fn receive(&mut self) -> io::Result<()> {
        if self.received.len() > limits::REPLY_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the reply is too long",
            ));
        }
        match self.io.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// What a server said before it closed, if that was an error.
fn last_words(replies: &[Value]) -> Option<io::Error> {
    let words = replies.last()?.as_error()?;
    Some(io::Error::new(io::ErrorKind::PermissionDenied, words.to_owned()))
}

/// TLS was broken off by the other end, which says why. With TLS 1.3 it judges our certificate behind the handshake:
/// this comes instead of a reply then.
pub(crate) fn is_tls_alert(error: &io::Error) -> bool {
    error.to_string().contains("received fatal alert")
}

/// What to do about `why`, if that is an alert about slipring's own certificate. `side`: `--node-tls` or `--sentinel-tls`.
#[must_use]
pub fn certificate_remedy(why: &str, side: &str) -> Option<String> {
    let (_, alert) = why.split_once("received fatal alert: ")?;
    // With TLS 1.2, a failed handshake is all that OpenSSL says of a missing certificate.
    if alert.starts_with("CertificateRequired") || alert.starts_with("HandshakeFailure") {
        return Some(format!(
            "it may want a certificate of slipring: {side}-cert-file and {side}-key-file"
        ));
    }
    let judged = alert.contains("Certificate") || alert.starts_with("UnknownCA");
    judged.then(|| format!("it does not take the certificate of {side}-cert-file"))
}

/// `problem`, and what to do where it is our certificate.
pub(crate) fn with_remedy(problem: String, side: &str) -> String {
    match certificate_remedy(&problem, side) {
        Some(remedy) => format!("{problem}; {remedy}"),
        None => problem,
    }
}

// === impl Credentials ===

impl Credentials {
    /// `AUTH [username] password`
    #[must_use]
    pub fn auth(&self) -> Vec<&[u8]> {
        let mut command: Vec<&[u8]> = vec![b"aUtH"];
        command.extend(self.username.as_deref());
        command.push(self.password.reveal());
        command
    }
}

fn malformed(error: impl std::fmt::Debug) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no Redis reply: {error:?}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn link(io: impl crate::dial::Io + 'static) -> Link {
        Link {
            io: Box::new(io),
            received: BytesMut::new(),
            scanned: 0,
            scan: ReplyScan::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replies_come_whole_however_they_are_split() {
        let (ours, mut theirs) = duplex(7);
        let mut link = link(ours);
        let bytes = b"*2\r\n$3\r\nfoo\r\n:7\r\n+OK\r\n";
        let (sent, read) = tokio::join!(theirs.write_all(bytes), async {
            (link.next().await.unwrap(), link.next().await.unwrap())
        });
        sent.unwrap();
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        assert_eq!(
            read,
            (Value::Array(vec![text("foo"), Value::Integer(7)]), text("OK"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_without_end_breaks_the_link() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut link = link(ours);
        let flood = async {
            let _ = theirs.write_all(b"$500000000\r\n").await;
            loop {
                if theirs.write_all(&[b'x'; 65_536]).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let error = tokio::select! {
            biased;
            () = flood => unreachable!(),
            error = link.next() => error.unwrap_err(),
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(link.received.len() <= 2 * limits::REPLY_BYTES);
    }

    #[test]
    fn alerts_about_our_certificate_name_the_flag() {
        for (why, remedy) in [
            (
                "received fatal alert: CertificateRequired",
                "it may want a certificate",
            ),
            (
                "received fatal alert: HandshakeFailure",
                "it may want a certificate",
            ),
            (
                "received fatal alert: CertificateExpired",
                "it does not take the certificate",
            ),
            (
                "received fatal alert: UnknownCA",
                "it does not take the certificate",
            ),
            ("received fatal alert: ProtocolVersion", ""),
            ("invalid peer certificate: BadSignature", ""),
        ] {
            let told = certificate_remedy(&format!("h:1: {why}"), "--node-tls").unwrap_or_default();
            assert_eq!(told.is_empty(), remedy.is_empty(), "{why}: {told}");
            assert!(told.starts_with(remedy), "{why}: {told}");
            assert!(told.is_empty() || told.contains("--node-tls-cert-file"), "{told}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_words_of_a_server_are_told() {
        for (words, expected) in [
            (
                "-ERR max number of clients reached\r\n",
                io::ErrorKind::PermissionDenied,
            ),
            ("+OK\r\n", io::ErrorKind::UnexpectedEof),
            ("", io::ErrorKind::UnexpectedEof),
        ] {
            let (ours, mut theirs) = duplex(1024);
            let mut link = link(ours);
            theirs.write_all(words.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            let commands: [&[&[u8]]; 2] = [&[b"ROLE"], &[b"PING"]];
            let error = link.ask(&commands, Duration::from_secs(1)).await.unwrap_err();
            assert_eq!(error.kind(), expected, "{words}");
        }
    }
}
