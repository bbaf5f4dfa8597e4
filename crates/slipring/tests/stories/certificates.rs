//! Certificates that are wrong, on every side but the clients' (see `tls.rs`), and certificates that change all the time.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::port::Port;
use testkit::{Cluster, Flavor, Node, Proxy};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::support::{PATIENCE, ask, says, slipring};
use super::tls::{Authority, Leaf, behind_tls, connect, exchange, ping, text};

/// What is said of each wrong certificate.
const EXPIRED: &str = "certificate expired";
const STRANGER: &str = "BadSignature";
const OTHER_NAME: &str = "not valid for name";
const MISSING: &str = "CertificateRequired";

#[test]
fn a_node_with_a_wrong_certificate_is_told_nothing_until_it_has_a_right_one() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let good = authority.leaf("node", "redis.test", false)?;
    let (cluster, proxy) = behind_tls(&good, &authority.file(), "redis.test", None)?;
    proxy.wait_ready()?;
    let node = &cluster.shard().nodes[0];
    let mut client = proxy.client()?;
    for (number, (leaf, demands, words)) in (1..).zip([
        (authority.leaf("old", "redis.test", true)?, "optional", EXPIRED),
        (
            stranger.leaf("foreign", "redis.test", false)?,
            "optional",
            STRANGER,
        ),
        (
            authority.leaf("other", "other.test", false)?,
            "optional",
            OTHER_NAME,
        ),
        // It wants one of slipring, which has none.
        (authority.leaf("strict", "redis.test", false)?, "yes", MISSING),
    ]) {
        let begin = proxy.process().log().len();
        show(node, &leaf, demands)?;
        // New connections become necessary.
        node.command(&["CLIENT", "KILL", "TYPE", "normal"])?;
        is_said(&proxy, begin, words)?;
        proxy.process().wait_until("/readyz", || {
            let (_, body) = proxy.get("/readyz")?;
            ensure!(body.contains(words), "{body}");
            Ok(())
        })?;
        let (right, said) = proxy.check()?;
        ensure!(!right && said.contains(words), "{said}");
        client.send(&["INCR", "n"])?;
        thread::sleep(Duration::from_millis(20));
        show(node, &good, "optional")?;
        let reply = client.read()?;
        ensure!(
            reply.integer() == Some(number),
            "it waits, and is executed once: {words}: {reply:?}"
        );
    }
    ensure!(
        proxy.process().log().contains("--node-tls-cert-file"),
        "the remedy"
    );
    says(&mut client, "GET n", "4")
}

/// Has the node show this certificate, and want one or not, on new connections.
fn show(node: &Node, leaf: &Leaf, demands: &str) -> Result<()> {
    let (cert, key) = (text(&leaf.cert), text(&leaf.key));
    let files = ["tls-cert-file", cert, "tls-key-file", key];
    let set = [&["CONFIG", "SET", "tls-auth-clients", demands], &files[..]].concat();
    let set = node.command(&set)?;
    ensure!(set.error().is_none(), "{set:?}");
    Ok(())
}

fn is_said(proxy: &Proxy, begin: usize, words: &str) -> Result<()> {
    proxy.process().wait_until(words, || {
        let log = proxy.process().log();
        ensure!(
            log.get(begin..).is_some_and(|log| log.contains(words)),
            "not said"
        );
        Ok(())
    })
}

#[test]
fn sentinels_with_wrong_certificates_are_not_asked() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let good = authority.leaf("good", "redis.test", false)?;
    let asked = Arc::new(AtomicU64::new(0));
    let mut sentinels = Vec::new();
    for (leaf, demands) in [
        (&authority.leaf("old", "redis.test", true)?, None),
        (&stranger.leaf("foreign", "redis.test", false)?, None),
        (&authority.leaf("other", "other.test", false)?, None),
        (&good, Some(&authority)),
    ] {
        sentinels.push(listen(leaf, demands, &asked)?.to_string());
    }
    let proxy = slipring()
        .flag("--sentinels", &sentinels.join(","))
        .env("SLIPRING_SENTINEL_TLS", "true")
        .flag("--sentinel-tls-ca-file", text(&authority.file()))
        .flag("--sentinel-tls-server-name", "redis.test")
        .spawn()?;
    for words in [EXPIRED, STRANGER, OTHER_NAME, MISSING, "--sentinel-tls-cert-file"] {
        is_said(&proxy, 0, words)?;
    }
    ensure!(asked.load(Ordering::Relaxed) == 0, "a stranger was asked");
    ensure!(proxy.get("/readyz")?.0 == 503, "nobody is to be believed");
    Ok(())
}

