//! A stand-in for a collector of OpenTelemetry: it takes what it is sent over HTTP, keeps it, and says 200.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use crate::wait::{STEP_TIMEOUT, wait_for};

/// It serves until the process ends.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<u8>>>,
}

// === impl Collector ===

impl Collector {
    /// Starts it on a free port of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0")?;
        let collector = Self {
            address: socket.local_addr()?,
            kept: Arc::default(),
        };
        let kept = Arc::clone(&collector.kept);
        thread::spawn(move || {
            for connection in socket.incoming().flatten() {
                if let Some(body) = serve(connection) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).extend(body);
                }
            }
        });
        Ok(collector)
    }

    /// What `--otlp-endpoint` takes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How much it has been sent so far.
    #[must_use]
    pub fn received_bytes(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until it has been sent all of these words: protobuf writes strings as they are.
    ///
    /// # Errors
    /// When one of them does not come.
    pub fn wait_for_words(&self, words: &[&str]) -> Result<()> {
        wait_for("the spans", STEP_TIMEOUT, || {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
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

/// The body of the one request of a connection, which is answered.
fn serve(connection: TcpStream) -> Option<Vec<u8>> {
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
    let whole = connection.read_exact(&mut body).is_ok();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let _ = connection.get_mut().write_all(answer);
    whole.then_some(body)
}
