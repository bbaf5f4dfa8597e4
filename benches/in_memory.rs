//! One worker between clients and a canned node, all in memory and on one thread: what slipring itself does for a
//! command, without a kernel, and the same at each run.
//!
//! ```text
//!   Bench::exchange ──duplex──> session ──> mux ──duplex──> node: counts requests, writes canned replies
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use anyhow::{Context as _, Result};
use proxy_core::{
    Accepted, Address, Handle, Incoming, Listen, Listener, Opening, ReadPolicy, Settings, Upstream, Watch,
    build,
};
use sentinel_watcher::{
    BoxIo, Dial, Dialing, Health, HealthFeed, HostPort, Phase, Primary, Shard, TopologyPublisher, hints,
    steering,
};
use testkit::client::encode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::floor::canned::{Answer, Canned};
use crate::floor::scan::Scan;

/// What a connection holds that its reader has not read yet.
const WINDOW_BYTES: usize = 256 << 10;

/// A worker, and clients that it serves.
pub struct Bench {
    runtime: Runtime,
    local: LocalSet,
    clients: Vec<DuplexStream>,
    door: Door,
    scratch: Box<[u8]>,
    /// While these live, the worker goes on.
    _kept: (TopologyPublisher, Handle),
}

/// Where clients come in, each over a connection that holds so many bytes.
#[derive(Clone)]
struct Door(Arc<Mutex<Knocks>>, usize);

#[derive(Default)]
struct Knocks {
    waiting: VecDeque<DuplexStream>,
    waker: Option<Waker>,
}

struct Knock(DuplexStream);

/// Each dial finds a node of its own.
struct ToNode {
    /// Bytes of the values that it answers with.
    value_bytes: usize,
}

// === impl Bench ===

impl Bench {
    /// Starts the worker, which looks out for what `watch` says, before a node with values of `value_bytes`, and connects
    /// so many clients.
    ///
    /// # Errors
    /// When the worker cannot be built.
    pub fn start(clients: usize, value_bytes: usize, watch: Watch) -> Result<Self> {
        Self::with_window(clients, value_bytes, watch, WINDOW_BYTES)
    }

    /// The same, with clients whose connections hold `window_bytes`: so much more than they read leaves the worker.
    ///
    /// # Errors
    /// When the worker cannot be built.
    pub fn with_window(
        clients: usize,
        value_bytes: usize,
        watch: Watch,
        window_bytes: usize,
    ) -> Result<Self> {
        // The clock moves only while nobody has anything to do: nothing happens by time.
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        let local = LocalSet::new();
        let (mut publisher, feed) = TopologyPublisher::new(Arc::from("m"));
        let upstream = Upstream {
            master: Arc::from("m"),
            feed,
            hints: hints().0,
            health: HealthFeed::fixed(Health::default()),
            steering: steering().0,
        };
        let door = Door(Arc::default(), window_bytes);
        let listener = Listener {
            listen: Box::new(door.clone()),
            upstream: 0,
            reads: ReadPolicy::Primary,
        };
        let settings = Settings {
            workers: 1,
            watch,
            ..Settings::default()
        };
        let (workers, handle) = {
            let _entered = runtime.enter();
            let node = Arc::new(ToNode { value_bytes });
            build(settings, vec![upstream], vec![listener], node).context("the worker")?
        };
        for worker in workers {
            local.spawn_local(worker.run());
        }
        let term = publisher.next_epoch();
        publisher.publish(Shard {
            phase: Phase::Serving,
            primary: Some(Primary {
                address: "node:6379".parse().context("an address")?,
                term,
            }),
            ..Shard::unknown()
        });
        Ok(Self {
            runtime,
            local,
            clients: (0..clients).map(|_| door.knock()).collect(),
            door,
            scratch: vec![0; WINDOW_BYTES].into(),
            _kept: (publisher, handle),
        })
    }

