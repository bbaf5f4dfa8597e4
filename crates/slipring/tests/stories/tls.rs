//! TLS on all three sides, with a real authority: who is let in, who is trusted, and certificates renewed while clients
//! stay. (The nodes and the sentinel are Redis: Valkey's test binary knows no TLS.)

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use testkit::port::Port;
use testkit::{Client, Cluster, Flavor, Node, on_each_server};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use super::support::{PATIENCE, ask, counts, says, slipring};

/// An authority, and the folder that its certificates are written to.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
pub(crate) struct Leaf {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { folder, issuer })
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `name`, written under `name`; it ended long ago if `expired`.
    pub(crate) fn leaf(&self, file: &str, name: &str, expired: bool) -> Result<Leaf> {
        let until = if expired { 2020 } else { 4096 };
        self.leaf_of(file, name, 1975..until)
    }

    /// One that is valid in these years.
    pub(crate) fn leaf_of(&self, file: &str, name: &str, years: Range<i32>) -> Result<Leaf> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        // Not the authority's: OpenSSL would take it for one that has signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let at = |kind: &str| self.folder.path().join(format!("{file}.{kind}.pem"));
        let leaf = Leaf {
            cert: at("cert"),
            key: at("key"),
        };
        fs::write(&leaf.cert, certificate.pem())?;
        fs::write(&leaf.key, key.serialize_pem())?;
        Ok(leaf)
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A client that trusts `ca` and asks for `name`.
pub(crate) fn connect(
    to: SocketAddr,
    ca: &Path,
    name: &str,
    own: Option<&Leaf>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    let config = match own {
        Some(leaf) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&leaf.cert)?],
            PrivateKeyDer::from_pem_file(&leaf.key)?,
        )?,
        None => builder.with_no_client_auth(),
    };
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned())?)?;
    let socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(StreamOwned::new(session, socket))
}

pub(crate) fn ping(stream: &mut Stream) -> Result<()> {
    exchange(stream, b"PING\r\n", b"+PONG\r\n")
}

pub(crate) fn exchange(stream: &mut Stream, request: &[u8], answer: &[u8]) -> Result<()> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got)?;
    ensure!(
        got == answer,
        "{} instead of {}",
        String::from_utf8_lossy(&got),
        String::from_utf8_lossy(answer)
    );
    Ok(())
}

