//! A client without any courtesy: it sends what it is given, hides nothing that comes back, and tells a clean end
//! of the connection from a reset.

use std::fmt;
use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use crate::reply::Reply;
use crate::servers::Login;

/// How long a reply may take unless told otherwise: past any hold of a failover.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no reply, with the bytes of it that did come.
#[derive(Debug)]
pub struct Broken {
    /// What happened.
    pub cause: Cause,
    /// The reply's first bytes.
    pub partial: Vec<u8>,
}

/// What ended an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The other side closed in good order (FIN).
    Closed,
    /// The other side threw the connection away (RST).
    Reset,
    /// Nothing came in time; the connection stands, and is in order if `partial` is empty.
    Timeout,
    /// What came is no RESP.
    Garbage(String),
    /// Anything else, such as a refused connection.
    Other(String),
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// A command in RESP, ready for [`Client::send_raw`].
#[must_use]
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

// === impl Client ===

impl Client {
    /// Connects, with a reply timeout of [`REPLY_TIMEOUT`].
    ///
    /// # Errors
    /// When nobody answers there within five seconds.
    pub fn connect(address: impl ToSocketAddrs) -> Result<Self, Broken> {
        let mut last = io::Error::other("no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
                    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
                    return Ok(Self {
                        stream: BufReader::with_capacity(64 * 1024, stream),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Connects and, if there is a login, proves it by AUTH, whose answer may take so long.
    ///
    /// # Errors
    /// As [`Client::connect`], and when the login is refused.
    pub fn connect_as(
        address: impl ToSocketAddrs,
        login: Option<&Login>,
        patience: Duration,
    ) -> Result<Self, Broken> {
        let mut client = Self::connect(address)?;
        if let Some(login) = login {
            client.set_timeout(patience)?;
            let reply = client.command(&login.auth_command())?;
            if let Some(error) = reply.error() {
                return Err(Broken {
                    cause: Cause::Other(error.to_owned()),
                    partial: Vec::new(),
                });
            }
            client.set_timeout(REPLY_TIMEOUT)?;
        }
        Ok(client)
    }

    /// Sets how long each read and write may wait from now on.
    ///
    /// # Errors
    /// For a zero duration.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), Broken> {
        self.stream.get_ref().set_read_timeout(Some(timeout))?;
        self.stream.get_ref().set_write_timeout(Some(timeout))?;
        Ok(())
    }

    /// Our own end of the connection, as the other side sees it.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_address(&self) -> Result<SocketAddr, Broken> {
        Ok(self.stream.get_ref().local_addr()?)
    }

    /// Sends these bytes and nothing else.
    ///
    /// # Errors
    /// When the connection is gone, or nobody reads for the length of the timeout.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// Sends one command.
    ///
    /// # Errors
    /// As [`Client::send_raw`].
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<(), Broken> {
        self.send_raw(&encode(args))
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// When none comes, or no whole one.
    pub fn read(&mut self) -> Result<Reply, Broken> {
        self.read_both().map(|(reply, _)| reply)
    }

    /// Reads one reply and gives its bytes as they came.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub fn read_raw(&mut self) -> Result<Vec<u8>, Broken> {
        self.read_both().map(|(_, raw)| raw)
    }

    /// Sends one command and reads one reply; an error reply is a reply.
    ///
    /// # Errors
    /// As [`Client::send_raw`] and [`Client::read`].
    pub fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply, Broken> {
        self.send(args)?;
        self.read()
    }

    /// Sends all of `bytes`, which hold `count` commands, while reading their replies, so that neither side's full
    /// buffers stall the other.
    ///
    /// # Errors
    /// The first reply that does not come; those before it are lost to the caller.
    pub fn exchange(&mut self, bytes: &[u8], count: usize) -> Result<Vec<Reply>, Broken> {
        let mut writer = self.stream.get_ref().try_clone()?;
        thread::scope(|scope| {
            let sent = scope.spawn(move || writer.write_all(bytes));
            let replies: Result<Vec<Reply>, Broken> = (0..count).map(|_| self.read()).collect();
            if replies.is_err() {
                // Or the writer would sit out its own timeout.
                let _ = self.stream.get_ref().shutdown(Shutdown::Write);
            }
            let sent = sent.join().expect("writing does not panic");
            let replies = replies?;
            sent?;
            Ok(replies)
        })
    }

    /// Sends all commands at once and reads a reply for each.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    pub fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Result<Vec<Reply>, Broken> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        self.exchange(&bytes, commands.len())
    }

    /// Tells the other side that nothing more comes, while still reading.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish_sending(&mut self) -> Result<(), Broken> {
        Ok(self.stream.get_ref().shutdown(Shutdown::Write)?)
    }