    /// All clients hang up, and as many others come.
    pub fn renew(&mut self) {
        for client in &mut self.clients {
            *client = self.door.knock();
        }
    }

    /// Each client sends `requests`; returns once each has had `reply_bytes` of replies, `rounds` times over.
    ///
    /// # Errors
    /// When a connection is lost.
    pub fn exchange(&mut self, requests: &[u8], reply_bytes: usize, rounds: usize) -> Result<()> {
        let Self {
            runtime,
            local,
            clients,
            scratch,
            ..
        } = self;
        local.block_on(runtime, async {
            for _ in 0..rounds {
                for client in &mut *clients {
                    client.write_all(requests).await?;
                }
                for client in &mut *clients {
                    let mut left = reply_bytes;
                    while left > 0 {
                        left = match client.read(scratch).await? {
                            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                            read => left.checked_sub(read).ok_or(io::ErrorKind::InvalidData)?,
                        };
                    }
                }
            }
            Ok::<_, io::Error>(())
        })?;
        Ok(())
    }

    /// `GET key`, or `SET key <16 bytes>`, `pipeline` of them in one write; and the length of their replies.
    #[must_use]
    pub fn requests(set: bool, pipeline: usize) -> (Vec<u8>, usize) {
        const KEY: &str = "key:000000000001";
        let (request, reply) = if set {
            (encode(&["SET", KEY, "xxxxxxxxxxxxxxxx"]), "+OK\r\n")
        } else {
            (encode(&["GET", KEY]), "$16\r\nxxxxxxxxxxxxxxxx\r\n")
        };
        (request.repeat(pipeline), reply.len() * pipeline)
    }
}

/// Answers all that it is asked, until the connection ends.
async fn serve(mut stream: DuplexStream, value_bytes: usize) -> io::Result<()> {
    let canned = Canned::new(value_bytes);
    let mut scan = Scan::default();
    let mut input = vec![0; WINDOW_BYTES];
    let mut owed: Vec<(Answer, usize)> = Vec::new();
    loop {
        let read = stream.read(&mut input).await?;
        if read == 0 {
            return Ok(());
        }
        scan.feed(&input[..read], |answer| match owed.last_mut() {
            Some((last, left)) if *last == answer => *left += canned.len(answer),
            _ => owed.push((answer, canned.len(answer))),
        })
        .map_err(|_| io::ErrorKind::InvalidData)?;
        for (answer, mut left) in owed.drain(..) {
            while left > 0 {
                left -= stream.write(canned.slice(answer, left)).await?;
            }
        }
    }
}

// === impl Door ===

impl Door {
    fn knock(&self) -> DuplexStream {
        let (ours, theirs) = duplex(self.1);
        let mut knocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        knocks.waiting.push_back(theirs);
        if let Some(waker) = knocks.waker.take() {
            waker.wake();
        }
        ours
    }
}

impl Listen for Door {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let mut knocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match knocks.waiting.pop_front() {
            Some(stream) => Poll::Ready(Ok(Accepted {
                socket: Box::new(Knock(stream)),
                peer: self.address(),
                local: self.address(),
                descriptor: 0,
            })),
            None => {
                knocks.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn share(&self) -> io::Result<Box<dyn Listen>> {
        Ok(Box::new(self.clone()))
    }

    fn address(&self) -> Address {
        SocketAddr::from(([127, 0, 0, 1], 6379)).into()
    }
}

impl Incoming for Knock {
    fn open(self: Box<Self>, _keepalive: std::time::Duration) -> Opening {
        Box::pin(async { Ok((Box::new(self.0) as BoxIo).into()) })
    }
}

// === impl ToNode ===

impl Dial for ToNode {
    fn dial<'a>(&'a self, _: &'a HostPort) -> Dialing<'a> {
        Box::pin(async {
            let (ours, theirs) = duplex(WINDOW_BYTES);
            tokio::task::spawn_local(serve(theirs, self.value_bytes));
            Ok(Box::new(ours) as BoxIo)
        })
    }
}
