//! TLS around a listener and around a dial, by rustls. Certificates are read by whoever builds the configurations;
//! each new connection uses those that are in place when it is made.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use sentinel_watcher::{BoxIo, Dial, Dialing, HostPort};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Accepted, Address, Incoming, Listen, NotOpened, Opened, Opening};
use crate::metrics::RefuseReason;

/// What slipring shows to clients: swapped as a whole when certificates are renewed.
pub type ServerTls = Arc<ArcSwap<ServerConfig>>;

/// What slipring shows to nodes or sentinels, and whom it trusts there.
pub type ClientTls = Arc<ArcSwap<ClientConfig>>;

/// A listener whose clients speak TLS.
pub struct TlsListen {
    inner: Box<dyn Listen>,
    config: ServerTls,
}

/// A client that has still to shake hands.
struct TlsIncoming {
    inner: Box<dyn Incoming>,
    config: Arc<ServerConfig>,
}

/// A client's connection.
struct TlsClient(Box<TlsStream<BoxIo>>);

/// Connections that speak TLS.
pub struct TlsDial {
    /// Makes the connections beneath.
    pub inner: Arc<dyn Dial>,
    /// Whom to trust, and what to show.
    pub config: ClientTls,
    /// The name that certificates must bear; `None`: the host that was dialled.
    pub server_name: Option<ServerName<'static>>,
    /// Deadline of the handshake.
    pub timeout: Duration,
}

// === impl TlsListen ===

impl TlsListen {
    /// Clients of `inner` speak TLS.
    #[must_use]
    pub fn new(inner: Box<dyn Listen>, config: ServerTls) -> Self {
        Self { inner, config }
    }
}

impl Listen for TlsListen {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        self.inner.poll_accept(cx).map_ok(|accepted| Accepted {
            socket: Box::new(TlsIncoming {
                inner: accepted.socket,
                config: self.config.load_full(),
            }),
            ..accepted
        })
    }

    fn share(&self) -> io::Result<Box<dyn Listen>> {
        Ok(Box::new(Self {
            inner: self.inner.share()?,
            config: Arc::clone(&self.config),
        }))
    }

    fn address(&self) -> Address {
        self.inner.address()
    }

    fn is_encrypted(&self) -> bool {
        true
    }

    fn is_proxied(&self) -> bool {
        self.inner.is_proxied()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.inner.socket()
    }
}

impl Incoming for TlsIncoming {
    fn open(self: Box<Self>, keepalive: Duration) -> Opening {
        Box::pin(async move {
            let Opened { io, ends } = self.inner.open(keepalive).await?;
            let shaken = TlsAcceptor::from(self.config).accept(io).await;
            let stream = shaken.map_err(|cause| NotOpened {
                reason: RefuseReason::Handshake,
                cause,
            })?;
            Ok(Opened {
                io: Box::new(TlsClient(Box::new(stream))),
                ends,
            })
        })
    }
}

// === impl TlsClient ===

impl AsyncRead for TlsClient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsClient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Drop for TlsClient {
    /// Says that it ends here, as far as the socket takes it at once: a peer must be able to tell an end from a cut.
    fn drop(&mut self) {
        let _ = Pin::new(&mut self.0).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

// === impl TlsDial ===

impl Dial for TlsDial {
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a> {
        Box::pin(async move {
            let name = match &self.server_name {
                Some(name) => name.clone(),
                None => ServerName::try_from(&*to.host)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
                    .to_owned(),
            };
            let stream = self.inner.dial(to).await?;
            let connecting = TlsConnector::from(self.config.load_full()).connect(name, stream);
            let stream = tokio::time::timeout(self.timeout, connecting).await??;
            Ok(Box::new(stream) as BoxIo)
        })
    }
}

impl fmt::Debug for TlsDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsDial")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
