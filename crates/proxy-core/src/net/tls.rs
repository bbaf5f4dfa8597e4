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
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

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

/// A connection, to a client or to a node or sentinel. A write to a node that fails has sent nothing that could be read: what
/// was to be written may be sent again.
struct Tls(Box<TlsStream<BoxIo>>);

/// What one TLS record carries at most (RFC 8446, 5.1). Half a record is nothing: it cannot be deciphered.
const RECORD_BYTES: usize = 16 << 10;

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
                io: Box::new(Tls(Box::new(stream.into()))),
                ends,
            })
        })
    }
}

// === impl Tls ===

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    /// To a node one record at a time: of several the first might arrive, and the last fail.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = match &*self.0 {
            TlsStream::Client(_) => bytes.get(..RECORD_BYTES).unwrap_or(bytes),
            TlsStream::Server(_) => bytes,
        };
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Drop for Tls {
    /// Says to a client that it ends here, as far as the socket takes it at once: it must be able to tell an end from a cut.
    fn drop(&mut self) {
        if let TlsStream::Server(_) = &*self.0 {
            let _ = Pin::new(&mut self.0).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
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
            Ok(Box::new(Tls(Box::new(stream.into()))) as BoxIo)
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// A socket that takes so many bytes more, and then fails.
    struct Brittle(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Brittle {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Brittle {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let left = self.1.load(Ordering::Relaxed);
            let bytes = bytes.get(..left).unwrap_or(bytes);
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let taken = Pin::new(&mut self.0).poll_write(cx, bytes);
            if let Poll::Ready(Ok(taken)) = taken {
                self.1.fetch_sub(taken, Ordering::Relaxed);
            }
            taken
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Dials whatever is at hand.
    struct AtHand(Mutex<Option<Brittle>>);

    impl Dial for AtHand {
        fn dial<'a>(&'a self, _: &'a HostPort) -> Dialing<'a> {
            let io = self.0.lock().unwrap().take().unwrap();
            Box::pin(async move { Ok(Box::new(io) as BoxIo) })
        }
    }

    /// Both ends' configurations: an authority, and what it has signed.
    fn configs() -> (ClientTls, Arc<ServerConfig>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["node".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        (Arc::new(ArcSwap::from_pointee(client)), Arc::new(server))
    }

    /// Guards `RECORD_BYTES`: what a node may have read is never less than what is known to have been written.
    #[tokio::test]
    async fn a_write_that_fails_has_sent_nothing() {
        static BYTES: [u8; 60_000] = [7; 60_000];
        let (config, server) = configs();
        for room in [1, 10_000, 16_500, 20_000, 40_000, 59_000] {
            let (near, far) = duplex(1 << 20);
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let dial = TlsDial {
                inner: Arc::new(AtHand(Mutex::new(Some(Brittle(near, Arc::clone(&left)))))),
                config: Arc::clone(&config),
                server_name: None,
                timeout: Duration::from_secs(10),
            };
            let node = HostPort::new("node", 6379);
            let accepting = TlsAcceptor::from(Arc::clone(&server)).accept(far);
            let (near, far) = tokio::join!(dial.dial(&node), accepting);
            let (mut near, mut far) = (near.unwrap(), far.unwrap());

            left.store(room, Ordering::Relaxed);
            let mut written = 0;
            while let Ok(n) = near.write(&BYTES[written..]).await {
                written += n;
            }
            drop(near);
            let mut read = Vec::new();
            let _ = far.read_to_end(&mut read).await;
            assert!(
                read.len() <= written,
                "{room}: {written} written, {} read",
                read.len()
            );
            assert!(written <= room, "{room}: {written} written");
        }
    }
}