on_each_server! {
    fn clients_speak_tls_beside_those_that_do_not(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let authority = Authority::new()?;
        let first = authority.leaf("first", "redis.test", false)?;
        let second = authority.leaf("second", "other.test", false)?;
        let port = Port::free()?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--listen", &format!("tls:{}", port.address()))
            .flag("--listen-tls-cert-file", &format!("{},{}", text(&first.cert), text(&second.cert)))
            .flag("--listen-tls-key-file", &format!("{},{}", text(&first.key), text(&second.key)))
            .flag("--listen-tls-server-name", "redis.test,other.test")
            .start()?;

        ensure!(proxy.client()?.command(&["PING"])?.text() == Some("PONG"), "the plain listener");
        for (versions, spoken) in [
            (&[&rustls::version::TLS12][..], ProtocolVersion::TLSv1_2),
            (&[&rustls::version::TLS13], ProtocolVersion::TLSv1_3),
        ] {
            let mut stream = connect(port.address(), &authority.file(), "redis.test", None, versions)?;
            ping(&mut stream)?;
            ensure!(stream.conn.protocol_version() == Some(spoken), "{spoken:?}");
        }
        // Clients get the certificate that bears the name they ask for.
        let both = rustls::DEFAULT_VERSIONS;
        ping(&mut connect(port.address(), &authority.file(), "other.test", None, both)?)?;
        refuses(connect(port.address(), &authority.file(), "third.test", None, both)?, "AccessDenied")?;

        // Much at once, both ways: nothing stays behind in TLS' own buffers.
        let mut stream = connect(port.address(), &authority.file(), "redis.test", None, both)?;
        let value = vec![b'v'; 5 << 20];
        let set = [format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        exchange(&mut stream, &set, b"+OK\r\n")?;
        let got = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        exchange(&mut stream, b"GET k\r\n", &got)?;
        exchange(&mut stream, &b"PING\r\n".repeat(10_000), &b"+PONG\r\n".repeat(10_000))
    }

    fn whoever_must_show_a_certificate_shows_a_good_one(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let (authority, stranger) = (Authority::new()?, Authority::new()?);
        let own = authority.leaf("own", "127.0.0.1", false)?;
        let (port, plain) = (Port::free()?, Port::free()?);
        let _proxy = slipring()
            .sentinels(&cluster)
            .env("SLIPRING_LISTEN_TLS", "true")
            .flag("--listen", &port.address().to_string())
            .flag("--listen", &format!("tcp:{}", plain.address()))
            .flag("--listen-tls-cert-file", text(&own.cert))
            .flag("--listen-tls-key-file", text(&own.key))
            .flag("--listen-tls-ca-file", text(&authority.file()))
            .start()?;
        for (what, leaf, enters) in [
            ("a good one", Some(authority.leaf("good", "app", false)?), true),
            ("none", None, false),
            ("an expired one", Some(authority.leaf("old", "app", true)?), false),
            ("one of another authority", Some(stranger.leaf("foreign", "app", false)?), false),
        ] {
            let mut stream =
                connect(port.address(), &authority.file(), "127.0.0.1", leaf.as_ref(), rustls::DEFAULT_VERSIONS)?;
            ensure!(ping(&mut stream).is_ok() == enters, "{what}");
        }
        says(&mut Client::connect(plain.address())?, "PING", "PONG").context("tcp: is plain, whatever --listen-tls says")
    }

    fn certificates_are_renewed_while_clients_stay(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let (old, new) = (Authority::new()?, Authority::new()?);
        let leaf = old.leaf("leaf", "redis.test", false)?;
        let port = Port::free()?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--listen", &format!("tls:{}", port.address()))
            .flag("--listen-tls-cert-file", text(&leaf.cert))
            .flag("--listen-tls-key-file", text(&leaf.key))
            .start()?;
        let trusts = |authority: &Authority| {
            let file = authority.file();
            ping(&mut connect(port.address(), &file, "redis.test", None, rustls::DEFAULT_VERSIONS)?)
        };
        let mut stays = connect(port.address(), &old.file(), "redis.test", None, rustls::DEFAULT_VERSIONS)?;
        ping(&mut stays)?;
        let stranger = connect(port.address(), &old.file(), "other.test", None, rustls::DEFAULT_VERSIONS)?;
        refuses(stranger, "not valid for name").context("who asks for a name that none bears is shown the first")?;

        let good = fs::read(&leaf.key)?;
        fs::write(&leaf.key, "no key at all")?;
        proxy.process().signal(Signal::SIGHUP)?;
        said(&proxy, "nothing is changed")?;
        trusts(&old).context("a wrong file changes nothing")?;
        fs::write(&leaf.key, good)?;

        let renewed = new.leaf("leaf", "redis.test", false)?;
        fs::copy(&renewed.cert, &leaf.cert)?;
        fs::copy(&renewed.key, &leaf.key)?;
        proxy.process().signal(Signal::SIGHUP)?;
        said(&proxy, "reloaded: OK, changed: listen-tls-cert-file")?;
        trusts(&new)?;
        ensure!(trusts(&old).is_err(), "the old certificate is still shown");
        ping(&mut stays)
    }

    fn clients_of_this_machine_come_through_a_unix_socket(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("slipring.sock");
        for _ in 0..2 {
            let proxy = slipring().sentinels(&cluster).flag("--listen", &format!("unix:{}", text(&path))).start()?;
            let mut stream = UnixStream::connect(&path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"SET k 1\r\nINCR k\r\n")?;
            let mut got = [0; 9];
            stream.read_exact(&mut got)?;
            ensure!(&got == b"+OK\r\n:2\r\n", "{}", String::from_utf8_lossy(&got));
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure!(mode == 0o770, "owner and group, and nobody else: {mode:o}");
            proxy.process().kill();
            // What a run left behind does not keep the next one from starting.
            ensure!(path.exists(), "killed, it leaves its socket behind");
        }
        Ok(())
    }
}

/// The handshake fails, and the client says why.
fn refuses(mut stream: Stream, why: &str) -> Result<()> {
    let told = ping(&mut stream).err().context("it was let in")?;
    ensure!(format!("{told:#}").contains(why), "{told:#}");
    Ok(())
}

/// Waits until the log says this.
fn said(proxy: &testkit::Proxy, words: &str) -> Result<()> {
    proxy.process().wait_until(words, || {
        ensure!(proxy.process().log().contains(words), "not said");
        Ok(())
    })
}

/// What slipring shows to the node and to the sentinel of [`behind_tls`].
pub(crate) type Shown<'a> = Option<[&'a Leaf; 2]>;

