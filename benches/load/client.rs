//! The few commands that the driver itself sends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::Interrupt;

/// The key that redis-benchmark uses when it is not asked for random ones.
pub(super) const KEY: &[u8] = b"key:__rand_int__";
/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Appends a command in RESP.
pub(super) fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Gives the benchmark's key a value of this size.
pub(super) fn fill(port: u16, value_bytes: usize) -> Result<()> {
    let mut request = Vec::new();
    command(&mut request, &[b"SET", KEY, &vec![b'x'; value_bytes]]);
    let mut stream = connect(port)?;
    expect(&mut stream, &request, b"+OK\r\n")
}

/// Connects to a port of this machine.
pub(super) fn connect(port: u16) -> Result<TcpStream> {
    let stream =
        TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("connecting to port {port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `request` and reads exactly `reply`.
pub(super) fn expect(stream: &mut TcpStream, request: &[u8], reply: &[u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut got = vec![0; reply.len()];
    stream.read_exact(&mut got).context("waiting for a reply")?;
    if got != reply {
        bail!(
            "an unexpected reply: {:?}",
            String::from_utf8_lossy(&got[..got.len().min(100)])
        );
    }
    Ok(())
}

/// Waits until the server answers `args` with a reply that begins with `prefix`, connecting anew at each attempt.
///
/// # Errors
/// With the last failure once `PATIENCE` has passed, or at once when interrupted.
pub(super) fn await_reply(port: u16, args: &[&[u8]], prefix: &[u8], interrupt: &Interrupt) -> Result<()> {
    let begin = Instant::now();
    let mut request = Vec::new();
    command(&mut request, args);
    loop {
        interrupt.check()?;
        let answered = connect(port).and_then(|mut stream| expect(&mut stream, &request, prefix));
        match answered {
            Ok(()) => return Ok(()),
            Err(e) if begin.elapsed() > PATIENCE => return Err(e.context("the server does not serve")),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
