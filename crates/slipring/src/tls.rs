//! Certificates: read from files into what the sockets use, at the start and at each reload.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy_core::{ClientTls, ServerTls};
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config::error::ConfigError;

/// One of the three sides on which TLS is spoken, as its flags begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Listen,
    Node,
    Sentinel,
}

/// The files of one side.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) side: Side,
    /// Authorities: who vouches for the other end.
    pub(crate) ca: Option<PathBuf>,
    /// Certificate chains, the leaf first.
    pub(crate) certs: Vec<PathBuf>,
    /// Their keys, in the same order.
    pub(crate) keys: Vec<PathBuf>,
    /// Names for which clients may ask; none: any.
    pub(crate) names: Vec<ServerName<'static>>,
    pub(crate) clients: ClientCertificates,
}

/// Whether clients show certificates: `tls-auth-clients` of redis.conf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    NotAsked,
    Optional,
    Required,
}

/// What is in place.
pub(crate) struct Tls {
    pub(crate) listen: Option<ServerTls>,
    /// A certificate of the listeners whose time is over or has not come: good clients refuse it.
    pub(crate) out_of_date: Option<ConfigError>,
    pub(crate) node: Option<ClientTls>,
    pub(crate) sentinel: Option<ClientTls>,
}

/// Chooses the certificate by the name that a client asks for; the first one where none bears it.
#[derive(Debug)]
struct ByName {
    certificates: Vec<Arc<CertifiedKey>>,
    names: Vec<ServerName<'static>>,
}

// === impl Tls ===

impl Tls {
    /// Reads the files of the sides that speak TLS.
    pub(crate) fn new(
        listen: Option<TlsFiles>,
        node: Option<TlsFiles>,
        sentinel: Option<TlsFiles>,
    ) -> Result<Self, ConfigError> {
        let out_of_date = listen.as_ref().map(TlsFiles::out_of_date).transpose()?.flatten();
        let server = |files: TlsFiles| Ok(ArcSwap::from_pointee(files.server()?).into());
        let client = |files: TlsFiles| Ok(ArcSwap::from_pointee(files.client()?).into());
        Ok(Self {
            listen: listen.map(server).transpose()?,
            out_of_date,
            node: node.map(client).transpose()?,
            sentinel: sentinel.map(client).transpose()?,
        })
    }

    /// Shows clients what `newer` has read. Connections that stand keep what they have.
    pub(crate) fn take_over(&self, newer: &Self) {
        if let (Some(place), Some(newer)) = (&self.listen, &newer.listen) {
            place.store(newer.load_full());
        }
    }
}

// === impl TlsFiles ===

impl TlsFiles {
    /// Itself if the side speaks TLS (`on`); an error for what is missing then, or is given without use.
    pub(crate) fn checked(self, on: bool) -> Result<Option<Self>, ConfigError> {
        let flag = self.side.flag();
        let file = |kind: &str| format!("{flag}-{kind}-file");
        if let (false, Some((kind, path))) = (on, self.first_file()) {
            let remedy = format!("is of no use without {flag}; add that, or leave it out");
            return Err(ConfigError::new(file(kind), path.display(), remedy));
        }
        if !on {
            return Ok(None);
        }
        let missing = |kind: &str, what: &str| {
            Err(ConfigError::new(
                flag,
                "",
                format!("needs {}: {what}", file(kind)),
            ))
        };
        match self.side {
            Side::Listen if self.certs.is_empty() => {
                missing("cert", "the certificate that clients are shown")
            }
            Side::Listen if self.clients != ClientCertificates::NotAsked && self.ca.is_none() => {
                missing("ca", "who vouches for client certificates")
            }
            Side::Node | Side::Sentinel if self.ca.is_none() => {
                missing("ca", "who vouches for the other end")
            }
            _ if self.certs.len() != self.keys.len() => {
                missing("key", "one private key for each certificate chain")
            }
            _ => Ok(Some(self)),
        }
    }

    fn first_file(&self) -> Option<(&'static str, &Path)> {
        let ca = self.ca.as_deref().map(|path| ("ca", path));
        ca.or(self.certs.first().map(|path| ("cert", &**path)))
            .or(self.keys.first().map(|path| ("key", &**path)))
    }