/// One node and one sentinel that also listen with TLS, each on a second port, and slipring's flags towards them. If
/// slipring has something to show, they want to see it, and speak TLS 1.2 alone.
pub(crate) fn behind_tls(
    leaf: &Leaf,
    ca: &Path,
    name: &str,
    shown: Shown<'_>,
) -> Result<(Cluster, testkit::Proxy)> {
    let (node, sentinel) = (Port::free()?, Port::free()?);
    let manners = match shown {
        Some(_) => ["tls-auth-clients yes", "tls-protocols TLSv1.2"],
        None => ["tls-auth-clients optional", "tls-protocols \"TLSv1.2 TLSv1.3\""],
    };
    let lines = |port: &Port| {
        let files = [
            format!("tls-port {}", port.number()),
            format!("tls-cert-file {}", text(&leaf.cert)),
            format!("tls-key-file {}", text(&leaf.key)),
            format!("tls-ca-cert-file {}", text(ca)),
        ];
        files.into_iter().chain(manners.map(str::to_owned))
    };
    let mut builder = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1);
    for line in lines(&node) {
        builder = builder.node_config(&line);
    }
    for line in lines(&sentinel) {
        builder = builder.sentinel_config(&line);
    }
    let cluster = builder.start()?;
    let plain = cluster.shard().nodes[0].address();
    let mut proxy = slipring();
    for (side, leaf) in ["node", "sentinel"].iter().zip(shown.into_iter().flatten()) {
        proxy = proxy
            .flag(&format!("--{side}-tls-cert-file"), text(&leaf.cert))
            .flag(&format!("--{side}-tls-key-file"), text(&leaf.key));
    }
    let proxy = proxy
        .flag("--sentinels", &sentinel.address().to_string())
        .flag("--address-map", &format!("{plain}={}", node.address()))
        .env("SLIPRING_NODE_TLS", "true")
        .env("SLIPRING_SENTINEL_TLS", "true")
        .flag("--node-tls-ca-file", text(ca))
        .flag("--sentinel-tls-ca-file", text(ca))
        .flag("--node-tls-server-name", name)
        .flag("--sentinel-tls-server-name", "redis.test")
        .spawn()?;
    Ok((cluster, proxy))
}

#[test]
fn nodes_and_sentinels_are_trusted_by_their_certificates() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let authority = Authority::new()?;
    let leaf = authority.leaf("node", "redis.test", false)?;
    let (cluster, proxy) = behind_tls(&leaf, &authority.file(), "redis.test", None)?;
    proxy.wait_ready()?;
    let value = "v".repeat(1 << 20);
    let mut client = proxy.client()?;
    ensure!(client.command(&["SET", "k", &value])?.text() == Some("OK"));
    ensure!(client.command(&["GET", "k"])?.text() == Some(&*value));
    let plain = cluster.shard().nodes[0].client()?.command(&["CLIENT", "LIST"])?;
    ensure!(plain.text().is_some(), "{plain:?}");

    // A node that bears another name is none of ours.
    let (_cluster, proxy) = behind_tls(&leaf, &authority.file(), "other.test", None)?;
    said(&proxy, "not valid for name")?;
    sleep(Duration::from_millis(200));
    ensure!(proxy.get("/readyz")?.0 == 503, "ready without a node to trust");
    Ok(())
}

