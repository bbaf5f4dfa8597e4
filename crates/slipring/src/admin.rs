//! The admin endpoint: `/metrics`, `/healthz`, `/readyz`, `/topology`, `/failovers` over HTTP/1.1.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_core::Listen;
use sentinel_watcher::BoxIo;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::status::Status;

/// Connections served at once; one more waits in the kernel's backlog.
const CONNECTIONS: usize = 64;

/// A request's head must be there within this time, and so must the next request of a kept connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// So long may a peer be silent before the kernel asks whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Pause after a failed accept: the usual cause, no free descriptors, does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";

/// The bound endpoint.
pub(crate) struct Admin {
    listen: Box<dyn Listen>,
    status: Arc<Status>,
    /// Whether this process is the one that answers.
    is_open: watch::Receiver<bool>,
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(listen: Box<dyn Listen>, status: Arc<Status>, is_open: watch::Receiver<bool>) -> Self {
        Self {
            listen,
            status,
            is_open,
        }
    }

    /// Answers while it is open, until dropped.
    pub(crate) async fn run(mut self) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() == CONNECTIONS {
                connections.join_next().await;
            }
            let accepted = tokio::select! {
                biased;
                accepted = poll_fn(|cx| self.listen.poll_accept(cx)), if *self.is_open.borrow() => accepted,
                Ok(()) = self.is_open.changed() => {
                    // Whoever asks again is to reach the other process.
                    connections.shutdown().await;
                    continue;
                }
            };
            let opened = match accepted {
                Ok(accepted) => accepted.socket.open(KEEPALIVE).await.map_err(io::Error::from),
                Err(error) => Err(error),
            };
            match opened {
                Ok(opened) => {
                    connections.spawn(serve(opened.io, Arc::clone(&self.status)));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin endpoint cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(socket: BoxIo, status: Arc<Status>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &status);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the admin endpoint broke");
    }
}

fn answer(method: &Method, path: &str, status: &Status) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "takes GET and HEAD\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => text(StatusCode::OK, prometheus::TEXT_FORMAT, status.metrics()),
        "/healthz" => text(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => match status.ready() {
            Ok(report) => text(StatusCode::OK, TEXT, report),
            Err(report) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, report),
        },
        "/topology" => text(
            StatusCode::OK,
            "application/json",
            format!("{:#}\n", status.topology()),
        ),
        "/failovers" => text(
            StatusCode::OK,
            "application/json",
            format!("{:#}\n", status.failovers()),
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            TEXT,
            "/metrics /healthz /readyz /topology /failovers\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proxy_core::{Metrics, TcpDial};
    use sentinel_watcher::{
        Dial, Epoch, HostPort, Phase, Primary, Shard, TopologyPublisher, WatcherConfig, watcher,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::status::Watched;

    const DIAL: TcpDial = TcpDial {
        timeout: Duration::from_secs(5),
    };

    fn master(name: &str) -> (TopologyPublisher, Watched) {
        let config = WatcherConfig::new(name, vec![HostPort::new("127.0.0.1", 1)]);
        let (_, _, _, health) = watcher(config, Arc::new(DIAL), Arc::new(DIAL));
        let (publisher, topology) = TopologyPublisher::new(Arc::from(name));
        (
            publisher,
            Watched {
                master: Arc::from(name),
                topology,
                health,
            },
        )
    }

    fn serving() -> Shard {
        let primary = Primary {
            address: HostPort::new("10.0.0.1", 6379),
            term: Epoch(1),
        };
        Shard {
            phase: Phase::Serving,
            primary: Some(primary),
            ..Shard::unknown()
        }
    }

    async fn ask(at: SocketAddr, request: &str) -> String {
        let mut socket = DIAL
            .dial(&HostPort::new(&at.ip().to_string(), at.port()))
            .await
            .unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The endpoint over a real socket, with two masters of which nothing is known yet.
    fn endpoint() -> (SocketAddr, Arc<Status>, [TopologyPublisher; 2], JoinSet<()>) {
        let ((first, a), (second, b)) = (master("a"), master("b"));
        let metrics = Metrics::new(
            1,
            vec![Arc::from("a"), Arc::from("b")],
            vec![Arc::from("127.0.0.1:1")],
        );
        let status = Arc::new(Status::new(vec![a, b], metrics, Arc::default(), Vec::new()));
        let listen = proxy_core::TcpListen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = listen.address().inet().unwrap();
        let mut task = JoinSet::new();
        let (_, is_open) = watch::channel(true);
        task.spawn(Admin::new(Box::new(listen), Arc::clone(&status), is_open).run());
        (at, status, [first, second], task)
    }

    #[tokio::test]
    async fn ready_is_when_every_master_serves_and_nothing_drains() {
        let (at, status, [mut first, mut second], _task) = endpoint();
        let answer = ask(at, "GET /readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("a: down"),
            "{answer}"
        );
        first.publish(serving());
        let answer = ask(at, "GET /readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("a: serving\nb: down\n"),
            "{answer}"
        );
        second.publish(serving());
        let answer = ask(at, "GET /readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("a: serving\nb: serving\n"),
            "{answer}"
        );
        second.publish(Shard {
            phase: Phase::Moving,
            ..serving()
        });
        assert!(ask(at, "GET /readyz").await.ends_with("a: serving\nb: moving\n"));
        second.publish(serving());
        status.drain();
        let answer = ask(at, "GET /readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("draining\n"),
            "{answer}"
        );
        assert!(ask(at, "GET /healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn the_topology_is_json() {
        let (at, _status, [mut first, _second], _task) = endpoint();
        first.publish(serving());
        let answer = ask(at, "GET /topology").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/json"), "{head}");
        let topology: serde_json::Value = serde_json::from_str(body).unwrap();
        let master = &topology["masters"][0];
        assert_eq!(master["master"], "a");
        assert_eq!(master["shards"][0]["phase"], "serving");
        assert_eq!(master["shards"][0]["primary"]["address"], "10.0.0.1:6379");
        assert!(topology["masters"][1]["shards"][0]["primary"].is_null());
    }

    #[tokio::test]
    async fn metrics_are_well_formed_and_complete() {
        let (at, _status, [mut first, _second], _task) = endpoint();
        first.publish(serving());
        let answer = ask(at, "GET /metrics").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        let mut families = Vec::new();
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(text.ends_with('.'), "{line}");
                families.push(name);
            } else if !line.starts_with("# TYPE ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(
                    series.starts_with(families.last().unwrap()),
                    "{line} is not under its own HELP"
                );
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(families.is_sorted(), "{families:?}");
        assert!(families.windows(2).all(|pair| pair[0] != pair[1]), "{families:?}");
        for line in [
            "slipring_primary_info{master=\"a\",address=\"10.0.0.1:6379\"} 1",
            "slipring_shard_phase{master=\"a\",phase=\"serving\"} 1",
            "slipring_shard_phase{master=\"b\",phase=\"down\"} 1",
            "slipring_topology_epoch{master=\"a\"} 1",
            "slipring_failovers_total{master=\"b\",kind=\"crash\"} 0",
            "slipring_clients{listener=\"127.0.0.1:1\"} 0",
        ] {
            assert!(body.lines().any(|found| found == line), "no {line} in\n{body}");
        }
    }

    #[tokio::test]
    async fn other_questions_are_turned_down() {
        let (at, ..) = &endpoint();
        assert!(ask(*at, "GET /").await.starts_with("HTTP/1.1 404"));
        let answer = ask(*at, "POST /metrics").await;
        assert!(
            answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"),
            "{answer}"
        );
    }
}