    /// Reads on until the connection ends or nothing comes for the length of the timeout: the bytes that came, and how it ended.
    pub fn read_to_end(&mut self) -> (Vec<u8>, Cause) {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => (bytes, Cause::Closed),
            Err(error) => (bytes, Broken::from(error).cause),
        }
    }

    /// Whether the other side has ended the connection; takes at most a millisecond and leaves replies unread.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub fn is_over(&mut self) -> Result<bool, Broken> {
        let stream = self.stream.get_ref();
        let before = stream.read_timeout()?;
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        let peeked = stream.peek(&mut [0]);
        stream.set_read_timeout(before)?;
        Ok(match peeked {
            Ok(count) => count == 0,
            Err(error) => Broken::from(error).cause != Cause::Timeout,
        })
    }

    fn read_both(&mut self) -> Result<(Reply, Vec<u8>), Broken> {
        let mut raw = Vec::new();
        match Reply::read(&mut self.stream, &mut raw) {
            Ok(reply) => Ok((reply, raw)),
            Err(error) => Err(Broken {
                partial: raw,
                ..Broken::from(error)
            }),
        }
    }
}

// === impl Broken ===

impl Broken {
    /// Whether the connection ended, as opposed to being slow or talking nonsense.
    #[must_use]
    pub fn is_drop(&self) -> bool {
        matches!(self.cause, Cause::Closed | Cause::Reset)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        let cause = match error.kind() {
            ErrorKind::UnexpectedEof => Cause::Closed,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Cause::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Cause::Timeout,
            ErrorKind::InvalidData => Cause::Garbage(error.to_string()),
            _ => Cause::Other(error.to_string()),
        };
        Self {
            cause,
            partial: Vec::new(),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Closed => write!(f, "the connection was closed")?,
            Cause::Reset => write!(f, "the connection was reset")?,
            Cause::Timeout => write!(f, "no reply in time")?,
            Cause::Garbage(what) | Cause::Other(what) => write!(f, "{what}")?,
        }
        if !self.partial.is_empty() {
            let shown = &self.partial[..self.partial.len().min(200)];
            write!(
                f,
                " after {} bytes: {:?}",
                self.partial.len(),
                String::from_utf8_lossy(shown)
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A client and the other end of its connection.
    fn pair() -> (Client, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = Client::connect(listener.local_addr().unwrap()).unwrap();
        client.set_timeout(Duration::from_millis(200)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn tells_a_close_from_a_reset_from_silence() {
        let (mut client, mut server) = pair();
        server.write_all(b"+half").unwrap();
        let silent = client.read().unwrap_err();
        assert_eq!(
            (silent.cause, silent.partial.as_slice()),
            (Cause::Timeout, b"+half".as_slice())
        );

        let (mut client, server) = pair();
        assert!(!client.is_over().unwrap());
        drop(server);
        assert!(client.is_over().unwrap());
        assert_eq!(client.read().unwrap_err().cause, Cause::Closed);

        let (mut client, mut server) = pair();
        client.send(&["PING"]).unwrap();
        server.read_exact(&mut [0]).unwrap();
        drop(server); // with unread bytes, which the kernel answers by RST
        assert_eq!(client.read().unwrap_err().cause, Cause::Reset);
    }

    #[test]
    fn exchanges_more_than_both_sides_can_buffer() {
        let (mut client, server) = pair();
        client.set_timeout(Duration::from_secs(10)).unwrap();
        let echo = thread::spawn(move || io::copy(&mut &server, &mut &server).unwrap());
        let reply = [b"$100000\r\n".as_slice(), &[b'x'; 100_000], b"\r\n"].concat();
        let replies = client.exchange(&reply.repeat(300), 300).unwrap();
        assert_eq!(replies.len(), 300);
        drop(client);
        assert_eq!(echo.join().unwrap(), 300 * reply.len() as u64);
    }
}