/// The node's authority becomes another one, slipring's own certificate follows, and clients stay.
#[test]
fn what_is_shown_to_nodes_and_who_vouches_for_them_change_while_clients_stay() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let (old, new) = (Authority::new()?, Authority::new()?);
    let leaf = old.leaf("server", "redis.test", false)?;
    let own = ["node", "sentinel"].map(|side| old.leaf(side, "slipring", false));
    let [to_node, to_sentinel] = own;
    let (to_node, to_sentinel) = (to_node?, to_sentinel?);
    let (cluster, proxy) = behind_tls(&leaf, &old.file(), "redis.test", Some([&to_node, &to_sentinel]))?;
    proxy.wait_ready()?;
    let (mut stays, mut operator) = (proxy.client()?, proxy.client()?);
    counts(&mut stays, "INCR n", 1)?;

    let node = &cluster.shard().nodes[0];
    show(node, &new.leaf("server", "redis.test", false)?, &new.file())?;
    counts(&mut stays, "INCR n", 2).context("connections that stand stay")?;
    fs::write(
        old.file(),
        [fs::read(old.file())?, fs::read(new.file())?].concat(),
    )?;
    let told = ask(&mut operator, "PROXY RELOAD")?;
    let refused = told
        .error()
        .is_some_and(|told| told.contains("it would lock everybody out"));
    ensure!(
        refused,
        "the node would not take what slipring has to show: {told:?}"
    );
    let renewed = new.leaf("node", "slipring", false)?;
    fs::copy(&renewed.cert, &to_node.cert)?;
    fs::copy(&renewed.key, &to_node.key)?;
    // The sentinel vouches for the old authority's alone.
    let kept = fs::read(&to_sentinel.cert)?;
    fs::copy(&renewed.cert, &to_sentinel.cert)?;
    let told = ask(&mut operator, "PROXY RELOAD")?;
    ensure!(told.error().is_some(), "another key's: {told:?}");
    fs::write(&to_sentinel.cert, kept)?;
    let told = ask(&mut operator, "PROXY RELOAD")?.texts();
    let changed =
        "OK, changed: node-tls-ca-file, node-tls-cert-file, node-tls-key-file, sentinel-tls-ca-file";
    ensure!(told == [changed], "{told:?}");
    node.command(&["CLIENT", "KILL", "TYPE", "normal"])?;
    counts(&mut stays, "INCR n", 3).context("over a new connection")
}

/// Has the node show this certificate, and believe this authority, on new connections.
fn show(node: &Node, leaf: &Leaf, ca: &Path) -> Result<()> {
    let (cert, key, ca) = (text(&leaf.cert), text(&leaf.key), text(ca));
    let files = ["tls-cert-file", cert, "tls-key-file", key, "tls-ca-cert-file", ca];
    let set = node.command(&[&["CONFIG", "SET"], &files[..]].concat())?;
    ensure!(set.error().is_none(), "{set:?}");
    Ok(())
}

/// Their keys are in the former process: it serves them for a while, and parts from them between two requests.
#[test]
fn clients_stay_with_a_process_that_is_replaced_until_it_has_lingered() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let linger = Duration::from_secs(1);
    let cluster = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1).start()?;
    let authority = Authority::new()?;
    let leaf = authority.leaf("leaf", "redis.test", false)?;
    let port = Port::free()?;
    let mut proxy = slipring()
        .sentinels(&cluster)
        .upgradable()
        .flag("--listen", &format!("tls:{}", port.address()))
        .flag("--listen-tls-cert-file", text(&leaf.cert))
        .flag("--listen-tls-key-file", text(&leaf.key))
        .flag("--upgrade-linger", "1s")
        .start()?;
    let tls = || {
        connect(
            port.address(),
            &authority.file(),
            "redis.test",
            None,
            rustls::DEFAULT_VERSIONS,
        )
    };
    let (mut idle, mut busy, mut plain) = (tls()?, tls()?, proxy.client()?);
    ping(&mut idle)?;
    ping(&mut busy)?;
    busy.write_all(b"BLPOP queue 0\r\n")?;
    let began = Instant::now();
    let former = proxy.succeed()?;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).context("an end in good order")?;
    ensure!(
        rest.is_empty() && began.elapsed() >= linger,
        "{:?}",
        began.elapsed()
    );
    ensure!(
        plain.command(&["RPUSH", "queue", "item"])?.integer() == Some(1),
        "the plain client"
    );
    let answer = b"*2\r\n$5\r\nqueue\r\n$4\r\nitem\r\n";
    exchange(&mut busy, b"", answer).context("what it had asked for is answered")?;
    busy.read_to_end(&mut rest).context("an end in good order")?;
    ensure!(
        rest.is_empty() && former.wait(PATIENCE)?.success(),
        "{}",
        former.log_tail()
    );
    ping(&mut tls()?)
}