/// Somebody who speaks TLS and counts who asks anything. For as long as the test runs.
fn listen(leaf: &Leaf, demands: Option<&Authority>, asked: &Arc<AtomicU64>) -> Result<SocketAddr> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match demands {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(authority.file())?)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let chain = vec![CertificateDer::from_pem_file(&leaf.cert)?];
    let config = Arc::new(builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&leaf.key)?)?);
    let socket = TcpListener::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    let asked = Arc::clone(asked);
    thread::spawn(move || {
        for accepted in socket.incoming().flatten() {
            let Ok(session) = ServerConnection::new(Arc::clone(&config)) else {
                return;
            };
            let mut stream = StreamOwned::new(session, accepted);
            let _ = stream.sock.set_read_timeout(Some(Duration::from_millis(200)));
            if stream.read(&mut [0; 64]).is_ok_and(|read| read > 0) {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(address)
}

/// Beside clients that stay, clients that come, and a hundred that never finish their handshake.
#[test]
fn a_hundred_renewals_under_load_are_noticed_by_nobody() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let cluster = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1).start()?;
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let leaves = [
        authority.leaf("one", "redis.test", false)?,
        authority.leaf("two", "redis.test", false)?,
    ];
    let (own, foreign) = (
        authority.leaf("own", "app", false)?,
        stranger.leaf("foreign", "app", false)?,
    );
    let shown = authority.leaf("shown", "redis.test", false)?;
    let port = Port::free()?;
    let proxy = slipring()
        .sentinels(&cluster)
        .flag("--listen", &format!("tls:{}", port.address()))
        .flag("--listen-tls-cert-file", text(&shown.cert))
        .flag("--listen-tls-key-file", text(&shown.key))
        .flag("--listen-tls-ca-file", text(&authority.file()))
        .flag("--listen-tls-auth-clients", "optional")
        .flag("--handshake-timeout", "1s")
        .start()?;
    let slow = slow_handshakes(port.address())?;
    let (at, ca) = (port.address(), authority.file());
    let tls = |leaf: Option<&Leaf>| connect(at, &ca, "redis.test", leaf, rustls::DEFAULT_VERSIONS);
    ensure!(
        ping(&mut tls(Some(&foreign))?).is_err(),
        "who shows one shows a good one"
    );

    let done = AtomicBool::new(false);
    let (done, came) = (&done, &AtomicU64::new(0));
    thread::scope(|scope| {
        let staying = [None, Some(&own)].map(|leaf| {
            let stream = tls(leaf);
            scope.spawn(move || -> Result<()> {
                let mut stream = stream?;
                while !done.load(Ordering::Relaxed) {
                    exchange(&mut stream, b"ECHO mine\r\nPING\r\n", b"$4\r\nmine\r\n+PONG\r\n")?;
                }
                Ok(())
            })
        });
        let coming = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                ping(&mut tls(None)?)?;
                came.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let renewed = renew(&proxy, &leaves, &shown);
        done.store(true, Ordering::Relaxed);
        for client in staying.into_iter().chain([coming]) {
            client.join().expect("it returns what goes wrong")?;
        }
        renewed
    })?;
    ensure!(came.load(Ordering::Relaxed) > 0, "nobody came");
    let newest = [CertificateDer::from_pem_file(&leaves[1].cert)?];
    let is_shown = || -> Result<()> {
        let mut latest = tls(None)?;
        ping(&mut latest)?;
        ensure!(
            latest.conn.peer_certificates() == Some(&newest[..]),
            "not the newest"
        );
        Ok(())
    };
    is_shown()?;
    harm_is_refused(&proxy, &authority, &shown)?;
    is_shown()?;

    for mut stream in slow {
        // Whether by an alert, a FIN or a reset: it is over.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    proxy.process().wait_until("what is counted", || {
        let refused = proxy.metric("slipring_clients_refused_total", &["reason=\"handshake\""])?;
        ensure!(refused >= 101.0, "{refused}");
        Ok(())
    })
}

/// A hundred times, each other files in the same place.
fn renew(proxy: &Proxy, leaves: &[Leaf; 2], shown: &Leaf) -> Result<()> {
    let mut operator = proxy.client()?;
    for leaf in leaves.iter().cycle().take(100) {
        fs::copy(&leaf.cert, &shown.cert)?;
        fs::copy(&leaf.key, &shown.key)?;
        let said = ask(&mut operator, "PROXY RELOAD")?.texts();
        let first = said.first().context("no answer")?;
        ensure!(
            first == "OK, changed: listen-tls-cert-file, listen-tls-key-file",
            "{said:?}"
        );
    }
    Ok(())
}

/// None of these is taken, and the reason is said; where slipring begins with one, it serves and says so.
fn harm_is_refused(proxy: &Proxy, authority: &Authority, shown: &Leaf) -> Result<()> {
    let mut operator = proxy.client()?;
    let good = authority.leaf("right", "redis.test", false)?;
    let old = authority.leaf("old", "redis.test", true)?;
    let early = authority.leaf_of("early", "redis.test", 2090..2096)?;
    for (cert, key, words) in [
        (&old.cert, &old.key, EXPIRED),
        (&early.cert, &early.key, "not valid yet"),
        (&good.cert, &old.key, "it takes the private key of"),
    ] {
        fs::copy(cert, &shown.cert)?;
        fs::copy(key, &shown.key)?;
        let said = ask(&mut operator, "PROXY RELOAD")?;
        ensure!(said.error().is_some_and(|said| said.contains(words)), "{said:?}");
    }
    fs::copy(&old.cert, &shown.cert)?;
    let (right, said) = proxy.check()?;
    ensure!(!right && said.contains("WRONG  --listen-tls-cert-file"), "{said}");
    let another = slipring()
        .flag("--sentinels", "127.0.0.1:1")
        .flag("--listen", "tls:127.0.0.1:0")
        .flag("--listen-tls-cert-file", text(&old.cert))
        .flag("--listen-tls-key-file", text(&old.key))
        .spawn()?;
    is_said(&another, 0, "clients are shown a certificate that they refuse")
}

/// The beginning of a ClientHello, and nothing behind it.
fn slow_handshakes(to: SocketAddr) -> Result<Vec<TcpStream>> {
    let knock = |_| {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00")?;
        Ok(stream)
    };
    (0..100).map(knock).collect()
}
