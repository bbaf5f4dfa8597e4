//! What the clients do: one table.

/// One line of `--workload`.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// Heading of its table.
    pub(super) title: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// redis-benchmark.
    Requests(Requests),
    /// Clients that are connected and silent: memory.
    Idle,
    /// Values of 512 MiB: memory.
    Through,
    /// Small requests beside a client that asks for much: latency.
    Fairness,
    /// Small requests beside many clients that read nothing: memory, and latency.
    Unread,
}

/// The parameters of one redis-benchmark run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requests {
    /// redis-benchmark's name of the test (`-t`).
    pub(super) test: &'static str,
    /// Parallel clients (`-c`).
    pub(super) clients: u32,
    /// Requests sent at once by each (`-P`).
    pub(super) pipeline: u32,
    /// Bytes of the value written or read (`-d`).
    pub(super) value_bytes: usize,
    /// Whether a connection serves more than one request (`-k`).
    pub(super) keep_alive: bool,
    /// What the clients speak; behind the front all is plain.
    pub(super) transport: Transport,
    /// Clients that send SET meanwhile, each about as often as the others send theirs.
    pub(super) writers: u32,
}

/// How clients reach a front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Plain,
    /// TLS 1.3, the same cipher for all.
    Tls,
}

/// All workloads, in the order in which they run.
pub(super) const ALL: &[Workload] = &[
    workload("get", "GET 16 B, 50 clients", get()),
    workload("set", "SET 16 B, 50 clients", set()),
    workload("get-c1", "GET 16 B, 1 client", get().clients(1)),
    workload("set-c1", "SET 16 B, 1 client", set().clients(1)),
    workload("get-c8", "GET 16 B, 8 clients", get().clients(8)),
    workload("set-c8", "SET 16 B, 8 clients", set().clients(8)),
    workload("get-c500", "GET 16 B, 500 clients", get().clients(500)),
    workload("set-c500", "SET 16 B, 500 clients", set().clients(500)),
    workload(
        "get-p16",
        "GET 16 B, 50 clients, pipelines of 16",
        get().pipeline(16),
    ),
    workload(
        "set-p16",
        "SET 16 B, 50 clients, pipelines of 16",
        set().pipeline(16),
    ),
    workload(
        "get-p100",
        "GET 16 B, 50 clients, pipelines of 100",
        get().pipeline(100),
    ),
    workload(
        "set-p100",
        "SET 16 B, 50 clients, pipelines of 100",
        set().pipeline(100),
    ),
    workload("get-1k", "GET 1 KiB, 50 clients", get().value_bytes(1 << 10)),
    workload("set-1k", "SET 1 KiB, 50 clients", set().value_bytes(1 << 10)),
    workload("get-64k", "GET 64 KiB, 50 clients", get().value_bytes(64 << 10)),
    workload("set-64k", "SET 64 KiB, 50 clients", set().value_bytes(64 << 10)),
    workload("get-1m", "GET 1 MiB, 50 clients", get().value_bytes(1 << 20)),
    workload("set-1m", "SET 1 MiB, 50 clients", set().value_bytes(1 << 20)),
    workload(
        "mset",
        "MSET of 10 keys, 16 B each, 50 clients",
        Requests {
            test: "mset",
            ..set()
        },
    ),
    workload(
        "churn",
        "GET 16 B, 50 clients, a connection for each request",
        get().reconnecting(),
    ),
    workload("get-tls", "GET 16 B, 50 clients, TLS", get().tls()),
    workload("set-tls", "SET 16 B, 50 clients, TLS", set().tls()),
    workload(
        "mixed",
        "GET of 45 clients and SET of 5, 16 B: nine reads to a write",
        Requests {
            clients: 45,
            writers: 5,
            ..get()
        },
    ),
    Workload {
        name: "idle",
        title: "idle clients",
        kind: Kind::Idle,
    },
    Workload {
        name: "through",
        title: "values of 512 MiB",
        kind: Kind::Through,
    },
    Workload {
        name: "fairness",
        title: "small requests beside a client that asks for much",
        kind: Kind::Fairness,
    },
    Workload {
        name: "unread",
        title: "small requests beside 1,000 clients that read nothing",
        kind: Kind::Unread,
    },
];

const fn workload(name: &'static str, title: &'static str, requests: Requests) -> Workload {
    Workload {
        name,
        title,
        kind: Kind::Requests(requests),
    }
}

const fn get() -> Requests {
    Requests {
        test: "get",
        clients: 50,
        pipeline: 1,
        value_bytes: 16,
        keep_alive: true,
        transport: Transport::Plain,
        writers: 0,
    }
}

const fn set() -> Requests {
    Requests { test: "set", ..get() }
}

// === impl Requests ===

impl Requests {
    const fn clients(self, clients: u32) -> Self {
        Self { clients, ..self }
    }

    const fn pipeline(self, pipeline: u32) -> Self {
        Self { pipeline, ..self }
    }

    const fn value_bytes(self, value_bytes: usize) -> Self {
        Self { value_bytes, ..self }
    }

    const fn tls(self) -> Self {
        Self {
            transport: Transport::Tls,
            ..self
        }
    }

    const fn reconnecting(self) -> Self {
        Self {
            keep_alive: false,
            ..self
        }
    }

    /// Of `count` requests those that the writers send.
    pub(super) fn writes_among(&self, count: u64) -> u64 {
        count * u64::from(self.writers) / u64::from(self.clients + self.writers)
    }

    /// Requests of the warm-up, from whose speed the length of a measurement follows: some tenths of a second of work.
    pub(super) fn warm_up(&self) -> u64 {
        let by_size = match self.value_bytes {
            0..=4096 => 20_000,
            4097..=100_000 => 4_000,
            _ => 300,
        };
        let by_speed = if self.clients == 1 || !self.keep_alive {
            by_size / 4
        } else {
            by_size
        };
        by_speed * u64::from(self.pipeline)
    }
}