    fn server(&self) -> Result<ServerConfig, ConfigError> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3");
        let builder = match (self.clients, &self.ca) {
            (ClientCertificates::NotAsked, _) | (_, None) => builder.with_no_client_auth(),
            (clients, Some(ca)) => {
                let mut verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots(ca)?), provider.clone());
                if clients == ClientCertificates::Optional {
                    verifier = verifier.allow_unauthenticated();
                }
                let verifier = verifier.build().map_err(|error| {
                    self.wrong(
                        "ca-file",
                        ca,
                        format!("{error}; it takes certificates of authorities"),
                    )
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let certificates = self
            .certs
            .iter()
            .zip(&self.keys)
            .map(|(cert, key)| self.certified(cert, key, &provider))
            .collect::<Result<_, _>>()?;
        Ok(builder.with_cert_resolver(Arc::new(ByName {
            certificates,
            names: self.names.clone(),
        })))
    }

    fn client(&self) -> Result<ClientConfig, ConfigError> {
        let provider = provider();
        let ca = self.ca.as_ref().expect("checked with the flags");
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots(ca)?), Arc::clone(&provider))
                .build()
                .map_err(|error| {
                    self.wrong(
                        "ca-file",
                        ca,
                        format!("{error}; it takes certificates of authorities"),
                    )
                })?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_webpki_verifier(verifier);
        let (Some(cert), Some(key)) = (self.certs.first(), self.keys.first()) else {
            return Ok(builder.with_no_client_auth());
        };
        let certified = self.certified(cert, key, &provider)?;
        Ok(builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified))))
    }

    /// The first certificate, of any chain, that is not valid today.
    fn out_of_date(&self) -> Result<Option<ConfigError>, ConfigError> {
        for path in &self.certs {
            for certificate in self.certificates("cert-file", path)? {
                if let Some(why) = untimely(&certificate) {
                    return Ok(Some(self.wrong("cert-file", path, why)));
                }
            }
        }
        Ok(None)
    }

    fn roots(&self, path: &Path) -> Result<RootCertStore, ConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates("ca-file", path)? {
            roots.add(certificate).map_err(|error| {
                self.wrong(
                    "ca-file",
                    path,
                    format!("{error}; it takes certificates of authorities"),
                )
            })?;
        }
        Ok(roots)
    }

    fn certified(
        &self,
        cert: &Path,
        key: &Path,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, ConfigError> {
        let chain = self.certificates("cert-file", cert)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| {
            self.wrong(
                "key-file",
                key,
                format!("{}; it takes a private key in PEM", told(&error)),
            )
        })?;
        let certified = CertifiedKey::from_der(chain, secret, provider).map_err(|error| {
            let remedy = format!("{error}; it takes the private key of {}", cert.display());
            self.wrong("key-file", key, remedy)
        })?;
        Ok(Arc::new(certified))
    }

    fn certificates(&self, kind: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        let wrong = |error: PemError| {
            self.wrong(
                kind,
                path,
                format!("{}; it takes certificates in PEM", told(&error)),
            )
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .map_err(wrong)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(wrong)?;
        if certificates.is_empty() {
            return Err(wrong(PemError::NoItemsFound));
        }
        Ok(certificates)
    }

    fn wrong(&self, kind: &str, path: &Path, remedy: String) -> ConfigError {
        ConfigError::new(format!("{}-{kind}", self.side.flag()), path.display(), remedy)
    }
}

/// Why a certificate is not valid now. Its time is looked at before its issuer: none is known here.
fn untimely(certificate: &CertificateDer<'_>) -> Option<String> {
    use rustls::{CertificateError as Fault, Error};
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let (none, now) = (RootCertStore::empty(), UnixTime::now());
    let verdict = rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &none, &[], now, &[]);
    match verdict {
        Err(Error::InvalidCertificate(
            fault @ (Fault::Expired
            | Fault::ExpiredContext { .. }
            | Fault::NotValidYet
            | Fault::NotValidYetContext { .. }),
        )) => Some(fault.to_string()),
        _ => None,
    }
}

fn told(error: &PemError) -> String {
    match error {
        PemError::NoItemsFound => "nothing of the kind is in it".to_owned(),
        error => error.to_string(),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

// === impl Side ===

impl Side {
    /// The flag that turns it on.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::Listen => "--listen-tls",
            Self::Node => "--node-tls",
            Self::Sentinel => "--sentinel-tls",
        }
    }
}

// === impl ClientCertificates ===

impl std::str::FromStr for ClientCertificates {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "yes" => Ok(Self::Required),
            "no" => Ok(Self::NotAsked),
            "optional" => Ok(Self::Optional),
            _ => Err("takes yes, no or optional"),
        }
    }
}

// === impl ByName ===

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let Some(asked) = asked else {
            return self.certificates.first().cloned();
        };
        if !self.names.is_empty() && !self.names.contains(&asked.to_owned()) {
            return None;
        }
        let bears = |certificate: &&Arc<CertifiedKey>| {
            certificate
                .end_entity_cert()
                .and_then(ParsedCertificate::try_from)
                .is_ok_and(|leaf| rustls::client::verify_server_name(&leaf, &asked).is_ok())
        };
        let found = self.certificates.iter().find(bears);
        found.or(self.certificates.first()).cloned()
    }
}
